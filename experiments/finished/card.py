"""Export of a finished run, with a model card: its row of the run table, its configuration, its study's law."""

import math
import os
from pathlib import Path
from typing import Any, cast

import pandas as pd

from isoflop.experiments.files import SINGLE, locked
from isoflop.experiments.finished.private import without_folders
from isoflop.experiments.store.models import Trained
from isoflop.experiments.store.run_config import RunConfig
from isoflop.models.config import family_of
from isoflop.models.export import write_folder
from isoflop.printable import loss_text
from isoflop.scaling.fitting.fit import fit
from isoflop.scaling.table.formats.run_columns import with_roles
from isoflop.scaling.table.runs import read_runs

FEWEST_RUNS = 12  # for a law of five parameters to be worth a line


def export(trained: Trained, folder: Path) -> Path:
    """Write the run's model to `folder`: for Hugging Face if it is a Llama, else TorchScript. Returns the path.

    Who exports to the same folder meanwhile waits.
    """
    folder = Path(os.path.abspath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    tokenizer, about, row = trained.tokenizer.json(), card(trained), provenance(trained)
    lock = folder.with_name(f".{folder.name}.lock")
    with locked(lock):
        try:
            write_folder(trained.model, folder, tokenizer=tokenizer, card=about, provenance=row)
        finally:
            lock.unlink(missing_ok=True)
    return folder.resolve()


def provenance(trained: Trained) -> dict[str, Any]:
    """The final row of the run table and the resolved configuration, ready for JSON."""
    row = {name: None if _missing(value) else value for name, value in trained.final.items()}
    return cast(dict[str, Any], without_folders({"run": row, "config": trained.config}))


def card(trained: Trained) -> str:
    """The model card: YAML front matter for the hub, then a page for people."""
    row, data = trained.final, trained.config["data"]
    facts = {
        "run": f"`{trained.run_id}` of study `{trained.config['study'] or SINGLE}`, code {row['code_version']}",
        "parameters": f"{row['n_params_total']:,} ({row['family']}, {row['n_layer']} layers of width {row['d_model']})",
        "context": f"{row['context_length']} tokens",
        "training": f"{row['tokens']:,} tokens, {row['epochs']:.3g} epochs, {row['flops']:.4g} FLOPs, "
        f"{row['optimizer']}, {row['schedule']}, seed {row['seed']}",
        "corpus": f"{data['name']} (`{row['corpus_id']}`), tokenizer {row['tokenizer_id']}",
        "begins from": _beginning(trained.config),
        "held-out loss": f"{loss_text(row['loss'])} +- {loss_text(row['loss_se'], of=row['loss'])} "
        f"nats/token{_bits(row)}, "
        f"next-token accuracy {row['accuracy']:.3f}",
        "law of its study": law_line(trained),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""---
library_name: {"transformers" if _is_llama(trained) else "torch"}
pipeline_tag: text-generation
tags: [isoflop, scaling-laws]
---

# isoflop {trained.run_id}

A small language model trained to measure a scaling law, not to be relied on for what it says.

| | |
|---|---|
{table}

`isoflop.json` holds the whole row of the run table and the configuration that decides every weight.
"""


def law_line(trained: Trained) -> str:
    """The Chinchilla law of the runs that are like this one in all but size and tokens, or why there is none."""
    runs = read_runs(trained.store.root)
    alike = [name for name in with_roles("ruler", "experiment") if name != "device"]
    same = (runs[alike] == pd.Series(trained.final)[alike]).all(axis=1) & runs["final"]
    if same.sum() < FEWEST_RUNS:
        return f"none: {same.sum()} runs like this one, {FEWEST_RUNS} are needed"
    try:
        found = fit("chinchilla", runs[same])
    except ValueError as error:
        return f"none: {error}"
    predicted = float(found.predict(found.points.frame)[(found.points.frame["run_id"] == trained.run_id).argmax()])
    return f"{found.law} ({found.status}, {same.sum()} runs); {loss_text(predicted)} nats/token here"


def _is_llama(trained: Trained) -> bool:
    config = trained.model.config
    return family_of(config).is_llama(config)


def _beginning(config: RunConfig) -> str:
    parent = config.get("parent")
    if not parent:
        return "random weights"
    return (
        f"the weights of run `{parent['run_id']}`"
        if parent["run_id"]
        else f"the checkpoint {Path(parent['folder']).name}"
    )


def _bits(row: dict) -> str:
    return "" if _missing(row["bits_per_byte"]) else f", {loss_text(row['bits_per_byte'])} bits/byte"


def _missing(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
