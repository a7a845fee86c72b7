"""A sound file of every kind that the project reads, small enough to be damaged and read a hundred thousand times."""

import gzip
import json
import os
import shutil
import struct
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from isoflop.experiments.config import DataSpec, OptimSpec, ScheduleSpec, WhereSpec
from isoflop.experiments.cost import speed_file
from isoflop.experiments.data import corpus, parts, sources, token_files
from isoflop.experiments.data.tokenizer import Bytes
from isoflop.experiments.files import write_json
from isoflop.experiments.store.models import weights_file
from isoflop.experiments.store.store import Store, create_store
from isoflop.experiments.study.cell import Cell
from isoflop.experiments.study.study import Study
from isoflop.experiments.sweep import train_job
from isoflop.experiments.training.checkpoint import Checkpoints, State
from isoflop.models import build_model
from isoflop.models.config import ModelConfig
from isoflop.models.export import write_folder
from isoflop.models.parametrization import initialize
from isoflop.models.step import native
from isoflop.models.weights import save_weights
from isoflop.scaling.prediction.forecast import Target, forecast_loss
from isoflop.scaling.prediction.registered.register import register
from isoflop.scaling.table.evaluations.evaluation import NAMES, write_evaluation
from isoflop.scaling.table.evaluations.task_scores import ITEMS, SCORES, write_scores
from isoflop.scaling.table.runs import read_runs, write_run, write_table
from tests.support.fits.simulated import BESIROGLU, isoflop_table
from tests.support.root import RESULTS
from tests.support.tables.shared import write_shared
from tests.support.texts import write_texts

FILES = Path(__file__).parents[1] / "files"
MODEL = ModelConfig("transformer", 256, 16, 2, 16, 2)
RUN, TRUNK = "abc", "t"
WORK_KEY = "k"


def write_files(folder: Path) -> Path:
    """A sound file of every kind, in `folder`."""
    _write_tables(folder)
    for name in ("huggingface", "levanter", "lm_eval", "mlruns"):
        shutil.copytree(FILES / name, folder / name)
    for name in ("wandb_api.csv", "wandb_panel.csv", "wandb_runs.csv", "mlflow.csv", "long.csv", "megatron.log"):
        shutil.copyfile(FILES / name, folder / name)
    _write_logs(folder)
    _write_events(folder / "events.out.tfevents.1")
    _write_models(folder)
    _write_sharded(folder)
    _write_corpora(folder)
    _write_store(folder)
    write_shared(folder / "shared", folder / "bundle")
    _write_speed(folder)
    _write_studies(folder / "conf")
    return folder


def text_data(folder: Path) -> DataSpec:
    """The data of the corpus in `folder`."""
    return DataSpec(name="t", files=[str(folder / "text" / "*.txt")], context_length=16, eval_tokens=64)


def hub_data() -> DataSpec:
    """The data of the stream in `hub`."""
    return DataSpec(name="t", source="huggingface")


def _write_tables(folder: Path) -> None:
    table = isoflop_table(BESIROGLU, seed=1).iloc[:28]
    table.to_csv(folder / "t.csv", index=False)
    table.to_parquet(folder / "t.parquet")
    table.to_feather(folder / "t.feather")
    table.to_json(folder / "t.jsonl", orient="records", lines=True)
    table.iloc[:8].to_json(folder / "t.json", orient="split")
    if find_spec("openpyxl"):
        table.iloc[:8].to_excel(folder / "t.xlsx", index=False)
    for suffix in ("gz", "bz2", "xz", "zip"):
        table.to_csv(folder / f"p.csv.{suffix}", index=False)
    runs = read_runs(RESULTS / "quick.parquet")
    write_table(runs[runs["run_id"].isin(runs["run_id"].unique()[:3])], folder / "quick.parquet")
    history = pd.DataFrame({"step": range(0, 500, 50), "val/loss": np.linspace(4, 3, 10), "lr": 1e-3, "name": "r"})
    history.to_csv(folder / "h.csv", index=False)
    history.to_json(folder / "h.jsonl", orient="records", lines=True)
    forecast = forecast_loss(table, Target(3e20), ("chinchilla-tied",))
    register(forecast, folder / "claim.json", table=folder / "t.csv")
    isoflop_table(BESIROGLU, seed=2, largest=3e20).to_csv(folder / "new.csv", index=False)


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

    model = initialize(build_model(MODEL), 0)
    save_weights(model, folder / "model.safetensors", {"run_id": RUN, "tokenizer_id": "bytes"})
    write_folder(model, folder / "hf", tokenizer=Bytes().json(), card="", provenance={"run": {"run_id": RUN}})
    (folder / "isoflop.json").write_text(json.dumps({"run": {"run_id": RUN}}))
    (folder / "trunk").mkdir()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    state = {"optimizer": weights, "step": 3, "seconds": 1.0, "loss_sum": torch.zeros(1), "measurements": [{"step": 1}]}
    Checkpoints(folder / "trunk", 1e9).save_trunk(state)  # type: ignore[arg-type]


def sharded_state(step: int) -> State:
    """The state of a learner whose checkpoints are shards."""
    import torch

    optimizer = {"weight": torch.arange(64.0).view(8, 8), "count": torch.tensor(3.0)}
    return State(
        optimizer=optimizer, step=step, seconds=1.0, loss_sum=torch.zeros(1, dtype=torch.float64),
        measurements=[{"step": 1}], engines=["c"],
    )  # fmt: skip


def alone() -> None:
    """Make this process a group of one, as torchrun would."""
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


def _write_sharded(folder: Path) -> None:
    """Two sharded checkpoints, written by a fork: a process that has forks of its own is in no group."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            from isoflop.experiments.parallel.sharded_checkpoint import ShardedCheckpoints

            alone()
            checkpoints = ShardedCheckpoints(folder / "shards", 1e9, lambda: sharded_state(0))
            checkpoints.save_trunk(sharded_state(3))
            checkpoints.save_trunk(sharded_state(6))
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def _write_corpora(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tokens = (np.arange(2000) % 50).astype("<u2")
    (folder / "tokens.bin").write_bytes(token_files.header(np.uint16, len(tokens)) + tokens.tobytes())
    (folder / "plain.bin").write_bytes(tokens.tobytes())
    (folder / "m.bin").write_bytes(tokens.tobytes())
    start = struct.pack("<QBQQ", 1, 8, 20, 2)
    places = np.full(20, 100, "<i4").tobytes() + (np.arange(20) * 200).astype("<i8").tobytes()
    (folder / "m.idx").write_bytes(token_files.MEGATRON_MAGIC + start + places + b"\0" * 16)
    frame = pd.DataFrame([{"text": f"the text of document {i}, \u00e9", "n": i} for i in range(20)])
    frame.to_json(folder / "d.jsonl", orient="records", lines=True, force_ascii=False)
    frame.to_json(folder / "d.json", orient="records")
    frame.to_csv(folder / "d.csv", index=False)
    frame.to_parquet(folder / "d.parquet")
    text = "".join(f"line {i}, \u00e9\n" for i in range(200))
    (folder / "d.txt").write_text(text, encoding="utf-8")
    (folder / "d16.txt").write_text(text, encoding="utf-16")
    lines = (folder / "d.jsonl").read_bytes()
    (folder / "d.jsonl.gz").write_bytes(gzip.compress(lines))
    for suffix in ("zst", "bz2"):
        with pa.output_stream(str(folder / f"d.txt.{suffix}"), compression={"zst": "zstd"}.get(suffix, suffix)) as file:
            file.write(text.encode())
    write_texts(folder / "text", files=12, words=100)
    corpus.prepare(text_data(folder), folder / "corpora")
    (folder / "hub").mkdir()
    table = pa.table({"text": pa.array(list(frame["text"]), pa.large_string())})
    pq.write_table(table.replace_schema_metadata({"rows": "20", "bytes": "600"}), folder / "hub/raw-0.parquet")
    _write_part(folder)
    (folder / "hub/raw.json").write_text(json.dumps({"licence": "none"}))
    found = corpus.prepare(text_data(folder), folder / "corpora")
    cell = _cell(found.corpus_id, text_data(folder))
    store = create_store(folder / "work")
    work = train_job.work_of(Study("s", (cell,), hold_out=()), (cell,), WhereSpec())
    train_job.write_work(store, replace(work, study="s"), found, WORK_KEY)


def _write_part(folder: Path) -> None:
    (folder / "part").mkdir()
    source = sources.source_of(text_data(folder))
    assert isinstance(source, sources.TextSource)
    parts.make_parts(source, source.files(), folder / "part")


def _cell(corpus_id: str, data: DataSpec) -> Cell:
    return Cell(
        MODEL, "d16", data, OptimSpec(batch_size=4), ScheduleSpec(warmup_steps=10), corpus_id, 0, "", 100, 1e9
    )  # fmt: skip


def _write_store(folder: Path) -> None:
    store = create_store(folder / "runs")
    launch = store.write_launch(["experiment=smoke"], "/")
    os.replace(store.launch_file(launch), store.launch_file("l"))
    listed = {"run_id": RUN, "trunk_id": TRUNK, "label": "d8", "steps": 9, "branch_step": 5, "flops": 1e9}
    store.record(RUN, "running", trunk_id=TRUNK, step=3, seconds=1.5)
    store.write_study("s", [listed | {"launch": "l"}], hold_out=[1e9])
    claim = store.claim(TRUNK)
    assert claim is not None
    claim.beat(step=3)
    write_json(store.trunk_folder(TRUNK) / ".seen-0.json", {"claim": "0", "at": 1.0})
    answer = {"known": "0", "cells": [{"size": "d8", "flops": 1e9, "seeds": [0]}], "hold_out": [], "said": "x"}
    write_json(store.root / "rounds" / "s-round1.json", {"requested": {"budget": 1.0}, **answer})
    rows = pd.DataFrame({name: [RUN, "position"] if name in ("run_id", "measure") else [1, 2] for name in NAMES})
    write_evaluation(folder / "evaluation.parquet", rows.assign(run_id=RUN, measure="position"))
    values = {"string": RUN, "int64": 3, "float64": 0.5, "bool_": True}
    scores, items = (pd.DataFrame([{c.name: values[c.dtype] for c in columns}] * 3) for columns in (SCORES, ITEMS))
    write_scores(store.root / "cells" / RUN, scores, items)
    _write_done(folder, create_store(folder / "done"))


def _write_done(folder: Path, store: Store) -> None:
    """A store with one run that ended, its configuration as training writes it, and its model."""
    cell = _cell("c", text_data(folder))
    work = train_job.work_of(Study("s", (cell,), hold_out=()), (cell,), WhereSpec())
    runs = read_runs(RESULTS / "quick.parquet")
    rows = runs[runs["run_id"] == runs["run_id"].iloc[0]].assign(
        run_id=RUN, trunk_id=TRUNK, state="done", tokenizer_id="bytes"
    )
    write_run(store.run_file(RUN), rows.to_dict("records"), train_job.config_of(cell, work))
    shutil.copyfile(folder / "model.safetensors", weights_file(store, RUN))
    store.record(RUN, "done", trunk_id=TRUNK, step=3, seconds=1.5)
    store.write_study("s", [{"run_id": RUN, "trunk_id": TRUNK, "label": "d8", "steps": 9}], hold_out=[])


def _write_speed(folder: Path) -> None:
    (folder / "cache" / "isoflop").mkdir(parents=True)
    (folder / "cache" / "isoflop").chmod(0o700)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    rate = speed_file.Measured(speed_file.Rate(1e-3, 1e-6), (1.0, 2.0, 3.0))
    speed_file.keep({"k": rate}, start=1.0, alone=0.9, device="cpu", threads=1)
    _, command = next(native._compilers())
    native._built(folder / "cache" / "isoflop", native._build_hash(command), command)


def _write_studies(conf: Path) -> None:
    for kind in ("model", "experiment", "data"):
        (conf / kind).mkdir(parents=True)
    (conf / "model/mine.yaml").write_text("n_layer: 2\nd_model: 16\nn_head: 2\nfamily: transformer\n")
    (conf / "data/mine.yaml").write_text("name: mine\nsource: files\nfiles: [/x/*.txt]\ncontext_length: 64\n")
    (conf / "experiment/mine.yaml").write_text(
        "# @package _global_\nstudy:\n  name: mine\n  sizes: [d8, d12]\n  budgets: [3e9, 1e10]\n  seeds: [0, 1]\n"
        "  window: {tokens_per_param: [1, 400], min_steps: 300}\n  hold_out: [1e10]\noptim:\n  learning_rate: 1e-2\n"
    )
