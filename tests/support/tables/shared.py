"""A store of three runs whose ids follow from their configurations, and the bundle of it."""

from pathlib import Path
from typing import Any

import pandas as pd

from isoflop.experiments.finished.bundle import write_bundle
from isoflop.experiments.store.store import create_store
from isoflop.experiments.study.cell import digest
from isoflop.scaling.imports.read_table import read_table
from isoflop.scaling.table.runs import read_runs, write_run
from tests.support.root import RESULTS

SECRET_FOLDER = "/home/anna/private texts"
DATA = {"name": "t", "files": [f"{SECRET_FOLDER}/*.txt", "../anna/b.txt"], "tokenizer": "~/anna/tokenizer.json"}


def what_of(row: "pd.Series[Any]") -> dict[str, Any]:
    """What determines the losses of a run, as far as its row says."""
    shape = ("n_layer", "d_model", "n_head", "d_ff", "vocab_size", "context_length")
    batch = int(row["batch_tokens"]) // int(row["context_length"])
    return {
        "model": {"family": row["family"], **{key: int(row[key]) for key in shape}},
        "data": {"corpus_id": row["corpus_id"], "eval_tokens": 64},
        "optim": {"name": row["optimizer"], "learning_rate": float(row["peak_learning_rate"]), "batch_size": batch},
        "schedule": {"name": row["schedule"]},
        "seed": int(row["seed"]),
        "steps": int(row["horizon_tokens"]) // int(row["batch_tokens"]),
    }


def write_store(root: Path) -> Path:
    """A store of three runs of the committed study, each with a configuration that names folders."""
    store, runs = create_store(root), read_runs(RESULTS / "quick.parquet")
    for run_id in runs["run_id"].unique()[:3]:
        rows = runs[runs["run_id"] == run_id]
        what = what_of(rows.iloc[-1])
        rows = rows.assign(run_id=digest(what))
        parent = {"run_id": "", "folder": f"{SECRET_FOLDER}/llama"}
        config = {"what": what, "data": DATA, "study": "s", "parent": parent}
        write_run(store.run_file(digest(what)), rows.to_dict("records"), config)
    cells = [{"run_id": path.parent.name} for path in sorted(root.glob("cells/*/run.parquet"))]
    store.write_study("s", cells)
    return root


def write_shared(root: Path, folder: Path) -> Path:
    """The bundle of study s of such a store, which is written to `root` first."""
    write_bundle(read_table(write_store(root), study="s"), folder, licence="cc-by-4.0")
    return folder
