"""Every reader of a file that others may have written, each with a sound file to damage."""

import json
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from isoflop.experiments.config import DataSpec
from isoflop.experiments.cost import speed_file
from isoflop.experiments.data import corpus, records, token_files, tokenizer
from isoflop.experiments.data.tokenizer import Bytes
from isoflop.experiments.finished.bundle_check import check_bundle
from isoflop.experiments.store.store import Store, create_store, open_store
from isoflop.experiments.study.sizes import load_size
from isoflop.experiments.training.checkpoint import Checkpoints, file_name
from isoflop.models import build_model
from isoflop.models.config import ModelConfig
from isoflop.models.export import PROVENANCE_FILE, read_folder, write_folder
from isoflop.models.parametrization import initialize
from isoflop.models.weights import load_weights, read_about, save_weights
from isoflop.scaling.imports.assemble import ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.prediction.forecast import Target, forecast_loss
from isoflop.scaling.prediction.register import register, score
from isoflop.scaling.table.bundle.manifest import CONTENT, MANIFEST_FILE, seal
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.evaluation import NAMES, read_evaluation, write_evaluation
from isoflop.scaling.table.read import read_table
from isoflop.scaling.table.runs import read_config
from isoflop.scaling.table.task_scores import (
    ITEMS,
    ITEMS_FILE,
    SCORES,
    SCORES_FILE,
    read_items,
    read_scores,
    write_scores,
)
from tests.support.fits.simulated import BESIROGLU, isoflop_table
from tests.support.root import RESULTS
from tests.support.tables.shared import write_shared
from tests.support.texts import write_texts


@dataclass(frozen=True)
class Reader:
    """A door: the file that is damaged, of a folder of its own, and the function that reads that folder.

    `seal` renames or restates what must agree with the damaged bytes, as an attacker would.
    """

    name: str
    file: str
    read: Callable[[Path], object]
    seal: Callable[[Path], None] | None = None


def _table(name: str) -> Callable[[Path], object]:
    return lambda folder: points(read_table(folder / name))


def _imported(name: str) -> Callable[[Path], object]:
    options = ImportOptions(n_params={"": 1e8}, batch_tokens={"": 1e5})
    return lambda folder: import_source(folder / name, "auto", options, {})


def _documents(name: str) -> Callable[[Path], object]:
    from collections import Counter

    return lambda folder: list(records.documents(name, folder / name, column="text", skip_bad=False, skipped=Counter()))


def _runs(folder: Path) -> object:
    path = folder / "quick.parquet"
    return points(read_table(path)), read_config(path)


def _bundle(folder: Path) -> object:
    check_bundle(folder / "bundle")  # answers whatever was damaged, or names the folder
    return points(read_table(folder / "bundle"))


def _seal_bundle(folder: Path) -> None:
    path = folder / "bundle" / MANIFEST_FILE
    try:
        value = json.loads(path.read_bytes())
        path.write_text(json.dumps(value | {"seal": seal(value)}))
    except (ValueError, RecursionError, TypeError):
        pass


def _weights(folder: Path) -> object:
    path = folder / "model.safetensors"
    return load_weights(path), read_about(path)


def _tokenizer(folder: Path) -> object:
    return tokenizer.read_tokenizer(folder / "hf/tokenizer.json").encode("ab c")


def _tokens(folder: Path) -> object:
    return token_files.describe_sides([folder / "tokens.bin"], held_out_fraction=0.1, vocab_size=50)


def _checkpoint(folder: Path) -> object:
    return Checkpoints(folder / "trunk", 1e9).trunk(100)


def _seal_checkpoint(folder: Path) -> None:
    for path in (folder / "trunk").glob("trunk-*.pt"):
        os.replace(path, path.with_name(file_name("trunk", 3, of=path)))


def _store(folder: Path) -> Store:
    return open_store(folder / "runs")


def _states(folder: Path) -> object:
    store = _store(folder)
    launches = [store.read_launch(path.stem) for path in (store.root / "launches").glob("*.json")]
    return store.states(), store.studies(), launches


def _corpus(folder: Path) -> object:
    data = DataSpec(name="t", files=[str(folder / "text" / "*.txt")], context_length=16, eval_tokens=64)
    found = corpus.prepare(data, folder / "corpora")
    return corpus.manifest_text(found)


def _speed(folder: Path) -> object:
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    return speed_file.known_speed()


def _size(folder: Path) -> object:
    return load_size("mine", None, [str(folder / "conf")])


def _study(folder: Path) -> object:
    from isoflop.experiments.compose import compose_all

    return compose_all(["--config-dir", str(folder / "conf"), "experiment=mine"])


def _register(folder: Path) -> object:
    return score(folder / "claim.json", read_table(folder / "t.csv"))


def _reseal(folder: Path) -> None:
    from isoflop.scaling.prediction.register import _seal

    try:
        value = json.loads((folder / "claim.json").read_bytes())
        (folder / "claim.json").write_text(json.dumps(value | {"seal": _seal(value)}))
    except (ValueError, RecursionError, TypeError):
        pass


READERS: tuple[Reader, ...] = (
    Reader("table.csv", "t.csv", _table("t.csv")),
    Reader("table.parquet", "t.parquet", _table("t.parquet")),
    Reader("table.jsonl", "t.jsonl", _table("t.jsonl")),
    Reader(
        "runs.parquet",
        "quick.parquet",
        _runs,
    ),
    *(Reader(f"bundle {file}", f"bundle/{file}", _bundle) for file in (MANIFEST_FILE, *CONTENT)),
    Reader("bundle sealed", f"bundle/{MANIFEST_FILE}", _bundle, _seal_bundle),
    Reader("import.csv", "h.csv", _imported("h.csv")),
    Reader("import.jsonl", "h.jsonl", _imported("h.jsonl")),
    Reader("import.nanogpt", "nanogpt.log", _imported("nanogpt.log")),
    Reader("import.nanochat", "nanochat.log", _imported("nanochat.log")),
    Reader("import.megatron", "megatron.log", _imported("megatron.log")),
    Reader("import.tensorboard", "events.out.tfevents.1", _imported("events.out.tfevents.1")),
    Reader("evaluation", "evaluation.parquet", lambda f: read_evaluation(f / "evaluation.parquet")),
    Reader("scores", f"runs/cells/abc/{SCORES_FILE}", lambda f: read_scores(f / "runs")),
    Reader("items", f"runs/cells/abc/{ITEMS_FILE}", lambda f: read_items(f / "runs/cells/abc")),
    Reader(
        "weights",
        "model.safetensors",
        _weights,
    ),
    Reader("export weights", "hf/model.safetensors", lambda f: read_folder(f / "hf")),
    Reader("export config", "hf/config.json", lambda f: read_folder(f / "hf")),
    Reader(
        "tokenizer",
        "hf/tokenizer.json",
        _tokenizer,
    ),
    Reader("checkpoint", "trunk/trunk-3.pt", _checkpoint),
    Reader("checkpoint sealed", "trunk/trunk-3.pt", _checkpoint, _seal_checkpoint),
    Reader("STORE.json", "runs/STORE.json", _states),
    Reader("study", "runs/studies/s.json", _states),
    Reader("state", "runs/cells/abc/state.json", _states),
    Reader("claim", "runs/trunks/t/claim.json", _states),
    Reader("launch", "runs/launches/l.json", _states),
    Reader("registration", "claim.json", _register),
    Reader("registration sealed", "claim.json", _register, _reseal),
    Reader(
        "llm.c tokens",
        "tokens.bin",
        _tokens,
    ),
    Reader("megatron tokens", "m.bin", lambda f: token_files.open_tokens(f / "m.bin")),
    Reader("megatron index", "m.idx", lambda f: token_files.open_tokens(f / "m.bin")),
    Reader("text.jsonl", "d.jsonl", _documents("d.jsonl")),
    Reader("text.json", "d.json", _documents("d.json")),
    Reader("text.csv", "d.csv", _documents("d.csv")),
    Reader("text.parquet", "d.parquet", _documents("d.parquet")),
    Reader("text.txt", "d.txt", _documents("d.txt")),
    Reader("text.jsonl.gz", "d.jsonl.gz", _documents("d.jsonl.gz")),
    Reader("manifest", "corpora/*/manifest.json", _corpus),
    Reader("shard", "corpora/*/train.bin", _corpus),
    Reader("speed", "cache/isoflop/speed*.json", _speed),
    Reader("size", "conf/model/mine.yaml", _size),
    Reader("study file", "conf/experiment/mine.yaml", _study),
)


def write_files(folder: Path) -> Path:
    """A sound file of every kind, in `folder`."""
    table = isoflop_table(BESIROGLU, seed=1)
    table.to_csv(folder / "t.csv", index=False)
    table.to_parquet(folder / "t.parquet")
    table.to_json(folder / "t.jsonl", orient="records", lines=True)
    (folder / "quick.parquet").write_bytes((RESULTS / "quick.parquet").read_bytes())
    history = pd.DataFrame({"step": range(0, 500, 50), "val/loss": np.linspace(4, 3, 10), "lr": 1e-3, "name": "r"})
    history.to_csv(folder / "h.csv", index=False)
    history.to_json(folder / "h.jsonl", orient="records", lines=True)
    _write_logs(folder)
    _write_models(folder)
    _write_store(folder)
    write_shared(folder / "shared", folder / "bundle")
    _write_corpora(folder)
    register(forecast_loss(table, Target(1e20), ("chinchilla-tied",)), folder / "claim.json", table=folder / "t.csv")
    (folder / "cache" / "isoflop").mkdir(parents=True)
    (folder / "cache" / "isoflop").chmod(0o700)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    rate = speed_file.Measured(speed_file.Rate(1e-3, 1e-6), (1.0, 2.0, 3.0))
    speed_file.keep({"k": rate}, start=1.0, alone=0.9, device="cpu", threads=1)
    for kind in ("model", "experiment"):
        (folder / "conf" / kind).mkdir(parents=True)
    (folder / "conf/model/mine.yaml").write_text("n_layer: 2\nd_model: 16\nn_head: 2\nfamily: transformer\n")
    (folder / "conf/experiment/mine.yaml").write_text(
        "# @package _global_\nstudy:\n  name: mine\n  sizes: [d8, d12]\n  budgets: [3e9, 1e10]\n  seeds: [0, 1]\n"
        "  window: {tokens_per_param: [1, 400], min_steps: 300}\n  hold_out: [1e10]\noptim:\n  learning_rate: 1e-2\n"
    )
    return folder


def _write_logs(folder: Path) -> None:
    shape = ["n_layer = 6", "n_head = 6", "n_embd = 384", "block_size = 256", "batch_size = 64", "max_iters = 500"]
    steps = [f"step {s}: train loss {4 - s / 500:.4f}, val loss {4.1 - s / 500:.4f}" for s in range(0, 501, 100)]
    head = [
        "tokens per iteration will be: 16,384",
        "found vocab_size = 65 (inside meta.pkl)",
        "number of parameters: 10.65M",
    ]
    (folder / "nanogpt.log").write_text("\n".join([*shape, *head, *steps, "iter 500: loss 3.1, time 24.61ms"]) + "\n")
    counts = {"wte": 100, "lm_head": 100, "transformer_matrices": 1000, "scalars": 24, "total": 1224}
    lines = ["Vocab size: 65,536", "Parameter counts:", *(f"{k:24s}: {v:,}" for k, v in counts.items())]
    lines += ["Estimated FLOPs per token: 1.016586e+09", "Total batch size 524,288 => gradient accumulation steps: 1"]
    lines += ["Calculated number of iterations from target data:param ratio: 500"]
    lines += [f"Step {s:05d} | Validation bpb: {1 + 1 / (1 + s):.6f}" for s in range(0, 501, 100)]
    (folder / "nanochat.log").write_text("\n".join(lines) + "\n")
    example = Path(__file__).parents[1] / "files" / "megatron.log"
    (folder / "megatron.log").write_bytes(example.read_bytes() if example.exists() else b"iteration 1\n")
    _write_events(folder / "events.out.tfevents.1")


def _write_events(path: Path) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    with path.open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString())
        for step in range(5):
            value = Summary.Value(tag="val/loss", simple_value=4.0 - step / 10)
            writer.write(Event(wall_time=2.0, step=step, summary=Summary(value=[value])).SerializeToString())


def _write_models(folder: Path) -> None:
    import torch

    config = ModelConfig("transformer", 256, 16, 2, 16, 2)
    model = initialize(build_model(config), 0)
    save_weights(model, folder / "model.safetensors", {"run_id": "abc", "tokenizer_id": "bytes"})
    write_folder(model, folder / "hf", tokenizer=Bytes().json(), card="", provenance={"run": {"run_id": "abc"}})
    assert (folder / "hf" / PROVENANCE_FILE).exists()
    (folder / "trunk").mkdir()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    state = {"optimizer": weights, "step": 3, "seconds": 1.0, "loss_sum": torch.zeros(1), "measurements": [{"step": 1}]}
    Checkpoints(folder / "trunk", 1e9).save_trunk(state)  # type: ignore[arg-type]


def _write_store(folder: Path) -> None:
    store = create_store(folder / "runs")
    launch = store.write_launch(["experiment=smoke"], "/")
    os.replace(store.launch_file(launch), store.launch_file("l"))
    cell = {"run_id": "abc", "trunk_id": "t", "label": "d8", "steps": 9, "branch_step": 5, "flops": 1e9, "launch": "l"}
    store.record("abc", "running", trunk_id="t", step=3, seconds=1.5)
    store.write_study("s", [cell], hold_out=[1e9])
    claim = store.claim("t")
    assert claim is not None
    claim.beat(step=3)
    rows = pd.DataFrame({name: ["abc", "position"] if name in ("run_id", "measure") else [1, 2] for name in NAMES})
    write_evaluation(folder / "evaluation.parquet", rows.assign(run_id="abc", measure="position"))
    values = {"string": "abc", "int64": 3, "float64": 0.5, "bool_": True}
    scores, items = (pd.DataFrame([{c.name: values[c.dtype] for c in columns}] * 3) for columns in (SCORES, ITEMS))
    write_scores(store.root / "cells/abc", scores, items)


def _write_corpora(folder: Path) -> None:
    import gzip

    tokens = (np.arange(2000) % 50).astype("<u2")
    (folder / "tokens.bin").write_bytes(token_files.header(np.uint16, len(tokens)) + tokens.tobytes())
    (folder / "m.bin").write_bytes(tokens.tobytes())
    lengths = np.full(20, 100, "<i4")
    start = struct.pack("<QBQQ", 1, 8, len(lengths), 2)
    offsets = (np.arange(20) * 200).astype("<i8")
    (folder / "m.idx").write_bytes(
        token_files.MEGATRON_MAGIC + start + lengths.tobytes() + offsets.tobytes() + b"\0" * 16
    )
    rows = [{"text": f"the text of document {i}, \u00e9", "n": i} for i in range(20)]
    frame = pd.DataFrame(rows)
    frame.to_json(folder / "d.jsonl", orient="records", lines=True, force_ascii=False)
    frame.to_json(folder / "d.json", orient="records")
    frame.to_csv(folder / "d.csv", index=False)
    frame.to_parquet(folder / "d.parquet")
    (folder / "d.txt").write_text("".join(f"line {i}, \u00e9\n" for i in range(200)), encoding="utf-8")
    (folder / "d.jsonl.gz").write_bytes(gzip.compress((folder / "d.jsonl").read_bytes()))
    write_texts(folder / "text", files=12, words=100)
    _corpus(folder)


def is_refusal(error: BaseException) -> bool:
    """Whether an error is one by which a reader of ours refuses a file: of our own class, or about a name in it."""
    own = type(error).__module__.partition(".")[0] == "isoflop"
    return own or (type(error) is ValueError and "becomes part of a path" in str(error))


def names_file(error: BaseException, file: str) -> bool:
    """Whether an error's message names the file, by its name or by that of the folder that it was found in."""
    parts = [part for part in Path(file).parts if "*" not in part]
    return any(part in str(error) or Path(part).stem in str(error) for part in parts)


def readers_named(names: Sequence[str]) -> tuple[Reader, ...]:
    """The readers of these names; all where there are none."""
    return tuple(reader for reader in READERS if not names or reader.name in names)
