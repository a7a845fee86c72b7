"""An exported model is read by transformers to the same logits, and read back to the same bits."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from isoflop import models
from isoflop.experiments.data.tokenizer import Bytes, Numbers
from isoflop.models import build_model
from isoflop.models.config import ModelConfig
from isoflop.models.export import llama_config, padding_token, read_folder, write_folder
from isoflop.models.parametrization import initialize
from isoflop.models.weights import WeightsError, load_weights, save_weights

TEXT = "na\u00efve \u65e5\u672c\u8a9e \n\t  \u20ac\U0001f642 def f(x):\r\n  return x\x00y  <|end|> "

SCRIPTED = {
    "lstm": {"family": "lstm"},
    "tied lstm": {"family": "lstm", "tied": True},
    "gpt2": {"family": "transformer", "norm": "layernorm", "activation": "gelu", "positions": "learned"},
    "tied gpt2": {"family": "transformer", "norm": "layernorm", "positions": "learned", "tied": True},
    "layernorm": {"family": "transformer", "norm": "layernorm"},
    "gelu": {"family": "transformer", "activation": "gelu"},
    "learned": {"family": "transformer", "positions": "learned"},
    "experts": {"family": "transformer", "experts": 4, "experts_per_token": 2},
    "rounded": {"family": "transformer", "weight_bits": 4, "activation_bits": 4},
    "gelu experts": {"family": "transformer", "experts": 3, "experts_per_token": 1, "activation": "gelu"},
}


def random_model(*, tied=False, vocab_size=256):
    model = initialize(build_model(ModelConfig("transformer", vocab_size, 48, 2, 32, 2, tied=tied)), 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():  # gains and head too: the initial ones would hide a swap
            if parameter.dim() == 1 or parameter is model.head:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def write(model, folder, tokenizer=None):
    write_folder(model, folder, tokenizer=tokenizer or Bytes().json(), card="# a model\n", provenance={"run_id": "x"})
    return folder


def tokens(model, rows=3):
    return torch.randint(0, model.config.vocab_size, (rows, model.config.context_length))


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_transformers_computes_the_same_logits(tmp_path, tied):
    import transformers

    model = random_model(tied=tied)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(write(model, tmp_path / "out"), local_files_only=True)
    assert type(theirs).__name__ == "LlamaForCausalLM"
    x = tokens(model)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x).logits, model(x), atol=1e-4, rtol=0)


def test_byte_tokenizer_returns_any_text_to_the_byte(tmp_path):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(write(random_model(), tmp_path / "out"))
    ids = tokenizer(TEXT).input_ids
    assert ids == list(TEXT.encode())
    assert tokenizer.decode(ids) == TEXT
    assert tokenizer.model_max_length == 48
    chat = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == "user: hi\nassistant: "


def folders_in(path):
    """Whether a file, or a part of one that is packed, names a folder of this machine."""
    parts = [path.read_bytes()]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            parts += map(packed.read, packed.namelist())
    here = [str(Path(module.__file__).parent).encode() for module in (torch, models)]
    return any(folder in part for folder in here for part in parts)


def own_special(vocabulary):
    """A byte-level tokenizer with tokens of its own for the end of a text and for padding."""
    about = json.loads(Bytes().json())
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    about["added_tokens"] = [{"id": 256 + i, "content": content, **added} for i, content in enumerate(vocabulary)]
    return json.dumps(about)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("added", "name", "number"),
    [((), "\u00ff", 255), (("<|endoftext|>",), "<|endoftext|>", 256), (("<s>", "<pad>", "</s>"), "<pad>", 257)],
)
def test_a_batch_of_prompts_of_unequal_length_has_the_logits_of_each_alone(tmp_path, added, name, number):
    import transformers

    model = random_model(vocab_size=256 + len(added))
    folder = write(model, tmp_path / "out", own_special(added) if added else None)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    prompts = ["a", "na\u00efve \u00ff\u0100", "a longer prompt, \u65e5\u672c"]
    batch = tokenizer(prompts, padding=True, return_tensors="pt")
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == (name, number)
    assert batch.attention_mask.sum(1).tolist() == [len(prompt.encode()) for prompt in prompts]
    with torch.no_grad():
        place = (batch.attention_mask.cumsum(1) - 1).clamp(min=0)
        logits = theirs(**batch, position_ids=place).logits
        written = theirs.generate(**batch, max_new_tokens=8, do_sample=False)
        for row, prompt in enumerate(prompts):
            ids = torch.tensor([list(prompt.encode())])
            torch.testing.assert_close(logits[row, -ids.shape[1] :], model(ids)[0], atol=1e-4, rtol=0)
            alone = theirs.generate(ids, max_new_tokens=8, do_sample=False, attention_mask=torch.ones_like(ids))
            assert written[row, -8:].tolist() == alone[0, -8:].tolist()


@pytest.mark.slow
def test_the_padding_of_bytes_is_a_byte_that_no_text_has():
    assert padding_token(Bytes().json()) == ("\u00ff", 255)
    every_text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)])).encode()
    assert {255, 0} - set(every_text) == {255}
    assert padding_token(Numbers(64).json()) is None


def test_text_with_the_letter_that_names_the_padding_is_tokenized_as_before(tmp_path):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(write(random_model(), tmp_path / "out"))
    for text in ("\u00ff", "a\u00ffb", "\u00ff\u00ff \u00ff", "L'Ha\u00ff-les-Roses \u0100"):
        assert tokenizer(text).input_ids == list(text.encode())
        assert tokenizer.backend_tokenizer.encode(text).ids == list(text.encode())
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_number_tokenizer_names_tokens_by_their_number():
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_str(Numbers(64).json())
    assert tokenizer.encode("3 63 0 3").ids == [3, 63, 0, 3]
    assert tokenizer.decode([3, 63, 0]) == "3 63 0"


@pytest.mark.parametrize("tied", [False, True])
def test_folder_and_file_come_back_to_the_bit(tmp_path, tied):
    model = random_model(tied=tied)
    save_weights(model, tmp_path / "model.safetensors", {"run_id": "x"})
    from_file, about = load_weights(tmp_path / "model.safetensors")
    assert about == {"run_id": "x"}
    for other in (from_file, read_folder(write(model, tmp_path / "out"))):
        assert other.config == model.config
        for (name, own), (_, theirs) in zip(model.named_parameters(), other.named_parameters(), strict=True):
            assert torch.equal(own, theirs), name


def test_reads_what_transformers_saves(tmp_path):
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=32, rms_norm_eps=1e-5,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    model = read_folder(tmp_path / "theirs")
    x = tokens(model)
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs(x).logits, atol=1e-4, rtol=0)


def test_what_a_configuration_leaves_out_is_what_transformers_takes(tmp_path):
    folder = write(random_model(), tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    del config["rms_norm_eps"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError) as refused:
        read_folder(folder)
    assert str(refused.value).count("config.json") == 1
    assert "rms_norm_eps is 1e-06 where the file does not say; this decoder has 1e-05" in str(refused.value)
    for other in ("hidden_act", "rope_theta", "attention_bias"):  # as this decoder has them
        folder = write(random_model(), tmp_path / other)
        config = json.loads((folder / "config.json").read_text())
        config.pop(other, None)
        (folder / "config.json").write_text(json.dumps(config))
        read_folder(folder)


def test_same_model_same_bytes_and_an_export_may_be_replaced(tmp_path):
    model = random_model()
    first = {p.name: p.read_bytes() for p in write(model, tmp_path / "a").iterdir()}
    second = {p.name: p.read_bytes() for p in write(random_model(), tmp_path / "b").iterdir()}
    assert first == second
    write(random_model(tied=True), tmp_path / "a")
    assert json.loads((tmp_path / "a/config.json").read_text())["tie_word_embeddings"] is True
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="not an export"):
        write(random_model(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def damage(folder, change):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; this decoder has 'llama'"),
        ({"num_key_value_heads": 1}, "num_key_value_heads is 1; this decoder has 2"),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3"}}, "rope_parameters"),
        ({"intermediate_size": 40}, r"down has shape \(32, 88\), the model's is \(32, 40\)"),
        ({"num_hidden_layers": 3}, "no tensor model.layers.2.input_layernorm.weight"),
        ({"num_hidden_layers": 1}, "tensor model.layers.1.input_layernorm.weight has no place"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(tmp_path, change, message):
    folder = write(random_model(), tmp_path / "out")
    damage(folder, change)
    with pytest.raises(WeightsError, match=message):
        read_folder(folder)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    folder = write(random_model(), tmp_path / "out")
    weights = folder / "model.safetensors"
    with pytest.raises(WeightsError, match="not a model that isoflop saved"):
        load_weights(weights)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        read_folder(folder)
    with pytest.raises(WeightsError, match=r"no config\.json"):
        read_folder(tmp_path)


def test_shards_are_read_together(tmp_path):
    model = random_model()
    folder = write(model, tmp_path / "out")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    for i, part in enumerate((names[:7], names[7:])):
        save_file({name: tensors[name] for name in part}, folder / f"model-0000{i + 1}-of-00002.safetensors")
    x = tokens(model)
    assert torch.equal(read_folder(folder)(x), model(x))
    shutil.rmtree(folder)


def test_config_counts_what_the_model_has():
    model = random_model()
    reported = llama_config(model.config)
    assert reported["hidden_size"] * reported["intermediate_size"] * 3 == sum(
        p.numel() for name, p in model.blocks[0].named_parameters() if name in ("gate_up", "down")
    )


def model_of_parts(parts):
    model = initialize(
        build_model(ModelConfig(vocab_size=256, context_length=32, n_layer=2, d_model=16, n_head=2, **parts)), 0
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():  # what starts at zero or one would hide a mistake
            if parameter.dim() == 1 or parameter is model.head:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
@pytest.mark.parametrize("parts", SCRIPTED.values(), ids=SCRIPTED)
def test_torchscript_computes_the_same_logits_at_every_shape_of_input(tmp_path, parts):
    model = model_of_parts(parts)
    write_folder(model, tmp_path / "out", tokenizer=Bytes().json(), card="# x\n", provenance={"run_id": "x"})
    script = torch.jit.load(tmp_path / "out" / "model.pt")
    generator = torch.Generator().manual_seed(2)
    for rows, length in ((1, 1), (3, 7), (2, 32)):
        tokens = torch.randint(0, 256, (rows, length), generator=generator)
        with torch.no_grad():
            torch.testing.assert_close(script(tokens), model(tokens), atol=1e-4, rtol=0)
    assert [path.name for path in (tmp_path / "out").iterdir() if folders_in(path)] == []
    assert json.loads((tmp_path / "out" / "isoflop.json").read_text()) == {"run_id": "x"}
    assert json.loads((tmp_path / "out" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["type"] == "BPE"
