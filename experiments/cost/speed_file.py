"""The rates that were measured on this machine, kept between commands in the user's cache."""

import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TypedDict

import numpy as np

from isoflop.cache_folder import cache_folder, private_folder
from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.cost.cost import REFERENCE, START_SECONDS, Rate, Speed
from isoflop.experiments.cost.shape_key import engine_id
from isoflop.read_json import read_json

CARDS = Path(__file__).resolve().parent / "cards"  # a `SpeedFile` for each GPU
SHARE_OF_RATES = 3  # shapes from which the three rates of the formula are fitted; fewer scale the reference


class _Shape(TypedDict):
    rate: tuple[float, float]
    work: tuple[float, float, float]
    precision: str  # the kind of its step (`cost.kind`)


class SpeedFile(TypedDict):
    """What the file holds: the code that was measured, shapes by key, seconds of a start, share without company, how
    many times as many small steps a device takes when trunks fill it."""

    engine: str
    shapes: dict[str, _Shape]
    start: float
    alone: float
    side_by_side: float
    at: float


@dataclass(frozen=True)
class Measured:
    """One shape: its rate, what a step is made of (`cost.work`), and of which kind it is (`cost.kind`)."""

    rate: Rate
    work: tuple[float, float, float]
    kind: str = "float32"


def known_speed(device: str = "cpu", threads: int = 1) -> Speed:
    """What was measured on this machine with this code, else the reference."""
    try:
        kept = read_json(_file(device, threads), SpeedFile)
        return _speed_of(kept, threads) if kept["engine"] == engine_id() else REFERENCE
    except (OSError, ValueError, OverflowError):  # OverflowError: a moment that no clock has
        return REFERENCE


def card_names() -> list[str]:
    """The GPUs whose rates are shipped, for plans on machines that have none."""
    return sorted(path.stem for path in CARDS.glob("*.json"))


def speed_of_card(name: str) -> Speed:
    """The rates that were measured on a GPU of this name. Raises UsageError for one that there is not."""
    if name not in card_names():
        raise UsageError(f"--for {name}: rates are shipped of {', '.join(card_names())}")
    speed = _speed_of(read_json(CARDS / f"{name}.json", SpeedFile))
    return replace(speed, source=speed.source.replace("measured here", f"measured on a GPU of the kind {name}"))


def _speed_of(kept: SpeedFile, threads: int = 1) -> Speed:
    shapes = {
        key: Measured(Rate(*one["rate"]), tuple(one["work"]), one["precision"])  # type: ignore[arg-type]
        for key, one in kept["shapes"].items()
    }
    speed = to_speed(shapes, start=kept["start"], alone=kept["alone"], at=kept["at"], threads=threads)
    return replace(speed, side_by_side=kept["side_by_side"])


def keep(
    shapes: Mapping[str, Measured],
    *,
    start: float,
    alone: float,
    device: str,
    threads: int,
    side_by_side: float | None = None,
) -> None:
    """Add shapes to those measured with this code; what another code was measured with is dropped.

    `side_by_side` is left as it was, 1 at first, where these shapes do not tell it.
    """
    path = _file(device, threads)
    try:
        kept = read_json(path, SpeedFile)
        before, gain = (kept["shapes"], kept["side_by_side"]) if kept["engine"] == engine_id() else ({}, 1.0)
    except (OSError, ValueError):
        before, gain = {}, 1.0
    new = {
        key: {"rate": [one.rate.step, one.rate.token], "work": list(one.work), "precision": one.kind}
        for key, one in shapes.items()
    }
    now = {
        "engine": engine_id(), "shapes": before | new, "start": start, "alone": alone,
        "side_by_side": gain if side_by_side is None else side_by_side, "at": time.time(),
    }  # fmt: skip
    try:
        private_folder()
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(now))
        os.replace(temporary, path)
    except OSError as error:
        print(f"isoflop: what was timed is not kept for the next command: {error}", file=sys.stderr)


def to_speed(
    shapes: Mapping[str, Measured], *, start: float = START_SECONDS, alone: float = 1.0, at: float, threads: int = 1
) -> Speed:
    """The rates of every shape measured, and of all others by the formula fitted to them."""
    by_kind = {one.kind: [other for other in shapes.values() if other.kind == one.kind] for one in shapes.values()}
    formulas = {kind: _formula(by_kind[kind], kind) for kind in sorted(by_kind)}
    slower = np.median([one.rate.step / np.dot(one.work, REFERENCE.formula(one.kind)) for one in shapes.values()])
    for kind, rates in REFERENCE.formulas.items():  # of kinds that were not measured: as much slower as those that were
        layer, flop, activation = (float(slower * rate) for rate in rates)
        formulas.setdefault(kind, (layer, flop, activation))
    layer, flop, activation = formulas.get("float32") or next(iter(formulas.values()))
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
    source = f"{len(shapes)} shapes measured here, last on {when}, with every core at work"
    known = {key: one.rate for key, one in shapes.items()}
    return Speed(layer, flop, activation, source, known, start, alone, threads, formulas)


def _formula(shapes: list[Measured], kind: str) -> tuple[float, float, float]:
    """Seconds per layer, per FLOP and per activation of one kind of step: least squares of the relative error, so that
    small shapes count as much as large ones."""
    work = np.asarray([one.work for one in shapes])
    seconds = np.asarray([one.rate.step for one in shapes])
    reference = np.asarray(REFERENCE.formula(kind))
    if len(shapes) < SHARE_OF_RATES:
        layer, flop, activation = reference * np.median(seconds / (work @ reference))
    else:
        layer, flop, activation = _not_negative(work / seconds[:, None])
    return float(layer), float(flop), float(activation)


def _not_negative(work: np.ndarray) -> np.ndarray:
    """The rates of at least zero with which work (n, 3) takes nearest to one second each, by least squares.

    The best of those over which rates are above zero. scipy has `nnls`; importing it takes as long as planning.
    """
    best, least = np.zeros(work.shape[1]), np.inf
    for positive in product((True, False), repeat=work.shape[1]):
        rates = np.zeros(work.shape[1])
        rates[[*positive]] = np.linalg.lstsq(work[:, positive], np.ones(len(work)), rcond=None)[0]
        off = float(np.sum((work @ rates - 1) ** 2))
        if rates.min() >= 0 and off < least:
            best, least = rates, off
    return best


def _file(device: str, threads: int) -> Path:
    return cache_folder() / f"speed-{platform.node()}-{device.replace(':', '')}-{threads}.json"
