"""Folders that other tools read: a Hugging Face folder for what is a Llama, TorchScript for every other model.

The default Transformer is written under LlamaForCausalLM's names, with the files around the weights:

    model.safetensors  config.json  generation_config.json
    tokenizer.json  tokenizer_config.json  chat_template.jinja
    README.md  isoflop.json (the model card, and the same for machines)

What transformers has no class for, the recurrent model and the decoder with other parts, is written as

    model.pt  tokenizer.json  README.md  isoflop.json

where `torch.jit.load("model.pt")` maps token ids (B, T) to logits (B, T, V) without a line of isoflop. Reading takes
any Llama checkpoint whose details are this decoder's; others are refused with what differs.
"""

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor, nn

from isoflop.models.config import ModelConfig
from isoflop.models.language_model import LanguageModel
from isoflop.models.transformer import NORM_EPS, ROPE_THETA, Transformer
from isoflop.models.weights import WEIGHTS_FILE, WeightsError, checked_shape, fill, read_tensors, write_tensors
from isoflop.read_json import read_json

PROVENANCE_FILE = "isoflop.json"
SCRIPT_FILE = "model.pt"
WRITTEN = {
    WEIGHTS_FILE, SCRIPT_FILE, PROVENANCE_FILE, "README.md", "tokenizer.json", "config.json", "generation_config.json",
    "tokenizer_config.json", "chat_template.jinja",
}  # fmt: skip
CHAT_TEMPLATE = """\
{%- for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{ 'assistant: ' }}{%- endif %}"""
_BYTE_FF = "\u00ff"  # how byte-level tokenizers write the byte 0xFF
_EXPECTED = {  # config.json must agree where it has the key
    "model_type": "llama",
    "hidden_act": "silu",
    "rms_norm_eps": NORM_EPS,
    "attention_bias": False,
    "mlp_bias": False,
    "rope_theta": ROPE_THETA,
    "rope_scaling": None,
    "rope_parameters": {"rope_theta": ROPE_THETA, "rope_type": "default"},
}
_UNSAID = {"rms_norm_eps": 1e-6}  # what transformers takes where config.json has no such key


class _Llama(TypedDict):
    """What is read of a config.json."""

    vocab_size: int
    max_position_embeddings: int
    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    tie_word_embeddings: NotRequired[bool]


def write_folder(model: LanguageModel, folder: Path, *, tokenizer: str, card: str, provenance: Mapping) -> None:
    """Write the folder whole, replacing an earlier export; `tokenizer` is the text of its tokenizer.json.

    Raises ValueError for a folder that holds anything else.
    """
    texts = {"tokenizer.json": tokenizer, "README.md": card, PROVENANCE_FILE: json_text(provenance)}
    with replaced_folder(folder) as new:
        if isinstance(model, Transformer):
            write_tensors(dict(_to_llama(model)), new / WEIGHTS_FILE, {"format": "pt"})
            texts |= _llama_texts(model.config, tokenizer)
        else:
            _write_script(model, new / SCRIPT_FILE)
        for name, content in texts.items():
            (new / name).write_text(content, encoding="utf-8")


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` when the body has filled it; an error leaves what was there.

    Raises ValueError for a folder that holds anything but an earlier export.
    """
    folder = Path(os.path.abspath(folder))
    _check_replaceable(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_replaceable(folder: Path) -> None:
    """Raise ValueError unless `folder` is new, empty, or holds the files of an export and no other."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ValueError(f"{folder} exists and is not a folder; name a new folder")
    inside = sorted(folder.iterdir()) if folder.exists() else []
    if inside and not (folder / PROVENANCE_FILE).exists():
        raise ValueError(f"{folder} exists and is not an export (no {PROVENANCE_FILE} in it); name a new folder")
    for path in inside:
        if path.name not in WRITTEN or path.is_symlink() or not path.is_file():
            raise ValueError(
                f"{folder} holds {path.name!r}, which no export writes; move it away, or name a new folder"
            )


def read_folder(folder: Path) -> Transformer:
    """The model in a Hugging Face folder. Raises WeightsError naming what this decoder cannot do."""
    folder = Path(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsError(f"{folder}: no config.json; name a Hugging Face folder of a Llama model")
    llama = read_json(path, _Llama, error=WeightsError, remedy="name the folder of a Llama model")
    tensors: dict[str, Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors |= read_tensors(shard)[0]
    model = Transformer(checked_shape(lambda: _from_llama_config(llama), tensors, source=str(path)))
    fill(model, dict(_from_llama(tensors, model.config, source=str(folder))), source=str(folder))
    return model


def llama_config(config: ModelConfig) -> dict:
    """config.json, in the words of transformers 5 and of 4, which other tools still read."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_head,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": NORM_EPS,
        "rope_theta": ROPE_THETA,
        "rope_parameters": {"rope_theta": ROPE_THETA, "rope_type": "default"},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config.tied,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def padding_token(tokenizer: str) -> tuple[str, int] | None:
    """Name and id of a token that fills a batch of prompts, of a tokenizer.json: one that no text has. None without.

    That is one of its own special tokens, else the byte 0xFF of a byte-level vocabulary: UTF-8 has no such byte.
    """
    about = json.loads(tokenizer)
    special = [token for token in about.get("added_tokens") or () if token.get("special")]
    if special:
        name = next((s["content"] for word in ("pad", "end", "eos") for s in special if word in s["content"]), None)
        found = next((s for s in special if s["content"] == name), special[0])
        return str(found["content"]), int(found["id"])
    vocabulary = (about.get("model") or {}).get("vocab")
    if "ByteLevel" not in json.dumps(about.get("decoder")) or not isinstance(vocabulary, dict):
        return None
    return (_BYTE_FF, int(vocabulary[_BYTE_FF])) if _BYTE_FF in vocabulary else None


def _llama_texts(config: ModelConfig, tokenizer: str) -> dict[str, str]:
    tokenizer_config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.context_length,
        "clean_up_tokenization_spaces": False,
    }
    # sampled unless a request sets temperature 0: with do_sample false, servers ignore a temperature
    generation: dict[str, object] = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    if padding := padding_token(tokenizer):
        tokenizer_config |= {"pad_token": padding[0], "padding_side": "left"}
        generation["pad_token_id"] = padding[1]
        if padding[0] == _BYTE_FF:  # the letter of that name in a text is no padding
            tokenizer_config["split_special_tokens"] = True
    return {
        "config.json": json_text(llama_config(config)),
        "generation_config.json": json_text(generation),
        "tokenizer_config.json": json_text(tokenizer_config),
        "chat_template.jinja": CHAT_TEMPLATE,
    }


def _to_llama(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    yield "model.embed_tokens.weight", model.embedding
    yield "model.norm.weight", model.norm
    if not model.config.tied:
        yield "lm_head.weight", model.head
    for i, block in enumerate(model.blocks):
        for name, tensor in _block_to_llama(dict(block.named_parameters())).items():
            yield f"model.layers.{i}.{name}.weight", tensor


def _block_to_llama(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    q, k, v = own["qkv"].detach().chunk(3)
    gate, up = own["gate_up"].detach().chunk(2)
    return {
        "input_layernorm": own["attention_norm"],
        "self_attn.q_proj": q,
        "self_attn.k_proj": k,
        "self_attn.v_proj": v,
        "self_attn.o_proj": own["output"],
        "post_attention_layernorm": own["mlp_norm"],
        "mlp.gate_proj": gate,
        "mlp.up_proj": up,
        "mlp.down_proj": own["down"],
    }


class _WithoutCache(nn.Module):
    """The model as a function of the tokens alone, tied weights stored twice: a trace holds no cache and no sharing."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = deepcopy(model).eval()
        if model.config.tied:
            self.model.head = nn.Parameter(model.head.detach().clone())

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.model(tokens_BT)


def _write_script(model: LanguageModel, path: Path) -> None:
    example = torch.arange(2 * min(8, model.config.context_length)).view(2, -1) % model.config.vocab_size
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the check of the length is not traced, and the tracer's own deprecation
        traced = torch.jit.trace(_WithoutCache(model), example, check_trace=False)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            whole = Path(folder) / path.name
            traced.save(str(whole))
            _copy_script(whole, path)


def _copy_script(source: Path, path: Path) -> None:
    """The same TorchScript file without the places in source code, which name folders of this machine."""
    reader, writer = torch._C.PyTorchFileReader(str(source)), torch._C.PyTorchFileWriter(str(path))
    for name in reader.get_all_records():
        if not name.endswith(".debug_pkl") and name not in ("version", ".data/serialization_id"):  # the writer's own
            content = reader.get_record(name)
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()


def _from_llama_config(llama: Mapping[str, Any]) -> ModelConfig:
    expected = _EXPECTED | {"num_key_value_heads": llama.get("num_attention_heads")}
    expected["head_dim"] = llama["hidden_size"] // (llama["num_attention_heads"] or 1)
    for key, value in expected.items():
        found = llama.get(key, _UNSAID.get(key, value))
        if found not in (value, None):
            unsaid = "" if key in llama else " where the file does not say"
            raise WeightsError(f"{key} is {found!r}{unsaid}; this decoder has {value!r}")
    return ModelConfig(
        family="transformer",
        vocab_size=llama["vocab_size"],
        context_length=llama["max_position_embeddings"],
        n_layer=llama["num_hidden_layers"],
        d_model=llama["hidden_size"],
        n_head=llama["num_attention_heads"],
        d_ff=llama["intermediate_size"],
        tied=llama.get("tie_word_embeddings", False),
    )


def _from_llama(tensors: dict[str, Tensor], config: ModelConfig, *, source: str) -> Iterator[tuple[str, Tensor]]:
    left = dict(tensors)

    def take(name: str) -> Tensor:
        if name not in left:
            raise WeightsError(f"{source}: no tensor {name}, which this shape of Llama has")
        return left.pop(name)

    def layer(i: int, *names: str) -> Tensor:
        return torch.cat([take(f"model.layers.{i}.{name}.weight") for name in names])

    yield "embedding", take("model.embed_tokens.weight")
    yield "norm", take("model.norm.weight")
    if not config.tied:
        yield "head", take("lm_head.weight")
    for i in range(config.n_layer):
        yield f"blocks.{i}.attention_norm", layer(i, "input_layernorm")
        yield f"blocks.{i}.qkv", layer(i, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        yield f"blocks.{i}.output", layer(i, "self_attn.o_proj")
        yield f"blocks.{i}.mlp_norm", layer(i, "post_attention_layernorm")
        yield f"blocks.{i}.gate_up", layer(i, "mlp.gate_proj", "mlp.up_proj")
        yield f"blocks.{i}.down", layer(i, "mlp.down_proj")
    left.pop("lm_head.weight" if config.tied else "", None)  # some writers store a tied matrix twice
    yield from left.items()  # `fill` refuses these by name


def json_text(value: object) -> str:
    """JSON for people: indented, a line at the end."""
    return json.dumps(value, indent=2, default=_plain) + "\n"


def _plain(value: Any) -> object:
    """numpy's numbers as Python's."""
    return value.item()
