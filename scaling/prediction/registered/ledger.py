"""A ledger of registered forecasts: a file of JSON lines, a forecast or a score each, that is only ever added to.

    {"format": 1, "entry": "forecast", "folder": "..", "registration": {...}, "previous": "..", "hash": ".."}
    {"format": 1, "entry": "score", "seal": of the registration, "measured": .., "pit": .., "crps": .., ...}

Each registration holds its own seal, and each line a SHA-256 of itself and that of the line before: a forecast that was
changed or taken out after the runs were known is found. A forecast is scored once, by the rule of registrations: runs
that it was fitted to, and runs made before it was registered, never count.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
import pandas as pd

from isoflop.answer import Answer
from isoflop.printable import loss_text
from isoflop.read_json import JsonError, check_shape, parse_json, read_bytes, require_regular
from isoflop.scaling.prediction.forecast import LossForecast, Target
from isoflop.scaling.prediction.registered.distribution import predictive
from isoflop.scaling.prediction.registered.reading import AS_IS, Reading
from isoflop.scaling.prediction.registered.register import (
    RegistrationError,
    checked_registration,
    read_registration,
    registration,
)
from isoflop.scaling.prediction.registered.score import score_registration
from isoflop.scaling.table.json_plain import plain

SUFFIX = ".jsonl"
FORMAT = 1
LEVELS = (0.5, 0.9)  # of the central intervals whose coverage is counted
ENOUGH = 10  # scored forecasts, before anything is said of how sure forecasts are


class _Line(TypedDict):
    format: int
    entry: Literal["forecast", "score"]
    previous: str
    hash: str


class _Forecast(_Line):
    folder: str
    registration: dict[str, Any]


class _Score(_Line):
    """What is kept of a score; the other keys of `register.Score.to_dict` are there too."""

    seal: str
    measured: float
    error: float
    z: float
    pit: float
    crps: float
    measured_by: str
    runs: list[str]
    left_out: NotRequired[dict[str, int]]


@dataclass(frozen=True)
class Entry:
    """A forecast in a ledger, the folder that its table is named from, and its score, None until its runs exist."""

    registration: Mapping[str, Any]
    folder: str
    score: Mapping[str, Any] | None = None
    reason: str = ""

    @property
    def target(self) -> Target:
        """The run that was forecast."""
        stated = self.registration["target"]
        return Target(*(stated.get(name) for name in ("flops", "n_params", "tokens", "unique_tokens")))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        known = self.registration
        row = {
            "seal": known["seal"], "registered_at": known["registered_at"], "target": dict(vars(self.target)),
            "reach": known.get("reach"), "loss": known["loss"], "sd_log_loss": known["sd_log_loss"],
            "exact": "distribution" in known, "scored": self.score is not None,
        }  # fmt: skip
        names = ("measured", "error", "z", "pit", "crps", "measured_by", "runs")
        return row | {name: self.score[name] if self.score else None for name in names} | {"reason": self.reason}


@dataclass(frozen=True, repr=False, eq=False)
class Ledger(Answer):
    """The forecasts of a ledger in the order in which they were entered."""

    path: Path
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()

    @property
    def scored(self) -> list[Entry]:
        """Those whose runs were measured."""
        return [entry for entry in self.entries if entry.score is not None]

    def summary(self) -> dict[str, Any]:
        """How many forecasts there are, and how they held; None where too few were scored to say."""
        from scipy.stats import binomtest, kstest  # slow to import, and only this needs them

        scores = [entry.score for entry in self.scored if entry.score]
        pit = np.array([score["pit"] for score in scores])
        enough = len(scores) >= ENOUGH
        inside = {}
        for level in LEVELS:
            hits = int((np.abs(pit - 0.5) <= level / 2).sum())
            test = binomtest(hits, len(scores), level) if scores else None
            ci = test.proportion_ci(0.9, "exact") if test and enough else None
            inside[f"{level:g}"] = {
                "inside": hits,
                "share": hits / len(scores) if scores else None,
                "interval": [float(ci.low), float(ci.high)] if ci else None,
                "p": float(test.pvalue) if test and enough else None,
            }
        return {
            "forecasts": len(self.entries),
            "scored": len(scores),
            "waiting": len(self.entries) - len(scores),
            "tables": len({entry.registration["data"]["sha256"] for entry in self.scored}),
            "mean_crps": float(np.mean([score["crps"] for score in scores])) if scores else None,
            "mean_abs_z": float(np.mean([abs(score["z"]) for score in scores])) if scores else None,
            "mean_abs_error": float(np.mean([abs(score["error"]) for score in scores])) if scores else None,
            "inside": inside,
            "pit_uniform_p": float(kstest(pit, "uniform").pvalue) if enough else None,
            "enough": ENOUGH,
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: every forecast, and the summary."""
        return {
            "ledger": str(self.path), "forecasts": [entry.to_dict() for entry in self.entries],
            "summary": self.summary(), "conventions": {"crps": "of ln loss", "pit": "of ln loss"}, "findings": [],
            "notes": list(self.notes),
        }  # fmt: skip

    def __str__(self) -> str:
        head = f"  {'registered':<10} {'reach':>6} {'predicted':>9} {'sd ln':>6} {'measured':>8} {'error':>7} {'z':>6} {'PIT':>5} {'CRPS':>6}  run"  # noqa: E501
        plural = "" if len(self.entries) == 1 else "s"
        lines = [f"{self.path}: {len(self.entries)} forecast{plural}, {len(self.scored)} scored", head]
        lines += [_row(entry) for entry in self.entries]
        lines += _summary_lines(self.summary())
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _row(entry: Entry) -> str:
    known, score = entry.registration, entry.score
    reach = f"{known['reach']:.3g}x" if isinstance(known.get("reach"), int | float) else ""
    row = f"  {known['registered_at'][:10]:<10} {reach:>6} {loss_text(known['loss']):>9} {known['sd_log_loss']:>6.2%}"
    if score is None:
        why = f": {entry.reason}" if entry.reason else ""
        return f"{row} {'waits':>8} {'':>7} {'':>6} {'':>5} {'':>6}  {entry.target}{why}"
    numbers = f"{loss_text(score['measured']):>8} {score['error']:>+7.2%} {score['z']:>+6.2f} {score['pit']:>5.2f}"
    return f"{row} {numbers} {score['crps']:>6.4f}  {entry.target}"


def _summary_lines(found: Mapping[str, Any]) -> list[str]:
    if not found["scored"]:
        return ["no forecast is scored yet: train its runs, then --score TABLE"]
    lines = [
        f"mean CRPS {found['mean_crps']:.4f} (ln loss), mean |z| {found['mean_abs_z']:.2f}, mean |error| "
        f"{found['mean_abs_error']:.2%}"
    ]
    for level, row in found["inside"].items():
        line = f"inside the central {float(level):.0%}: {row['inside']} of {found['scored']}"
        if row["interval"]:
            lo, hi = row["interval"]
            line += f" (90% interval of the share {lo:.2f} to {hi:.2f}, exact binomial p {row['p']:.2g})"
        lines.append(line)
    if found["pit_uniform_p"] is None:
        lines.append(f"too few to say how sure forecasts should be: {found['scored']} scored, {ENOUGH} are needed")
    else:
        lines.append(f"PIT against uniform: Kolmogorov-Smirnov p {found['pit_uniform_p']:.2g}")
    if found["tables"] < found["scored"]:
        lines.append(
            f"the {found['scored']} rest on {found['tables']} tables: those of one table share its errors, and the "
            "tests take them as independent"
        )
    return lines


def read_ledger(path: str | Path) -> Ledger:
    """The ledger at `path`. Raises RegistrationError naming the line that is no entry, was changed, or lacks a line.

    >>> import isoflop
    >>> from importlib.resources import files
    >>> kept = isoflop.ledger(str(files("isoflop.experiments") / "results" / "forecasts.jsonl"))
    >>> kept.summary()["scored"] >= 1
    True
    """
    path = Path(path)
    try:
        if content := read_bytes(path):
            return _parsed(path, content)
        raise RegistrationError(f"{path}: the file is empty; --register {path} of a forecast begins a ledger")
    except FileNotFoundError:
        raise RegistrationError(f"{path}: no such ledger; --register {path} of a forecast begins one") from None
    except JsonError as error:
        raise RegistrationError(f"{error}; not a ledger of forecasts") from error


def register_in(
    path: str | Path, forecast: LossForecast, *, table: str | Path, reading: Reading = AS_IS
) -> dict[str, Any]:
    """Add a forecast to the ledger at `path`, which is begun where there is none.

    It was made from the table at `table`, which was read with the options of `reading`.
    """
    value = registration(forecast, Path(path).parent, table=table, reading=reading)
    _append(Path(path), [_forecast_entry(value, ".")])
    return value


def enter(path: str | Path, file: str | Path) -> dict[str, Any]:
    """Add the registration in `file` to the ledger at `path`. Raises RegistrationError where it is there already."""
    value = read_registration(Path(file))
    folder = os.path.relpath(Path(file).resolve().parent, Path(path).resolve().parent)
    _append(Path(path), [_forecast_entry(value, folder)])
    return value


def score_ledger(path: str | Path, table: pd.DataFrame) -> Ledger:
    """Score every forecast of the ledger at `path` that the runs of `table` measure and that has no score yet.

    The scores are added to the file; a forecast that cannot be scored keeps the reason in `Entry.reason`.
    """
    path = Path(path)
    reasons, new, notes = {}, [], []
    for entry in read_ledger(path).entries:
        seal = entry.registration["seal"]
        try:
            found = score_registration(entry.registration, path.resolve().parent / entry.folder / "ledger", table)
        except RegistrationError as error:
            reasons[seal] = str(error)
            continue
        if entry.score is None:
            forecast, log_loss = predictive(entry.registration), float(np.log(found.measured))
            scored = found.to_dict() | {"pit": forecast.cdf(log_loss), "crps": forecast.crps(log_loss)}
            new.append({"format": FORMAT, "entry": "score", "seal": seal} | scored)
            notes += [f"{entry.target}: {text}" for text in (*map(str, found.findings), *found.notes)]
        elif found.measured != entry.score["measured"]:
            notes.append(
                f"{entry.target}: scored before by {entry.score['measured']:.6g}; this table says "
                f"{found.measured:.6g}, which is not counted: a forecast is scored once"
            )
    if new:
        _append(path, new)
    made = read_ledger(path)
    entries = [
        Entry(e.registration, e.folder, e.score, "" if e.score else reasons.get(e.registration["seal"], ""))
        for e in made.entries
    ]  # fmt: skip
    return Ledger(path, tuple(entries), tuple(notes))


def _forecast_entry(value: Mapping[str, Any], folder: str) -> dict[str, Any]:
    return {"format": FORMAT, "entry": "forecast", "folder": folder, "registration": value}


def _append(path: Path, entries: list[dict[str, Any]]) -> None:
    """Add lines at the end, each with the hash of the one before, while no other process does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        require_regular(path)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        content = file.read()
        known = {entry.registration["seal"]: entry for entry in _parsed(path, content).entries} if content else {}
        same = {_question(entry.registration) for entry in known.values()}
        lines = content.splitlines()
        previous, added = json.loads(lines[-1])["hash"] if lines else "", b""
        for entry in entries:
            if entry["entry"] == "forecast" and _question(entry["registration"]) in same:
                target = Entry(entry["registration"], ".").target
                raise RegistrationError(f"{path}: a forecast of {target} from the same runs is in it already")
            line = plain(entry) | {"previous": previous}
            previous = _hash(line)
            added += json.dumps(line | {"hash": previous}, allow_nan=False).encode() + b"\n"
        _parsed(path, content + added)  # nothing is written that could not be read back
        file.write(added)
        file.flush()
        os.fsync(file.fileno())


def _question(value: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a forecast is of: its target, from which runs, counted how."""
    target = {name: part for name, part in value["target"].items() if part is not None}
    return json.dumps(target, sort_keys=True), value["data"]["sha256"], json.dumps(value["conventions"], sort_keys=True)


def _parsed(path: Path, content: bytes) -> Ledger:
    """The entries in the content of a ledger."""
    entries: dict[str, Entry] = {}
    previous = ""
    if content and not content.endswith(b"\n"):
        raise RegistrationError(f"{path}: its last line was cut short: delete that line")
    for number, raw in enumerate(content.splitlines(), 1):
        source = f"{path}, line {number}"
        try:
            value = parse_json(raw, _Line, source=source, nan=True)  # an earlier version wrote Infinity for open ends
            check_shape(value, _Forecast if value["entry"] == "forecast" else _Score, source=source)
            if value["format"] != FORMAT:
                raise JsonError(f"{source}: format {value['format']}, this version reads {FORMAT}")
        except JsonError as error:
            raise RegistrationError(f"{error}; not an entry of a ledger") from error
        if value["previous"] != previous:
            raise RegistrationError(f"{source}: does not follow the line before: a line was changed or taken out")
        previous = value["hash"]
        if previous != _hash({key: part for key, part in value.items() if key != "hash"}):
            raise RegistrationError(f"{source}: changed since it was written (its hash is another)")
        if value["entry"] == "forecast":
            found = _registered(value["registration"], source)
            if found["seal"] in entries:
                raise RegistrationError(f"{source}: that forecast is in an earlier line")
            entries[found["seal"]] = Entry(found, value["folder"])
        else:
            known = entries.get(value["seal"])
            if known is None or known.score is not None:
                raise RegistrationError(f"{source}: a score of no forecast that waits for one")
            entries[value["seal"]] = Entry(known.registration, known.folder, _checked_score(value, source))
    return Ledger(path, tuple(entries.values()))


def _registered(value: dict[str, Any], source: str) -> dict[str, Any]:
    if not isinstance(value.get("format"), int) or not isinstance(value.get("seal"), str):
        raise RegistrationError(f"{source}: its registration has no format or no seal; not an entry of a ledger")
    return checked_registration(value, source)


def _checked_score(value: dict[str, Any], source: str) -> dict[str, Any]:
    if not (value["measured"] > 0 and 0 <= value["pit"] <= 1 and value["crps"] >= 0):
        raise RegistrationError(f"{source}: a loss, PIT or CRPS that none can have; not an entry of a ledger")
    return value


def _hash(line: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()
