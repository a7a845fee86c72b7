"""Measure this machine for a study: a few steps of each of its shapes, with every core at work as in a sweep.

At most about ten seconds: one process a core, each with its share of the shapes, then one of them without company.
"""

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.cost.cost import REFERENCE, SMALL_STEP, Rate, cores, kind, work
from isoflop.experiments.cost.shape_key import place, shape_key
from isoflop.experiments.cost.speed_file import Measured, keep, known_speed
from isoflop.experiments.study.cell import Cell

SECONDS = 5.0  # of timing with company, after some three for imports
SHAPE_SECONDS = 1.0  # on CPU no shape has more of them
ALONE_SECONDS = 1.0
MOST_SHAPES = 24  # more are left to the formula, which is fitted to these
LONGEST_STEP = 1.0  # seconds; longer ones too, on CPU


class CalibrationError(ValueError):
    """The timing process ended without a result."""


def unknown_shapes(cells: Sequence[Cell], where: WhereSpec) -> list[Cell]:
    """One cell of each shape that was not measured on this machine, the smallest first."""
    known = known_speed(place(where), where.threads).rates
    return [cell for cell in _by_shape(cells) if shape_key(cell) not in known]


def measure(cells: Sequence[Cell], where: WhereSpec) -> None:
    """Measure the shapes of these cells and keep their rates for `known_speed`.

    Raises CalibrationError with the timing process's last message if it failed.
    """
    on_cpu = where.device == "cpu"
    chosen = _spread([cell for cell in _by_shape(cells) if not on_cpu or REFERENCE.step(cell) < LONGEST_STEP])
    if not chosen:
        return
    processes = 1 if where.device != "cpu" else max(1, min(cores() // where.threads, len(chosen)))
    shares = [chosen[i::processes] for i in range(processes)]
    seconds = min(SECONDS, SHAPE_SECONDS * len(shares[0])) if on_cpu else SECONDS  # alike for all: all have company
    began = time.monotonic()
    with _timers(shares, where) as timers:
        for timer in timers:
            _read(timer)
        start = time.monotonic() - began
        for timer, share in zip(timers, shares, strict=True):
            _ask(timer, seconds, 0, len(share))
        rates = [json.loads(_read(timer)) for timer in timers]
        alone = _alone(timers[-1], rates[-1]) if processes > 1 else 1.0
        side_by_side = _side_by_side(timers[0], shares[0]) if where.device != "cpu" else None
    shapes = {
        shape_key(cell): Measured(Rate(*rate), work(cell), kind(cell))
        for share, timed in zip(shares, rates, strict=True)
        for cell, rate in zip(share, timed, strict=True)
    }
    keep(
        shapes, start=start, alone=alone, device=place(where), threads=where.threads, side_by_side=side_by_side
    )  # fmt: skip


def _alone(timer: subprocess.Popen, company: list) -> float:
    """Time of a step while no other process runs over its time while all do, for the middle one of its cells."""
    middle = len(company) // 2
    _ask(timer, ALONE_SECONDS, middle, middle + 1)
    ((step, _),) = json.loads(_read(timer))
    return min(1.0, step / company[middle][0])


def _side_by_side(timer: subprocess.Popen, cells: Sequence[Cell]) -> float | None:
    """How many times as many steps a second a device takes of the middle one of the small cells, filled with them.

    None where no cell is small.
    """
    small = [i for i, cell in enumerate(cells) if cell.step_flops < SMALL_STEP]
    if not small:
        return None
    middle = small[len(small) // 2]
    _ask(timer, ALONE_SECONDS, middle, middle)
    return max(1.0, float(json.loads(_read(timer))))


def _by_shape(cells: Sequence[Cell]) -> list[Cell]:
    return sorted({shape_key(cell): cell for cell in cells}.values(), key=lambda cell: cell.step_flops)


def _spread(cells: Sequence[Cell]) -> list[Cell]:
    """At most MOST_SHAPES of these, evenly spaced over their order, the first and the last among them."""
    if len(cells) <= MOST_SHAPES:
        return list(cells)
    return [cells[round(i * (len(cells) - 1) / (MOST_SHAPES - 1))] for i in range(MOST_SHAPES)]


@contextmanager
def _timers(shares: list[list[Cell]], where: WhereSpec) -> Iterator[list[subprocess.Popen]]:
    """A process for each share of the cells, ended with the body."""
    command = [sys.executable, "-m", "isoflop.experiments.sweep.timing"]
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(where.threads))
    pipe = subprocess.PIPE
    timers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment) for _ in shares]
    try:
        for timer, share in zip(timers, shares, strict=True):
            _send(timer, pickle.dumps((share, where)))
        yield timers
    finally:
        for timer in timers:
            timer.kill()
            timer.communicate()


def _ask(timer: subprocess.Popen[bytes], seconds: float, first: int, end: int) -> None:
    """Have a process time its cells from `first` up to `end` for so many seconds."""
    _send(timer, json.dumps([seconds, first, end]).encode() + b"\n")


def _send(timer: subprocess.Popen[bytes], content: bytes) -> None:
    assert timer.stdin is not None
    timer.stdin.write(content)
    timer.stdin.flush()


def _read(timer: subprocess.Popen[bytes]) -> bytes:
    """The next line that a process prints. Raises CalibrationError with its last words when it has ended."""
    assert timer.stdout is not None
    assert timer.stderr is not None
    if line := timer.stdout.readline():
        return line
    lines = timer.stderr.read().decode(errors="replace").strip().splitlines()
    message = lines[-1] if lines else "a process ended without a message"
    raise CalibrationError(f"measuring this machine failed: {message}; --no-calibrate plans without")
