"""From a finished run to its model: kept, found, exported, sampled from."""

import hashlib
import json
import shutil
import socket

import pytest
import torch
from typer.testing import CliRunner

from isoflop.__main__ import app
from isoflop.experiments.config import DataSpec, ExperimentConfig, ScheduleSpec, StudySpec, WhereSpec, WindowSpec
from isoflop.experiments.data.tokenizer import Library, Numbers, TokenizerError, find_tokenizer
from isoflop.experiments.finished.card import card, export
from isoflop.experiments.store.models import Trained, find_trained, weights_file
from isoflop.experiments.store.store import StoreError, create_store
from isoflop.experiments.sweep import train_job as sweep
from isoflop.experiments.sweep.launch import load
from isoflop.experiments.training.evaluate import evaluate
from isoflop.models.export import read_folder
from isoflop.models.generate import Sampling
from isoflop.models.step.training_step import choose
from tests.support.texts import write_texts

PROMPT = "1 and \u00e9 "


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """Three small cells on a corpus of a dozen files, two sharing a trunk."""
    root = tmp_path_factory.mktemp("trained")
    text = write_texts(root / "text")
    return ExperimentConfig(
        data=DataSpec(name="t", source="files", files=[f"{text}/*.txt"], eval_tokens=512, held_out_fraction=0.3),
        schedule=ScheduleSpec(warmup_steps=3),
        study=StudySpec(name="tiny", sizes=["d6", "lstm-d20"], budgets=[2e8, 4e8], window=WindowSpec(min_steps=1)),
        where=WhereSpec(corpora=str(root / "corpora")),
        runs=str(root / "runs"),
    )


@pytest.fixture(scope="module")
def runs(spec):
    """The store with every cell trained, and the cells by size."""
    study, corpora = load(spec)
    store = create_store(spec.runs)
    for cells in study.trunks.values():
        sweep.train_claimed(sweep.work_of(study, cells, spec.where), corpora, store, spec.where)
    return store, corpora, {cell.size: cell for cell in study.cells}


@pytest.fixture(scope="module", params=["d6", "lstm-d20"])
def trained(runs, request):
    store, _, cells = runs
    return find_trained(store, cells[request.param].run_id)


def test_the_kept_model_has_the_loss_of_its_row(runs, spec, trained):
    windows = torch.from_numpy(runs[1](spec.data).eval_windows.astype("int64"))
    assert evaluate(choose(trained.model), windows).loss == pytest.approx(trained.final["loss"], abs=1e-6)


@pytest.mark.slow
def test_same_cell_same_bytes(runs, spec, tmp_path):
    store, corpora, cells = runs
    study, _ = load(spec)
    again = create_store(tmp_path / "again")
    group = next(group for group in study.trunks.values() if cells["d6"] in group)
    sweep.train_claimed(sweep.work_of(study, group, spec.where), corpora, again, spec.where)
    for cell in group:
        first, second = (hashlib.sha256(weights_file(s, cell.run_id).read_bytes()) for s in (store, again))
        assert first.hexdigest() == second.hexdigest()
    folders = [export(find_trained(store, group[0].run_id), tmp_path / name) for name in "ab"]
    assert all((folders[1] / f.name).read_bytes() == f.read_bytes() for f in folders[0].iterdir())


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
def test_the_export_is_the_model_and_says_where_it_comes_from(trained, tmp_path):
    folder = export(trained, tmp_path / "out")
    x = torch.randint(0, 256, (3, 40))
    script = folder / "model.pt"
    other = torch.jit.load(script) if script.exists() else read_folder(folder)
    assert script.exists() == (trained.final["family"] == "lstm")
    with torch.no_grad():
        torch.testing.assert_close(other(x), trained.model(x), atol=1e-5, rtol=0)
    reported = json.loads((folder / "isoflop.json").read_text())
    assert reported["run"]["run_id"] == trained.run_id
    assert reported["config"]["what"]["steps"] == reported["run"]["step"]
    message = (folder / "README.md").read_text()
    assert f"{trained.final['loss']:.4f} +- " in message
    assert trained.final["corpus_id"] in message
    assert "2 runs like this one, 12 are needed" in message


def test_the_card_quotes_the_law_of_enough_runs(trained, study_table, monkeypatch):
    like = {name: trained.final[name] for name in ("family", "arm", "corpus_id", "eval_id", "optimizer")}
    like |= {name: trained.final[name] for name in ("parametrization", "schedule")}
    table = study_table.assign(**like)
    monkeypatch.setattr("isoflop.experiments.finished.card.read_runs", lambda root: table)
    found = Trained(trained.store, table.loc[table["final"], "run_id"].iloc[-1])
    found.__dict__.update(final=trained.final, config=trained.config, model=trained.model)
    assert "Chinchilla(" in card(found)
    loss = table.loc[table["final"], "loss"].iloc[-1]
    quoted = float(card(found).split("runs); ")[1].split(" nats")[0])
    assert quoted == pytest.approx(loss, rel=0.03)


@pytest.mark.slow
def test_pieces_of_text_are_whole_characters_and_make_the_text(trained):
    sampling = Sampling(seed=5, temperature=3.0)
    pieces = list(trained.generate(PROMPT, max_tokens=120, sampling=sampling))
    assert "".join(pieces) == "".join(trained.generate(PROMPT, max_tokens=120, sampling=sampling, cached=False))
    assert len(pieces) > 20


def cli(*arguments):
    """(exit code, output) of the command line, with `main`'s treatment of errors left out."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    return result.exception if isinstance(result.exception, ValueError) else result.output


@pytest.mark.slow
def test_the_command_line_generates_greedily_the_same_text(runs, trained):
    options = ["generate", trained.run_id[:8], "--runs", runs[0].root, "--prompt", PROMPT, "--max-tokens", 30]
    greedy = cli(*options, "--temperature", 0)
    assert greedy.startswith(PROMPT)
    assert len(greedy) > len(PROMPT) + 20
    assert greedy == cli(*options, "--temperature", 0) == cli(*options, "--temperature", 0, "--no-cache")
    assert cli(*options, "--seed", 1) == cli(*options, "--seed", 1) != cli(*options, "--seed", 2)
    assert "more than the context of 64" in str(cli(*options[:4], "--prompt", "x" * 65))
    assert "prompt is empty" in str(cli(*options[:4], "--prompt", ""))


def test_runs_without_a_final_model_are_refused(runs, tmp_path):
    store, _, cells = runs
    run_id = cells["d6"].run_id
    with pytest.raises(StoreError, match=f"did you mean {run_id}"):
        find_trained(store, run_id[:-1] + "z")
    with pytest.raises(StoreError, match="begins 4 runs"):
        find_trained(store, "")
    other = create_store(tmp_path / "other")
    other.record("abc", "failed", trunk_id="t")
    with pytest.raises(StoreError, match="abc is failed, not done"):
        find_trained(other, "abc")
    other.record("abc", "done", trunk_id="t")
    with pytest.raises(StoreError, match="abc kept no weights"):
        find_trained(other, "abc")
    assert "abc kept no weights" in str(cli("export", "abc", "--runs", other.root, "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_numbers_are_the_text_of_a_source_without_text():
    assert Numbers(9).encode("3 0 8") == [3, 0, 8]
    assert Numbers(9).decode([3, 0, 8]) == "3 0 8"
    with pytest.raises(TokenizerError, match="'9' is not a token; write numbers from 0 to 8"):
        Numbers(9).encode("1 9")


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(tmp_path):
    own = Library(Numbers(9).json())
    (tmp_path / f"{own.tokenizer_id}.json").write_text(own.text)
    assert find_tokenizer(own.tokenizer_id, 9, tmp_path).encode("3 8") == [3, 8]
    with pytest.raises(TokenizerError, match="has 9 tokens, the model 10"):
        find_tokenizer(own.tokenizer_id, 10, tmp_path)
    with pytest.raises(TokenizerError, match="no such file"):
        find_tokenizer("tokenizer-0", 9, tmp_path)
    with pytest.raises(TokenizerError, match=r"not a tokenizer\.json"):
        Library("{}").encode("x")


@pytest.mark.slow
def test_serve_listens_on_this_machine_alone_and_prints_the_gpu_command(runs, monkeypatch):
    store, _, cells = runs
    run_id, requested = cells["d6"].run_id, {}
    monkeypatch.setattr(
        "isoflop.experiments.finished.serve.check", lambda host, port: requested.update(host=host, port=port)
    )
    monkeypatch.setattr(
        "isoflop.experiments.finished.serve.serve", lambda folder, **options: requested.update(folder=folder, **options)
    )
    message = cli("serve", run_id, "--runs", store.root)
    folder = store.root / "exports" / run_id
    assert requested == {"host": "127.0.0.1", "port": 8000, "folder": folder, "device": "cpu"}
    assert f"vllm serve {folder} --served-model-name {run_id} --dtype float32 --host 127.0.0.1 --port 8000" in message
    assert f"http://127.0.0.1:8000/v1/completions  model: {run_id}" in message
    assert (folder / "config.json").exists()
    assert "isoflop generate" in str(cli("serve", cells["lstm-d20"].run_id, "--runs", store.root))


def test_a_port_in_use_is_told_before_anything_is_exported(runs):
    store, _, cells = runs
    shutil.rmtree(store.root / "exports", ignore_errors=True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        message = cli("serve", cells["d6"].run_id, "--runs", store.root, "--port", taken.getsockname()[1])
    assert "choose another --port" in str(message)
    assert not (store.root / "exports").exists()


@pytest.mark.parametrize("state", ["planned", "running", "diverged", "failed", "lost"])
def test_an_unfinished_run_is_neither_exported_nor_sampled_nor_served(tmp_path, state, monkeypatch):
    monkeypatch.setattr("isoflop.experiments.finished.serve.check", lambda host, port: None)
    store = create_store(tmp_path / "runs")
    store.record("abc", state, trunk_id="t")
    message = "lost" if state == "running" else state  # nobody is at work on it
    for command in (
        ["export", "abc", "--out", tmp_path / "out"],
        ["generate", "abc"],
        ["serve", "abc"],
        ["evaluate", "abc"],
    ):
        assert f"abc is {message}, not done" in str(cli(*command, "--runs", store.root))
    assert not (tmp_path / "out").exists()
    assert not (store.root / "exports").exists()


@pytest.mark.slow
def test_an_export_says_how_it_generates(trained, tmp_path):
    import transformers

    folder = export(trained, tmp_path / "out")
    if trained.final["family"] == "lstm":  # TorchScript has no place for it
        assert not (folder / "generation_config.json").exists()
        return
    config = transformers.GenerationConfig.from_pretrained(folder)
    assert (config.do_sample, config.temperature, config.top_k, config.top_p) == (True, 1.0, 0, 1.0)
