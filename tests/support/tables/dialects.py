"""A known table in another dialect: names, units, written numbers, labels, separators, encodings and formats."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from isoflop.scaling.imports.assemble import ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.imports.read_table import read_table
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.curves import curves
from isoflop.scaling.table.meaning import QUANTITIES, number

LABELS = ("None", "NA", "null", "nan", "N/A", "007", "1e5", "base", "run 1", "a;b", "x,y", "#3", "True", "<NA>", "0.10")
LOG10, LN, EXP = np.log10, np.log, np.exp

# Name of a column -> what turns single parameters, tokens, FLOPs or nats into its values.
NAMES: dict[str, dict[str, float | Callable]] = {
    "n_params": {
        "n_params": 1, "N": 1, "num_params": 1, "Parameter Count": 1, "# params": 1, "Params (M)": 1e-6,
        "mparams": 1e-6,
        "params_b": 1e-9, "model size [millions]": 1e-6, "log10_n": LOG10, "ln(params)": LN, "nParams": 1,
    },
    "tokens": {
        "tokens": 1, "D": 1, "n_tokens": 1, "total_tokens": 1, "Tokens (B)": 1e-9, "btokens": 1e-9, "tokens_1e9": 1e-9,
        "train-tokens": 1, "log10(tokens)": LOG10, "Training tokens, B": 1e-9,
    },
    "flops": {
        "flops": 1, "C": 1, "compute": 1, "total_gflops": 1e-9, "Compute (PFLOPs)": 1e-15, "budget": 1,
        "log10_flops": LOG10, "FLOPs (1e18)": 1e-18, "compute (PF-days)": 1 / 8.64e19,
    },
    "loss": {
        "loss": 1, "L": 1, "val_loss": 1, "eval/loss": 1, "valLoss": 1, "val_ppl": EXP, "loss (bits)": 1 / np.log(2),
        "val_bpb": 1 / np.log(2), "bpc": 1 / np.log(2), "Perplexity": EXP, "nats_per_byte": 1, "valid/nll": 1,
    },
}  # fmt: skip
FAULTS = (b"nan", b"-1", b"1e999", b"\n", b",", b";", b'"', b"{", b"[[", b"NaN", b"0", b"None", b"\0", b"inf")
UNITS = {"val_bpb": "nats/byte", "bpc": "nats/character", "nats_per_byte": "nats/byte"}
FORMATS = ("csv", "csv", "csv", "csv", "csv.gz", "tsv", "json", "jsonl", "parquet", "split", "columns", "key")
if find_spec("openpyxl"):
    FORMATS += ("xlsx",)
STYLES = ("plain", "plain", "short", "commas", "underscores", "blanks", "exponent")
STATES = ("crashed", "FAILED", "Killed", "running", "timed out")


@dataclass
class Known:
    """A file, the rows that it holds (`table`, in the order of the file, without unfinished runs), and its dialect."""

    path: Path
    table: pd.DataFrame
    unit: str
    message: list[str] = field(default_factory=list)  # what the dialect is, in words
    options: dict = field(default_factory=dict)  # of an import: what the source does not tell


def known_table(rng: np.random.Generator) -> pd.DataFrame:
    """Up to 8 runs with labels, sizes, tokens, compute and loss."""
    size = int(rng.integers(3, 9))
    table = pd.DataFrame({
        "run_id": rng.permutation(LABELS)[:size], "arm": rng.choice(LABELS, size),
        "n_params": (10 ** rng.uniform(6, 10.5, size)).round(), "tokens": (10 ** rng.uniform(7.5, 12.5, size)).round(),
        "loss": rng.uniform(1.5, 5, size).round(4),
    })  # fmt: skip
    for name in {"run_id", "arm"} & {*table}:
        if all(number(label) is not None for label in table[name] if label != "#3"):
            table[name] = table[name].replace("#3", "third")  # among numbers #3 is a row that was put out of use
    table["flops"] = 6.0 * rng.uniform(0.9, 1.5) * table["n_params"] * table["tokens"]
    return table


def write_dialect(rng: np.random.Generator, folder: Path) -> Known:
    """A known table in a dialect drawn by `rng`, as a file in `folder`."""
    table = known_table(rng)
    quantities = ["n_params", "tokens", "flops", "loss"]
    if rng.random() < 0.3:  # one of N, D, C is left to C = 6 N D
        table["flops"] = 6.0 * table["n_params"] * table["tokens"]
        quantities.remove(str(rng.choice(quantities[:3])))
    names = {q: str(rng.choice(list(NAMES[q]))) for q in quantities}
    columns = {q: _scaled(table[q], NAMES[q][names[q]]) for q in quantities}
    form = str(rng.choice(FORMATS))
    style = {q: str(rng.choice(STYLES)) if q != "loss" else "plain" for q in quantities}
    written = {names[q]: _styled(columns[q], style[q], rng) for q in quantities}
    labels = [name for name in ("run_id", "arm") if rng.random() < 0.7]
    written |= {name: table[name].tolist() for name in labels}
    written |= {"d_model": [64] * len(table), "notes": ["fine"] * len(table)} if rng.random() < 0.5 else {}
    finished = np.ones(len(table), dtype=bool)
    if rng.random() < 0.3:
        finished = rng.random(len(table)) < 0.7
        finished[int(rng.integers(len(table)))] = True
        states = np.where(finished, "finished", rng.choice(STATES, len(table)))
        written[str(rng.choice(["state", "run_state", "Status"]))] = states.tolist()
    frame = pd.DataFrame(written)[rng.permutation(list(written))]
    path, message = _save(frame, form, rng, folder)
    message += [f"{names[q]} ({style[q]})" for q in quantities]
    expected = table[[*labels, "n_params", "tokens", "flops", "loss"]][finished].reset_index(drop=True)
    return Known(path, expected, UNITS.get(names["loss"], "nats/token"), message)


def _scaled(values: pd.Series, unit: float | Callable) -> pd.Series:
    return unit(values) if callable(unit) else values * unit


def _styled(values: pd.Series, style: str, rng: np.random.Generator) -> list:
    """The numbers as someone writes them, exactly where digits are grouped."""
    whole = bool((values == values.round()).all() and (values.abs() < 1e15).all())
    if style == "plain" or (style != "exponent" and not whole):
        return values.tolist()
    if style == "exponent":
        return [f"{value:.12e}" for value in values]
    if style == "short":
        mark, scale = (("M", 1e6), ("B", 1e9), ("K", 1e3), (" million", 1e6))[int(rng.integers(4))]
        return [f"{value / scale:.15g}{mark}" for value in values]
    mark = {"commas": ",", "underscores": "_", "blanks": " "}[style]
    return [f"{int(value):,}".replace(",", mark) for value in values]


def _save(frame: pd.DataFrame, form: str, rng: np.random.Generator, folder: Path) -> tuple[Path, list[str]]:
    path = folder / f"runs.{form if form in ('csv', 'csv.gz', 'tsv', 'jsonl', 'parquet', 'xlsx') else 'json'}"
    if form == "parquet":
        frame.to_parquet(path, index=bool(rng.random() < 0.3))
        return path, [form]
    if form == "xlsx":
        frame.to_excel(path, index=False)
        return path, [form]
    if form in ("json", "jsonl", "split", "columns", "key"):
        path.write_text(_json_text(frame, form))
        return path, [form]
    separator = "\t" if form == "tsv" else str(rng.choice([",", ",", ";", "\t", "|"]))
    decimal = "," if separator == ";" and rng.random() < 0.5 else "."
    text = frame.to_csv(index=False, sep=separator, decimal=decimal)
    message = [form, f"separator {separator!r}", f"decimal {decimal}"]
    if rng.random() < 0.2:
        text, message = f"# our runs, {len(frame)} of them\n{text}", [*message, "a comment"]
    if rng.random() < 0.3:
        text, message = text.replace("\n", "\r\n"), [*message, "Windows' lines"]
    encoding = str(rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be"]))
    raw = b"\xfe\xff" + text.encode(encoding) if encoding == "utf-16-be" else text.encode(encoding)
    path.write_bytes(gzip.compress(raw) if form == "csv.gz" else raw)
    return path, [*message, encoding]


def _json_text(frame: pd.DataFrame, form: str) -> str:
    records = frame.to_dict("records")
    if form == "jsonl":
        return "".join(json.dumps(record) + "\n" for record in records)
    if form == "split":
        return json.dumps(
            {"columns": list(frame), "index": list(range(len(frame))), "data": frame.to_numpy(object).tolist()}
        )
    if form == "columns":
        return json.dumps(frame.to_dict("list"))
    return json.dumps({"made": "today", "runs": records} if form == "key" else records)


def by_fit(path: Path) -> tuple[pd.DataFrame, str]:
    """The points of a file, as every command that takes a table reads them, and the unit of the loss."""
    read = read_table(path)
    found = points(read)
    held = curves(read)
    rows = read if held is None else held.ends
    labels = [name for name in ("run_id", "arm") if name in rows]
    return pd.concat([found.frame[list(QUANTITIES)], rows[labels].reset_index(drop=True)], axis=1), found.loss_unit


def by_import(path: Path, **options: object) -> tuple[pd.DataFrame, str]:
    """The ends of the runs that `isoflop import` makes of a source, and the unit of the loss."""
    made = import_source(path, "auto", ImportOptions(**options), {}).ends.reset_index(drop=True)  # type: ignore[arg-type]
    if "flops" not in made:
        made = made.assign(flops=6.0 * made["n_params"] * made["tokens"])
    return made, str(made["loss_unit"].iloc[0])


def difference(known: Known, found: pd.DataFrame, unit: str) -> str:
    """How a table that was read differs from the known one; empty for not. Runs are compared by name where told."""
    expected = known.table
    if len(found) != len(expected):
        return f"{len(found)} rows instead of {len(expected)}"
    if {"run_id"} <= set(expected) & set(found):
        names = [frame["run_id"].astype(str).tolist() for frame in (found, expected)]
        if sorted(names[0]) != sorted(names[1]):
            return f"run_id is {names[0]} instead of {names[1]}"
        found, expected = (frame.iloc[np.argsort(frame["run_id"].astype(str))] for frame in (found, expected))
    for name in [name for name in QUANTITIES if name in expected]:
        ours, theirs = expected[name].to_numpy(float), found[name].to_numpy(float)
        if not np.allclose(theirs, ours, rtol=1e-6):
            return f"{name} is {theirs[:3]} instead of {ours[:3]}"
    for name in (set(expected) - set(QUANTITIES)) & set(found):
        if found[name].astype(str).tolist() != expected[name].tolist():
            return f"{name} is {found[name].tolist()} instead of {expected[name].tolist()}"
    return "" if unit == known.unit else f"the loss is in {unit} instead of {known.unit}"


def damage(raw: bytes, rng: np.random.Generator) -> bytes:
    """The bytes of a file with a few faults: cut, flipped, doubled, dropped, strange bytes or lines put in."""
    data = bytearray(raw)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, len(data) + 1))
        end = min(len(data), at + int(rng.integers(1, 40)))
        kind = int(rng.integers(7))
        if kind == 0:
            del data[at:]
        elif kind == 1:
            del data[at:end]
        elif kind == 2:
            data[at:at] = data[at:end]
        elif kind == 3:
            data[at:at] = bytes(rng.integers(0, 256, 6, dtype=np.uint8))
        elif kind == 4 and at < len(data):
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 5:
            data[at:at] = FAULTS[int(rng.integers(len(FAULTS)))]
        elif data.count(b"\n") > 1:
            lines = bytes(data).split(b"\n")
            rng.shuffle(lines)
            data = bytearray(b"\n".join(lines))
    return bytes(data)
