"""Registered predictions: written to a file before the run is trained, and scored once it is.

A registration is one JSON file. It holds a hash of its own content (its seal) and one of the runs fitted, so that a
change of either after the registration is found.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pandas as pd

from isoflop.read_json import check_shape, read_json
from isoflop.scaling.prediction.forecast import LossForecast
from isoflop.scaling.prediction.registered.distribution import Component, check_components, components
from isoflop.scaling.prediction.registered.reading import AS_IS, Reading
from isoflop.scaling.table.bundle.hub import on_hub
from isoflop.scaling.table.conventions import Points
from isoflop.scaling.table.json_plain import plain
from isoflop.scaling.table.runs import code_version

FORMAT = 1
HASHED = ("n_params", "tokens", "flops", "loss")


class _Sealed(TypedDict):
    """What every version of a registration holds."""

    format: int
    seal: str


class _Target(TypedDict):
    flops: float
    n_params: float | None
    tokens: float | None


class _Conventions(TypedDict):
    params: str
    compute: str


class _Read(TypedDict, total=False):
    """How the table was read, where it was not read as it is."""

    mapping: dict[str, str]
    where: str
    study: str
    sheet: str
    best_of: list[str]
    laws: str


class _Data(TypedDict):
    table: str
    sha256: str
    n_runs: int
    run_ids: list[str] | None
    read: NotRequired[_Read]


class _Registration(_Sealed):
    """What is read of a registration."""

    registered_at: str
    data: _Data
    target: _Target
    loss: float
    sd_log_loss: float
    intervals: dict[str, tuple[float | None, float | None]]  # an end that is not finite is null
    n_opt: float | None
    n_opt_interval: tuple[float | None, float | None] | None
    conventions: _Conventions
    distribution: NotRequired[list[Component]]
    slopes: NotRequired[dict[str, float]]


class RegistrationError(ValueError):
    """A registration cannot be written, read, trusted or scored; the message says why."""

    exit_code = 1


def register(
    forecast: LossForecast, path: str | Path, *, table: str | Path, reading: Reading = AS_IS
) -> dict[str, Any]:
    """Write a prediction made from the table at `table` to `path`, which must not exist; returns the values written.

    `reading` says with which options the table was read: with the same it is read again when the forecast is scored.
    Raises RegistrationError where `path` exists, or where the forecast has no finite loss.
    """
    path = Path(path)
    fresh(path)
    value = registration(forecast, path.parent, table=table, reading=reading)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "x") as file:
        file.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
    return value


def registration(
    forecast: LossForecast, folder: Path, *, table: str | Path, reading: Reading = AS_IS
) -> dict[str, Any]:
    """The values of a registration that is kept in `folder`, of a forecast made from the table at `table`.

    Raises RegistrationError for a forecast that could not be read back and scored.
    """
    runs = forecast.points.frame
    place = str(table) if on_hub(table) else os.path.relpath(Path(table).resolve(), Path(folder).resolve())
    value = plain(
        {
            "format": FORMAT,
            "registered_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "code_version": code_version(),
            "data": {
                "table": place,
                "sha256": data_hash(forecast.points),
                "n_runs": len(forecast.points),
                "run_ids": sorted(runs["run_id"]) if "run_id" in runs else None,
                **({"read": how} if (how := reading.to_dict()) else {}),
            },
            **forecast.to_dict(),
            "distribution": components(forecast.average),
        }
    )
    return checked_registration(value | {"seal": _seal(value)}, f"the forecast from {table}")


def data_hash(data: Points) -> str:
    """sha256 of the runs fitted: their parameters, tokens, FLOPs and losses in full precision, in any order."""
    rows = sorted(",".join(float(x).hex() for x in row) for row in data.frame[list(HASHED)].to_numpy(float))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _seal(value: Mapping[str, Any]) -> str:
    content = {k: v for k, v in value.items() if k != "seal"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def fresh(path: str | Path) -> None:
    """Raise RegistrationError if a registration exists at `path`."""
    if Path(path).exists():
        raise RegistrationError(f"{path} exists: a registered prediction is never overwritten; choose another name")


def read_registration(path: Path) -> dict[str, Any]:
    """The values of a registration. Raises RegistrationError for a file that is none, or was changed."""
    try:
        value = read_json(path, _Sealed, nan=True, error=RegistrationError, remedy="not a registration")
    except FileNotFoundError:
        raise RegistrationError(f"{path}: no such registration") from None
    return checked_registration(value, str(path))


def checked_registration(value: dict[str, Any], path: str) -> dict[str, Any]:
    """`value`, which `path` holds, when it is a registration as it was made. Raises RegistrationError."""
    if value["format"] != FORMAT:
        raise RegistrationError(f"{path}: not a registration that this version reads (format {FORMAT})")
    try:
        check_shape(plain(value), _Registration, source=path)  # an earlier version wrote Infinity for an open end
        levels = [float(level) for level in value["intervals"]]
        target = [value["target"][name] for name in ("flops", "n_params", "tokens")]
        positive = [value["loss"], value["sd_log_loss"], *(x for x in target if x is not None)]
        if not (all(0 < level < 1 for level in levels) and all(x > 0 for x in positive)):
            raise ValueError(f"{path}: a loss, deviation, target or level that is not positive")
        registered_time(value["registered_at"], path)
        check_components(value.get("distribution"), path)
    except ValueError as error:
        message = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise RegistrationError(f"{message}; not a registration") from error
    if _seal(value) != value["seal"]:
        raise RegistrationError(f"{path}: changed since it was registered (its seal is broken): it proves nothing")
    return value


def registered_time(text: str, path: str | Path) -> pd.Timestamp:
    """A time with its zone. Raises ValueError naming the file for another text."""
    try:
        time = pd.Timestamp(text)
    except (ValueError, TypeError, OverflowError):
        time = pd.NaT
    if time is pd.NaT or time.tzinfo is None:
        raise ValueError(
            f"{path}: registered_at is no time with a zone, such as 2026-01-01T00:00:00+00:00: {text[:60]!r}"
        )
    return time
