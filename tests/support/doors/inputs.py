"""Malformed inputs for every door: command lines with the files that they read, and what a refusal must name."""

import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, get_type_hints

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from isoflop.experiments.config import ExperimentConfig
from tests.support.doors import study_inputs
from tests.support.doors.malformed_case import CANARY, Input, written
from tests.support.doors.options import options
from tests.support.fits.simulated import BESIROGLU, isoflop_table

TOUCH = f"__import__('os').system('touch {CANARY}')"


def inputs(run_id: str) -> Iterator[Input]:
    """All of them; `run_id` is the trained run of the store `runs` (`options.write_neighbours`)."""
    rooms = {
        "options": _options(run_id), "tables": _tables(), "keys": _keys(), "overrides": study_inputs.overrides(),
        "studies": study_inputs.studies(), "stores": _stores(run_id), "corpora": _corpora(), "code": _code(run_id),
        "registrations": study_inputs.registrations(), "models": study_inputs.models(),
    }  # fmt: skip
    for room, of_room in rooms.items():
        yield from (replace(one, name=f"{room}/{one.name}") for one in of_room)


def _options(run_id: str) -> Iterator[Input]:
    for option in options():
        for value in option.bad_values():
            name = f"{option.command} {option.flag or option.name}={value[:40]!r}"
            yield Input(name, option.words(value, run_id), option.names(value))


# Tables ---------------------------------------------------------------------------------------------------------------

CELLS: dict[str, object] = {
    "text": "x", "infinity": float("inf"), "minus infinity": float("-inf"), "zero": 0.0, "negative": -1.0,
    "400 digits": "9" * 400, "complex": "1+2j", "timestamp": "2024-01-01T00:00:00Z", "struct": "{'a': 1}",
    "list": "[1]", "true": "True", "huge": "1e400", "hexadecimal": "0x10", "control": "\x00", "quote": '"',
}  # fmt: skip
# Of a loss these are a run that diverged, which is left out and counted.
DIVERGED = ("infinity", "minus infinity", "zero", "negative", "400 digits", "huge")
COLUMNS: dict[str, Callable[[int], object]] = {
    "timestamps": lambda n: pa.array([datetime(2024, 1, 1, tzinfo=UTC)] * n),
    "structs": lambda n: pa.array([{"a": 1.0}] * n),
    "lists": lambda n: pa.array([[1.0]] * n),
    "bytes": lambda n: pa.array([b"\xff\xfe"] * n),
    "booleans": lambda n: pa.array([True] * n),
    "nulls": lambda n: pa.nulls(n),
    "durations": lambda n: pa.array([1] * n, pa.duration("s")),
    "huge decimals": lambda n: pa.array([Decimal("9" * 70)] * n, pa.decimal256(76, 0)),
    "maps": lambda n: pa.array([[("a", 1)]] * n, pa.map_(pa.string(), pa.int64())),
    "words": lambda n: pa.array(["x"] * n),
    "infinities": lambda n: pa.array([float("inf")] * n),
}
TEXTS: dict[str, bytes] = {
    "nothing": b"", "a header": b"n_params,tokens,loss\n", "blank lines": b"\n\n\n", "one column": b"loss\n1\n2\n",
    "zeros": b"\0" * 500, "UTF-16": "n_params,tokens,loss\n1,2,3\n".encode("utf-16"), "bytes": bytes(range(256)) * 4,
    "two columns of a name": b"n_params,tokens,loss,loss\n1e7,1e9,3,2\n", "JSON": b'{"a": [1, 2]}', "HTML": b"<html>",
    "a row too long": b"n_params,tokens,loss\n1e7,1e9,3\n1e7,1e9,3,4,5\n",
    "an open quote": b'n_params,tokens,loss\n"1,2,3\n',
    "no loss": b"n_params,tokens\n1e7,1e9\n", "a long line": b"x" * 10**6, "a zip": b"PK\x03\x04" + b"x" * 100,
    "nesting": b"[" * 10**5, "many columns": b",".join(b"c%d" % i for i in range(5000)) + b"\n",
}  # fmt: skip
RECORDS: dict[str, bytes] = {  # JSON of other shapes
    "columns and rows that differ": b'{"columns": ["n_params"], "data": [[1, 2]]}',
    "columns are a number": b'{"columns": 5, "data": []}',
    "columns of two lengths": b'{"n_params": [1, 2], "tokens": [1], "loss": [1, 2, 3]}',
    "a list of kinds": b'[1, [2], {"loss": 1}]',
    "nested records": b'[{"loss": {"x": {"y": 1}}, "n_params": [1], "tokens": null}]',
    "rows are texts": b'["a", "b"]',
    "numbers of 5000 digits": b'[{"n_params": ' + b"9" * 5000 + b', "tokens": 1, "loss": 1}]',
    "a key twice": b'[{"loss": 1, "loss": 2}]',
    "half a character": b'[{"n_params": "\\ud800", "tokens": 1, "loss": 3}]',
    "a table's schema": b'{"schema": {}, "data": [{"loss": 1}]}',
    "two lists": b'{"a": [{"loss": 1}], "b": [{"loss": 2}]}',
    "empty records": b"[{}, {}]",
    "an empty list": b"[]",
}
FITS = (
    "fit", "approaches", "compare", "multiplier", "accuracy", "predict", "suggest", "report", "plot", "tune", "import",
)  # fmt: skip


def _words(command: str, table: str) -> list[str]:
    extra = {
        "fit": ["--bootstrap", "0"], "compare": ["--laws", "power-n"], "predict": ["--flops", "1e22"],
        "suggest": ["--budget", "1e20", "--target", "1e22"], "report": ["--bootstrap", "0", "--out", "report"],
        "plot": ["--out", "x.png"], "import": ["--out", "x.csv"],
    }.get(command, [])  # fmt: skip
    return [command, *(["--table"] if command == "tune" else []), table, *extra]


def _tables() -> Iterator[Input]:
    turn = 0
    for what, cell in CELLS.items():
        for column in ("n_params", "tokens", "loss"):
            if column == "loss" and what in DIVERGED:
                continue
            for command in ("fit", ("approaches", "predict", "suggest", "plot")[turn % 4]):
                yield Input(
                    f"{command}: {what} in {column}", _words(command, "bad.csv"), ["bad.csv"], _cell(column, cell)
                )
            turn += 1
    for what, make in COLUMNS.items():
        for column in ("n_params", "tokens", "loss", "arm"):
            if column == "arm" and what in ("words", "booleans", "nulls", "infinities"):
                continue
            command = "multiplier" if column == "arm" else "fit"
            words = _words(command, "bad.parquet")
            yield Input(f"{command}: {what} as {column}", words, ["bad.parquet"], _column(column, make))
    for what, content in TEXTS.items():
        for suffix in ("csv", "parquet", "jsonl", "json", "tsv"):
            for command in ("fit", FITS[turn % len(FITS)]):
                file = f"bad.{suffix}"
                yield Input(f"{command}: {what} in {file}", _words(command, file), [file], written(file, content))
            turn += 1
    for what, content in RECORDS.items():
        for suffix in ("json", "jsonl"):
            file = f"bad.{suffix}"
            yield Input(f"fit: {what} in {file}", _words("fit", file), [file], written(file, content))


def _cell(column: str, cell: object) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        table = isoflop_table(BESIROGLU, seed=1).astype(object)
        table.loc[3, column] = cell
        table.to_csv(folder / "bad.csv", index=False)

    return write


def _column(column: str, make: Callable[[int], object]) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        table = isoflop_table(BESIROGLU, seed=1)
        whole = pa.Table.from_pandas(pd.concat([table.assign(arm="a"), table.assign(arm="b")]), preserve_index=False)
        at = whole.column_names.index(column)
        pq.write_table(whole.set_column(at, column, make(len(whole))), folder / "bad.parquet")

    return write


# Keys of a study ------------------------------------------------------------------------------------------------------

WRONG: dict[type, tuple[str, ...]] = {
    int: ("x", "nan", "1.5", "[1]", "{a: 1}", "99999999999999999999999999", "-9", "''"),
    float: ("x", "nan", "inf", "[1]", "{a: 1}", "-9", "''"),
    bool: ("x", "2", "[1]", "''"),
    list: ("5x", "{a: 1}", "[[1]]", "[null]"),
    dict: ("5", "[1]"),
    str: ("{a: 1}", "[1]"),
}
SIGNED = {f"data.synthetic.{name}_weight" for name in ("bigram", "skip", "trigram")}
# Keys for which such a value has a meaning, or that a plan does not look at.
MEANT = {
    "study.vary", "study.arms", "study.name", "runs", "init_from", "study.rounds", "data.files", "data.hub",
    "where.only",
    "where.trunk", "where.cells", "where.trackers", "where.gpus",
}  # fmt: skip


def leaves(node: Any = ExperimentConfig, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Every key of the schema that holds a value, with the type of its values."""
    hints = get_type_hints(node)
    for one in fields(node):
        kind = _plain_kind(hints[one.name])
        if is_dataclass(kind):
            yield from leaves(kind, f"{prefix}{one.name}.")
        else:
            yield f"{prefix}{one.name}", kind


def _plain_kind(hint: Any) -> Any:
    from typing import get_args, get_origin

    inside = [part for part in get_args(hint) if part is not type(None)]
    if get_origin(hint) in (list, dict):
        return get_origin(hint)
    return _plain_kind(inside[0]) if inside else hint


def _keys() -> Iterator[Input]:
    for key, kind in leaves():
        if any(key.startswith(one) for one in MEANT):
            continue
        for value in WRONG.get(kind, ()):
            if value == "-9" and key in SIGNED:
                continue
            single = key.startswith(("model.", "budget.", "seed"))
            words = ["plan", "--no-calibrate", *(["budget.tokens=1e6"] if single else ["experiment=smoke"])]
            yield Input(f"plan {key}={value}", [*words, f"{key}={value}"], [key, key.rpartition(".")[2]])


# Stores and models ----------------------------------------------------------------------------------------------------

SHAPES = ("", "5", "[]", "{}", "null", '"x"', "[" * 10**5, '{"a": NaN}', '{"cells": [5]}', '{"cells": {}}', "\udcff")


def _stores(run_id: str) -> Iterator[Input]:
    files = {
        "STORE.json": ("status", "clean", "retry", "generate"), "studies/s.json": ("status", "retry"),
        f"cells/{run_id}/state.json": ("status", "clean"), "trunks/t/claim.json": ("status",),
        f"cells/{run_id}/model.safetensors": ("generate", "export"), f"cells/{run_id}/run.parquet": ("fit",
        "compact", "generate"),
    }  # fmt: skip
    for file, commands in files.items():
        for shape in SHAPES:
            for command in commands:
                if file.endswith("claim.json") and command == "status":
                    continue  # a claim that cannot be read is nobody's after a while
                if file.endswith("state.json") and shape in ("", "\udcff"):
                    continue  # one that was cut short: the cell is trained again
                words = {
                    "generate": ["generate", run_id, "--max-tokens", "2"], "export": ["export", run_id, "--out", "e"],
                    "compact": ["compact", "runs", "--out", "all.parquet"],
                }.get(command, [command, "runs"])  # fmt: skip
                content = shape.encode("utf-8", "surrogateescape")
                name = f"{command}: {shape[:20]!r} as {file.replace(run_id, 'RUN')}"
                yield Input(name, words, [Path(file).name, "runs"], written(f"runs/{file}", content))


# Corpora --------------------------------------------------------------------------------------------------------------


def _corpora() -> Iterator[Input]:
    contents: dict[str, bytes] = {
        "empty": b"", "zeros": b"\0" * 5000, "Latin-1": "caf\u00e9 ".encode("latin-1") * 500,
        "binary": bytes(range(256)) * 20,
        "nested": b"[" * 10**5, "numbers": b"5\n" * 500, "lists": b"[1]\n" * 500,
        "another key": b'{"content": "x"}\n' * 500,
        "a number as text": b'{"text": 5}\n' * 500, "half a pair": b'{"text": "\\ud800"}\n' * 500,
        "an open object": b'{"text": "x"\n',
    }  # fmt: skip
    for what, content in contents.items():
        for suffix in ("txt", "jsonl", "json", "csv", "parquet", "txt.gz", "jsonl.zst"):
            if (what, suffix) in {
                ("numbers", "txt"), ("lists", "txt"), ("another key", "txt"), ("a number as text", "txt"),
                ("nested", "txt"),
                ("half a pair", "txt"),
            }:  # fmt: skip
                continue  # text like any other
            file = f"text/a.{suffix}"
            words = ["prepare", "data=text", f"data.files=[text/a.{suffix}]", "data.context_length=16"]
            yield Input(
                f"prepare: {what} in a.{suffix}", words, [f"a.{suffix}", "corpus", "data."], written(file, content)
            )


# Code -----------------------------------------------------------------------------------------------------------------


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (f"touch {CANARY}",)


def _code(run_id: str) -> Iterator[Input]:
    """What would make the canary if it were run."""
    pickled = pickle.dumps(_Payload())
    for file in ("bad.parquet", "bad.csv", "bad.json", "bad.pkl"):
        yield Input(f"fit: a pickle as {file}", ["fit", file], [file], written(file, pickled))
    for file in (f"cells/{run_id}/model.safetensors", f"cells/{run_id}/run.parquet", "STORE.json"):
        words = ["generate", run_id, "--max-tokens", "2"]
        yield Input(
            f"generate: a pickle as {Path(file).name}", words, [Path(file).name], written(f"runs/{file}", pickled)
        )
    for where in (
        TOUCH,
        f"@pd.io.common.os.system('touch {CANARY}') == 0",
        f"loss.to_csv('{CANARY}')",
        "loss.__class__",
    ):
        for command in ("fit", "report", "suggest"):
            yield Input(f"{command} --where {where}", [*_words(command, "table.csv"), "--where", where], ["--where"])
    target = f"{{_target_: os.system, command: 'touch {CANARY}'}}"
    for key in ("+model.x", "optim.name", "data.source", "study.sizes", "hydra/launcher"):
        words = ["plan", "--no-calibrate", "experiment=smoke", f"{key}={target}"]
        yield Input(f"plan {key}=_target_", words, [key.lstrip("+"), "x", "hydra"])
    for name in ("../x", f"x; touch {CANARY}", "/abs/x", ".x", "x" * 101, f"$(touch {CANARY})"):
        quoted = "'" + name.replace("'", "\\'") + "'"
        for key in ("study.name", "data.name"):
            words = ["plan", "--no-calibrate", "experiment=smoke", f"{key}={quoted}"]
            yield Input(f"plan {key}={name[:20]}", words, [key])
    for arguments in (
        [f"+hydra.callbacks.x={target}"],
        ["--config-dir", "/"],
        [f"runs=$(touch {CANARY})", "+x=1"],
        [5],
        "x",
    ):
        launch = json.dumps({"arguments": arguments, "folder": "/"})
        yield Input(
            f"retry: {str(arguments)[:40]}",
            ["retry", "runs"],
            ["launch", "override", "l.json"],
            _failed(run_id, launch),
        )


def _failed(run_id: str, launch: str) -> Callable[[Path], object]:
    """The store's run as one that failed, and the launch that it is to be repeated by."""

    def write(folder: Path) -> None:
        state = {"run_id": run_id, "state": "failed", "trunk_id": "t", "launch": "l"}
        written(f"runs/cells/{run_id}/state.json", json.dumps(state).encode())(folder)
        written("runs/launches/l.json", launch.encode())(folder)

    return write
