"""Predictions on the record: written before the run, with the hash of the data behind them, and scored after it.

A registration is one JSON file. It seals itself (a hash of its own content) and the data (a hash of the runs fitted),
so that neither can be improved once the answer is known.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from isoflop.scaling.approaches.isoflop_profiles import isoflop_profiles
from isoflop.scaling.prediction.forecast import Outlook, Target
from isoflop.scaling.table.conventions import Points, points
from isoflop.scaling.table.read import read_table
from isoflop.scaling.table.version import code_version

FORMAT = 1
SAME_BUDGET = 0.1  # in ln FLOPs: runs this close to the target answer it
SAME_CELL = 0.05  # in ln of parameters and of tokens
HASHED = ("n_params", "tokens", "flops", "loss")


class RegistrationError(ValueError):
    """A registration that cannot be trusted, or that no run answers."""

    exit_code = 1


def register(said: Outlook, path: str | Path, *, table: str | Path) -> dict[str, Any]:
    """Write a prediction to `path`, which must not exist yet; returns what was written."""
    path = Path(path)
    fresh(path)
    value = {
        "format": FORMAT,
        "registered_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "code_version": code_version(),
        "data": {
            "table": os.path.relpath(Path(table).resolve(), path.resolve().parent),
            "sha256": data_hash(said.points),
            "n_runs": len(said.points),
            "run_ids": sorted(said.points.frame["run_id"]) if "run_id" in said.points.frame else None,
        },
        **said.to_dict(),
    }
    value["seal"] = _seal(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "x") as file:
        file.write(json.dumps(value, indent=2) + "\n")
    return value


def data_hash(data: Points) -> str:
    """sha256 of the runs fitted: their parameters, tokens, FLOPs and losses in full precision, in any order."""
    rows = sorted(",".join(float(x).hex() for x in row) for row in data.frame[list(HASHED)].to_numpy(float))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _seal(value: Mapping[str, Any]) -> str:
    content = {k: v for k, v in value.items() if k != "seal"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Score:
    """A registered prediction against what came out. `z` is in standard deviations of ln loss."""

    target: Target
    predicted: float
    measured: float
    z: float
    covered: dict[float, bool]
    n_predicted: float | None
    n_measured: float | None
    n_covered: bool | None
    how: str
    registered_at: str

    @property
    def error(self) -> float:
        """Predicted over measured loss, less 1."""
        return self.predicted / self.measured - 1

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "target": {"flops": self.target.flops, "n_params": self.target.n_params, "tokens": self.target.tokens},
            "predicted": self.predicted, "measured": self.measured, "error": self.error, "z": self.z,
            "covered": {f"{level:g}": hit for level, hit in self.covered.items()},
            "n_opt": {"predicted": self.n_predicted, "measured": self.n_measured, "covered": self.n_covered},
            "measured_by": self.how, "registered_at": self.registered_at,
        }  # fmt: skip

    def __str__(self) -> str:
        hits = ", ".join(f"{level:.0%} {'yes' if hit else 'no'}" for level, hit in self.covered.items())
        lines = [
            f"registered {self.registered_at}: loss of {self.target}",
            f"  predicted {self.predicted:.4f}, measured {self.measured:.4f} ({self.how})",
            f"  error {self.error:+.2%}, z {self.z:+.2f}; inside the interval: {hits}",
        ]
        if self.n_predicted and self.n_measured:
            inside = "inside" if self.n_covered else "outside"
            ratio = self.n_predicted / self.n_measured
            lines.append(
                f"  best size: predicted {self.n_predicted:.4g}, measured {self.n_measured:.4g} (ratio {ratio:.2f}, "
                f"{inside} its interval)"
            )
        return "\n".join(lines)


def fresh(path: str | Path) -> None:
    """Raise RegistrationError if a registration exists at `path`."""
    if Path(path).exists():
        raise RegistrationError(f"{path} exists: a registered prediction is never overwritten; choose another name")


def score(path: str | Path, table: pd.DataFrame, *, data: pd.DataFrame | None = None) -> Score:
    """Score the registration at `path` by the runs of a table. `data` replaces the table it was fitted to, if moved.

    Raises RegistrationError when the file or its data has changed since, or no run answers the target.
    """
    value = _read(Path(path))
    _check_data(Path(path), value, data)
    conventions = value["conventions"]
    found = points(table, **{k: v for k, v in conventions.items() if v != "as given" and _is_runs_table(table)})
    target = Target(**value["target"])
    loss, n_opt, how = _measure(found, target)
    sd, centre = value["sd_log_loss"], np.log(value["loss"])
    covered = {float(level): lo <= loss <= hi for level, (lo, hi) in value["intervals"].items()}
    between = value["n_opt_interval"]
    inside = bool(between[0] <= n_opt <= between[1]) if between and n_opt else None
    return Score(
        target, value["loss"], loss, float((np.log(loss) - centre) / sd), covered, value["n_opt"], n_opt, inside, how,
        value["registered_at"],
    )  # fmt: skip


def _is_runs_table(table: pd.DataFrame) -> bool:
    return "n_params_total" in table


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise RegistrationError(f"{path}: no such registration") from None
    except ValueError as error:
        raise RegistrationError(f"{path}: not a registration ({error})") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT or "seal" not in value:
        raise RegistrationError(f"{path}: not a registration that this version reads (format {FORMAT})")
    if _seal(value) != value["seal"]:
        raise RegistrationError(f"{path}: changed since it was registered (its seal is broken): it proves nothing")
    return value


def _check_data(path: Path, value: Mapping[str, Any], data: pd.DataFrame | None) -> None:
    """Refuse a registration whose data are gone or are not what they were."""
    told = value["data"]
    source = path.resolve().parent / told["table"]
    if data is None:
        if not source.exists():
            raise RegistrationError(f"{source}: the data behind {path} are not there; name them with --data")
        data = read_table(source)
    if told["run_ids"] is not None and "run_id" in data:
        data = data[data["run_id"].isin(told["run_ids"])]
    if data.empty:
        raise RegistrationError(f"none of the {told['n_runs']} runs behind {path} is in its data")
    used = {k: v for k, v in value["conventions"].items() if v != "as given" and _is_runs_table(data)}
    if data_hash(points(data, **used)) != told["sha256"]:
        raise RegistrationError(
            f"{path}: the {told['n_runs']} runs it was made from have changed since (hash of {told['table']}): refused"
        )


def _measure(found: Points, target: Target) -> tuple[float, float | None, str]:
    """Loss, best size and how they were measured, from the runs that answer the target."""
    frame = found.frame
    if not target.optimal:
        assert target.n_params is not None
        assert target.tokens is not None
        off = np.maximum(
            np.abs(np.log(frame["n_params"] / target.n_params)), np.abs(np.log(frame["tokens"] / target.tokens))
        )
        hits = frame[off < SAME_CELL]
        if hits.empty:
            raise RegistrationError(f"no run of {target} in the table: train it, then score")
        return float(np.exp(np.log(hits["loss"]).mean())), None, f"mean of {len(hits)} runs"
    hits = frame[np.abs(np.log(frame["flops"] / target.flops)) < SAME_BUDGET]
    if hits.empty:
        raise RegistrationError(
            f"no run near {target.flops:.4g} FLOPs in the table (it has {frame['flops'].min():.3g} to "
            f"{frame['flops'].max():.3g}): train the budget, then score"
        )
    profiles = [p for p in isoflop_profiles(found) if abs(np.log(p.flops / target.flops)) < SAME_BUDGET]
    if profiles and profiles[0].accepted:
        return profiles[0].loss_opt, profiles[0].n_opt, f"minimum of the isoFLOP profile of {len(hits)} runs"
    best = hits.loc[hits["loss"].idxmin()]
    return float(best["loss"]), float(best["n_params"]), f"best of {len(hits)} runs"
