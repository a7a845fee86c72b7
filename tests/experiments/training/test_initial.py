"""Fine-tuning: a run that begins from another's weights, from an export of it, or from what transformers saved."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from isoflop.__main__ import app
from isoflop.experiments.config import BudgetSpec, DataSpec, ExperimentConfig, ModelSpec, ScheduleSpec, WhereSpec
from isoflop.experiments.finished.card import export
from isoflop.experiments.store.models import find_trained, weights_file
from isoflop.experiments.store.store import create_store
from isoflop.experiments.sweep.launch import load
from isoflop.experiments.sweep.train_job import train_claimed, work_of
from isoflop.experiments.training.evaluate import evaluate
from isoflop.experiments.training.initial import InitError, start
from isoflop.experiments.training.learner import Learner
from isoflop.models.export import read_folder
from isoflop.models.step.training_step import choose
from isoflop.scaling.table.runs import read_config, read_runs

SHAPE = {"n_layer": 2, "d_model": 16, "n_head": 2}


def write_texts(folder, alphabet):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        (folder / f"{i}.txt").write_text("".join(rng.choice(list(alphabet), p=[0.6, 0.3, 0.1], size=3000)))
    return [f"{folder}/*.txt"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("initial")


@pytest.fixture(scope="module")
def spec(root):
    """A cell of 150 steps on texts of three letters; `of(...)` changes it."""
    old, new = write_texts(root / "old", "abc"), write_texts(root / "new", "cba")

    def of(*, text="old", init_from="random", model=SHAPE, steps=150, runs="runs", **data):
        files = {"old": old, "new": new}[text]
        return ExperimentConfig(
            model=ModelSpec(**model),
            data=DataSpec(
                name=text, source="files", files=files, eval_tokens=1024, held_out_fraction=0.3, max_epochs=1e3,
                **{"context_length": 32} | data,
            ),
            schedule=ScheduleSpec(warmup_steps=3),
            budget=BudgetSpec(tokens=steps * 8 * data.get("context_length", 32)),
            init_from=init_from,
            runs=str(root / runs),
            where=WhereSpec(corpora=str(root / "corpora")),
        )  # fmt: skip

    return of


def train(spec):
    """The finished run of a single cell, and the corpus it read."""
    study, corpora = load(spec)
    (cell,) = study.cells
    store = create_store(spec.runs)
    train_claimed(work_of(study, [cell], spec.where), corpora, store, spec.where)
    return find_trained(store, cell.run_id), corpora(cell.data)


@pytest.fixture(scope="module")
def parent(spec):
    return train(spec())[0]


def windows(corpus):
    return torch.from_numpy(corpus.eval_windows.astype("int64"))


def same_weights(a, b):
    pairs = zip(a.named_parameters(), b.named_parameters(), strict=True)
    return all(torch.equal(one, other) for (_, one), (_, other) in pairs)


def test_random_is_the_default_and_leaves_no_trace_in_the_identity(spec):
    (cell,) = load(spec())[0].cells
    assert cell.initial is None
    assert "initial" not in cell.what()


@pytest.mark.slow
@pytest.mark.parametrize("named", ["id", "folder"])
def test_a_fine_tuned_run_starts_at_its_parents_loss_and_learns_the_new_text(spec, parent, named):
    init_from = parent.run_id[:8] if named == "id" else str(weights_file(parent.store, parent.run_id).parent)
    study, corpora = load(spec(text="new", init_from=init_from))
    (cell,) = study.cells
    corpus = corpora(cell.data)
    learner = Learner(cell, corpus, "cpu")
    before = learner.measure(cell.steps, windows=learner.windows).loss
    assert before == evaluate(choose(parent.model), windows(corpus)).loss
    child, _ = train(spec(text="new", init_from=init_from))
    assert child.final["loss"] < before - 0.1
    assert not same_weights(child.model, parent.model)


@pytest.mark.slow
def test_on_the_parents_own_text_it_goes_on_where_the_parent_ended(spec, parent):
    (cell,) = load(spec(init_from=parent.run_id))[0].cells
    child, corpus = train(spec(init_from=parent.run_id))
    assert evaluate(choose(start(cell)), windows(corpus)).loss == pytest.approx(parent.final["loss"], abs=1e-9)
    first = read_runs(child.store.run_file(child.run_id)).iloc[0]
    assert first["loss"] < parent.final["loss"] + 0.05  # a fresh run is far above here


@pytest.mark.slow
def test_the_parent_is_recorded_and_its_weights_are_part_of_the_identity(spec, parent, root):
    child, _ = train(spec(init_from=parent.run_id))
    config = read_config(child.store.run_file(child.run_id))
    assert config["parent"]["run_id"] == parent.run_id
    assert (child.final["arm"], parent.final["arm"]) == (f"from {parent.run_id}", "")
    (cell,) = load(spec(init_from=parent.run_id))[0].cells
    assert config["what"]["initial"] == cell.what()["initial"] == cell.initial.digest
    other, _ = train(spec(steps=120, runs="other"))
    ids = {load(spec(init_from=name))[0].cells[0].run_id for name in ("random", parent.run_id)}
    folder = str(weights_file(other.store, other.run_id).parent)
    assert len(ids | {load(spec(init_from=folder))[0].cells[0].run_id}) == 3
    assert f"`{parent.run_id}`" in (export(child, root / "card") / "README.md").read_text()


def test_an_export_comes_back_to_the_bit(spec, parent, root):
    folder = export(parent, root / "export")
    (cell,) = load(spec(init_from=str(folder)))[0].cells
    assert same_weights(start(cell), parent.model)
    assert cell.initial.parent == parent.run_id


@pytest.mark.slow
def test_what_transformers_saves_is_a_beginning_too(spec, parent, root):
    import transformers

    ours = export(parent, root / "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(ours, local_files_only=True)
    theirs.save_pretrained(root / "theirs")
    (root / "theirs" / "tokenizer.json").write_text((ours / "tokenizer.json").read_text(), encoding="utf-8")
    (cell,) = load(spec(init_from=str(root / "theirs")))[0].cells
    assert same_weights(start(cell), parent.model)
    assert cell.initial.parent == ""
    child, _ = train(spec(init_from=str(root / "theirs"), steps=60))
    assert same_weights(read_folder(export(child, root / "back")), child.model)


def test_a_shorter_context_may_begin_from_a_longer_one(spec, parent):
    (cell,) = load(spec(init_from=parent.run_id, context_length=16))[0].cells
    assert start(cell).config.context_length == 16


def refusal(spec):
    with pytest.raises(InitError) as caught:
        load(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_shape_is_refused_with_both_and_the_remedy(spec, parent):
    message = refusal(spec(init_from=parent.run_id, model=SHAPE | {"n_layer": 3, "d_model": 24}))
    assert "n_layer 2, the cell's 3, d_model 16, the cell's 24" in message
    assert "use model.n_layer=2 model.d_model=16" in message


def test_another_tokenizer_or_vocabulary_is_refused_with_both(spec, parent):
    message = refusal(spec(init_from=parent.run_id, tokenizer="bpe", vocab_size=260))
    assert "has tokenizer bytes, corpus old has tokenizer-" in message
    assert "use data.tokenizer=bytes" in message


def test_another_vocabulary_is_refused_with_both(spec, parent, root):
    folder = export(parent, root / "spoilt")
    text = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(text))  # the same tokenizer in other words: another id
    tokenizer = str(folder / "tokenizer.json")
    text["model"]["vocab"]["extra"] = 256
    (folder / "tokenizer.json").write_text(json.dumps(text))
    assert "vocab_size 256, the cell's 257" in refusal(spec(init_from=str(folder), tokenizer=tokenizer))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "is no folder, and as a run: .* no run"),
        (lambda folder: folder.mkdir(), "no .safetensors in this folder"),
        (lambda folder: (folder.mkdir(), (folder / "model.safetensors").write_bytes(b"x" * 50)), "not a whole safet"),
    ],
)
def test_what_is_no_model_is_refused(spec, parent, tmp_path, make, message):
    make(tmp_path / "nothing")
    with pytest.raises(InitError, match=message):
        load(spec(init_from=str(tmp_path / "nothing")))


def test_a_folder_without_tokenizer_is_refused(spec, parent, root):
    folder = export(parent, root / "mute")
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer.json in it" in refusal(spec(init_from=str(folder)))


@pytest.mark.slow
def test_the_command_line_refuses_before_anything_trains(spec, parent, root):
    made = spec()
    result = CliRunner().invoke(app, [
        "run", "model=d24", "data=text", f"data.files={made.data.files}", "budget.tokens=50000",
        f"init_from={parent.run_id}", f"runs={made.runs}", f"where.corpora={made.where.corpora}",
        "data.context_length=32", "data.max_epochs=9", "data.held_out_fraction=0.3",
    ])  # fmt: skip
    assert result.exit_code != 0
    assert isinstance(result.exception, InitError)
    assert "d_model 16, the cell's 24" in str(result.exception)
