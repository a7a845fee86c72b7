"""How a registered prediction held: the runs made since that measure its target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from isoflop.printable import loss_text
from isoflop.scaling.approaches.isoflop_profiles import isoflop_profiles
from isoflop.scaling.findings.finding import Finding, rows_of
from isoflop.scaling.findings.settings import setting_findings
from isoflop.scaling.prediction.forecast import Target
from isoflop.scaling.prediction.registered.comparable import of_the_kind, other_settings
from isoflop.scaling.prediction.registered.reading import Reading
from isoflop.scaling.prediction.registered.register import (
    HASHED,
    RegistrationError,
    data_hash,
    read_registration,
)
from isoflop.scaling.table.bundle.hub import on_hub
from isoflop.scaling.table.conventions import AS_GIVEN, Points, points
from isoflop.scaling.table.runs import is_runs

SAME_BUDGET = 0.1  # in ln FLOPs: runs this close to the target's compute measure it
SAME_CELL = 0.05  # in ln parameters and ln tokens: likewise for a target of a given size
NEXT_TO = 0.002  # in ln: so near, a loss is that at the target
FITTED = "that the prediction was fitted to"
EARLY = "made before it was registered"


@dataclass(frozen=True)
class Score:
    """A registered prediction against the measured loss, in nats per token.

    `z` is measured less predicted in standard deviations of ln loss, `covered` says of each level whether its interval
    holds the measured loss, `how` names the measurement, `runs` the runs behind it, `left_out` counts by reason those
    of the table that were not allowed to score, `notes` what was done to those that did, `findings` what may be wrong
    with these. The sizes are None for a target of given size, or where no profile or
    run measures the best one.
    """

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
    runs: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def limit(self) -> str:
        """How near to the target a run must be to score it."""
        if self.target.optimal:
            return f"within {np.expm1(SAME_BUDGET):.1%} of the target's compute"
        return f"within {np.expm1(SAME_CELL):.1%} of the target's parameters and tokens"

    @property
    def error(self) -> float:
        """Predicted over measured loss, less 1."""
        return self.predicted / self.measured - 1

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "target": dict(vars(self.target)),
            "predicted": self.predicted, "measured": self.measured, "error": self.error, "z": self.z,
            "covered": {f"{level:g}": hit for level, hit in self.covered.items()},
            "n_opt": {"predicted": self.n_predicted, "measured": self.n_measured, "covered": self.n_covered},
            "measured_by": self.how, "registered_at": self.registered_at,
            "runs": list(self.runs), "left_out": dict(self.left_out), "limit": self.limit,
            "notes": list(self.notes), "findings": [finding.to_dict() for finding in self.findings],
        }  # fmt: skip

    def __str__(self) -> str:
        hits = ", ".join(f"{level:.0%} {'yes' if hit else 'no'}" for level, hit in self.covered.items())
        lines = [
            f"registered {self.registered_at}: loss of {self.target}",
            f"  predicted {loss_text(self.predicted)}, measured {loss_text(self.measured)} ({self.how})",
            f"  error {self.error:+.2%} (predicted / measured - 1), {abs(self.z):.2f} standard deviations; inside the "
            f"interval: {hits}",
        ]
        if self.n_predicted and self.n_measured:
            inside = "inside" if self.n_covered else "outside"
            ratio = self.n_predicted / self.n_measured
            lines.append(
                f"  best size: predicted {self.n_predicted:.4g}, measured {self.n_measured:.4g} (ratio {ratio:.2f}, "
                f"{inside} its interval)"
            )
        lines.append(f"  scored by {len(self.runs)} runs {self.limit}: {', '.join(self.runs)}")
        lines += [f"  not counted: {n} runs {why}" for why, n in self.left_out.items()]
        return "\n".join([*lines, *map(str, self.findings), *(f"note: {note}" for note in self.notes)])


def score(path: str | Path, table: pd.DataFrame, *, data: pd.DataFrame | None = None) -> Score:
    """Score the registration at `path` by the runs of `table`, which measure the loss at its target.

    `data` stands in for the table that the prediction was fitted to, where that has moved. Runs that the prediction was
    fitted to, runs made before it was registered, and runs of another kind (an arm, a text, a setting that was chosen)
    never score. Raises RegistrationError when the file or its data has changed since, the losses are in another unit,
    or no other run of `table` measures the target.
    """
    try:
        return score_registration(read_registration(Path(path)), Path(path), table, data=data)
    except RegistrationError as error:
        raise RegistrationError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def score_registration(
    value: Mapping[str, Any], path: Path, table: pd.DataFrame, *, data: pd.DataFrame | None = None
) -> Score:
    """As `score`, of a registration whose values were read before; `path` is a file of the folder it is kept in."""
    fitted, known = _check_data(path, value, data)
    target = Target(*(value["target"].get(name) for name in ("flops", "n_params", "tokens", "unique_tokens")))
    source = str(table.attrs.get("source", "the table"))
    found, rows, left_out, notes = _made_since(table, value, fitted, known)
    if len(found) and found.loss_unit != known.loss_unit:
        raise RegistrationError(
            f"the forecast is of a loss in {known.loss_unit}, and that of {source} is in {found.loss_unit}: name the "
            "column of the same loss with --map loss=COLUMN"
        )
    near = _near(found.frame, target)
    hits = found.frame[near]
    if hits.empty:
        raise RegistrationError(_nothing_near(_points(table, value).frame, source, target, left_out))
    findings: tuple[Finding, ...] = ()
    if rows is not None:
        notes += other_settings(rows[near], fitted)
        findings = setting_findings(rows[near], replace(found, frame=hits.reset_index(drop=True)))
    loss, n_opt, how = _measure(found, target, _carried(hits, target, value.get("slopes") or {}, notes))
    sd, centre = value["sd_log_loss"], np.log(value["loss"])
    covered = {float(level): _holds(pair, loss) for level, pair in value["intervals"].items()}
    between = value["n_opt_interval"]
    inside = _holds(between, n_opt) if between and n_opt else None
    return Score(
        target, value["loss"], loss, float((np.log(loss) - centre) / sd), covered, value["n_opt"], n_opt, inside, how,
        value["registered_at"], _names(hits), left_out, tuple(notes), findings,
    )  # fmt: skip


def _holds(interval: Sequence[float | None], value: float) -> bool:
    lo, hi = interval
    return bool((lo is None or lo <= value) and (hi is None or value <= hi))


def _points(table: pd.DataFrame, value: Mapping[str, Any]) -> Points:
    """The points of a table under the conventions of a registration."""
    if not is_runs(table):
        return points(table)
    chosen = {k: v for k in ("params", "compute") if (v := value["conventions"][k]) != AS_GIVEN}
    return points(table, **chosen)


def _made_since(
    table: pd.DataFrame, value: Mapping[str, Any], fitted: pd.DataFrame, known: Points
) -> tuple[Points, pd.DataFrame | None, dict[str, int], list[str]]:
    """The points of the runs that may score, their rows (None where these cannot be told), how many others there are by
    reason, and what is to be said of them."""
    ids = set(value["data"]["run_ids"] or ())
    seen = table["run_id"].isin(ids) if "run_id" in table else pd.Series(False, index=table.index)
    early = _made_by(table, pd.Timestamp(value["registered_at"])) & ~seen
    left = _counted(table, seen, early)
    rest = table[~(seen | early)]
    rest.attrs = table.attrs
    rest, others, notes = of_the_kind(rest, fitted, Reading.of(value["data"].get("read", {})))
    left |= others
    if rest.empty:
        return replace(known, frame=known.frame.iloc[:0]), None, left, notes
    found = _points(rest, value)
    rows = rows_of(rest, found.frame)
    cells = {_cell(row) for row in known.frame[list(HASHED)].to_numpy(float)}
    new = np.array([_cell(row) not in cells for row in found.frame[list(HASHED)].to_numpy(float)], dtype=bool)
    if not new.all():
        left[FITTED] = left.get(FITTED, 0) + int((~new).sum())
    kept = None if rows is None else rows[new].reset_index(drop=True)
    return replace(found, frame=found.frame[new].reset_index(drop=True)), kept, left, notes


def _cell(row: np.ndarray) -> tuple[float, ...]:
    return tuple(float(x) for x in row)


def _counted(table: pd.DataFrame, seen: pd.Series, early: pd.Series) -> dict[str, int]:
    """How many runs are left out by reason: rows of a run table are many a run."""

    def runs(mask: pd.Series) -> int:
        return int(table.loc[mask, "run_id"].nunique()) if "run_id" in table else int(mask.sum())

    return {why: n for why, n in ((FITTED, runs(seen)), (EARLY, runs(early))) if n}


def _made_by(table: pd.DataFrame, when: pd.Timestamp) -> pd.Series:
    """Which rows are of runs made by a time, as far as their `created_at` says (n,)."""
    if "created_at" not in table:
        return pd.Series(False, index=table.index)
    made = pd.to_datetime(table["created_at"].astype(str), utc=True, errors="coerce", format="ISO8601")
    early = made <= when
    return early.groupby(table["run_id"]).transform("any") if "run_id" in table else early


def _near(frame: pd.DataFrame, target: Target) -> pd.Series:
    """The runs (bool) close enough to the target to measure it."""
    if target.optimal:
        return np.abs(np.log(frame["flops"] / target.flops)) < SAME_BUDGET
    wanted = {"n_params": target.n_params, "tokens": target.tokens, "unique_tokens": target.unique_tokens}
    near = pd.Series(True, index=frame.index)
    for name, value in wanted.items():
        if value is not None and name in frame:
            near &= np.abs(np.log(frame[name] / value)) < SAME_CELL
    return near


def _carried(hits: pd.DataFrame, target: Target, slopes: Mapping[str, float], notes: list[str]) -> pd.DataFrame:
    """The runs near the target with the losses that they would have at it, by the slopes of the forecast's own law
    where its registration holds them; `notes` say how far they were carried, or what was not."""
    given = {"flops": target.flops} if target.optimal else {"n_params": target.n_params, "tokens": target.tokens}
    away = {name: np.log(value / hits[name].astype(float)) for name, value in given.items() if value is not None}
    off = max(away, key=lambda name: float(away[name].abs().max()))
    far = float(away[off].iloc[away[off].abs().argmax()])
    if abs(far) <= NEXT_TO or not set(away) <= set(slopes):
        if abs(far) > NEXT_TO:
            notes.append(
                f"{off} of the runs lie up to {np.expm1(-far):+.1%} from the target, and the registration holds no "
                "slopes that would tell their losses at it"
            )
        return hits
    moved = sum(slopes[name] * distance for name, distance in away.items())
    most = float(moved.iloc[moved.abs().argmax()])
    notes.append(
        f"{off} of the runs lie up to {np.expm1(-far):+.1%} from the target: they are carried there by the slopes of "
        f"the forecast's law, their losses by up to {np.expm1(most):+.2%}"
    )
    carried = hits.assign(loss=hits["loss"] * np.exp(moved))
    if not target.optimal:
        return carried
    size = slopes.get("n_opt", 0.0) * away["flops"]  # a profile moves as its best size does
    return carried.assign(
        n_params=hits["n_params"] * np.exp(size), tokens=hits["tokens"] * np.exp(away["flops"] - size),
        flops=target.flops,
    )  # fmt: skip


def _names(hits: pd.DataFrame) -> tuple[str, ...]:
    if "run_id" in hits:
        return tuple(hits["run_id"].astype(str))
    return tuple(f"{r.n_params:.4g} parameters on {r.tokens:.4g} tokens" for r in hits.itertuples())


def _nothing_near(frame: pd.DataFrame, source: str, target: Target, left_out: Mapping[str, int]) -> str:
    if _near(frame, target).any():
        why = ", ".join(f"{n} runs {reason}" for reason, n in left_out.items())
        return f"no run of {target} in {source} may score this registration ({why}): train it, then score"
    if not target.optimal:
        return f"no run of {target} in {source}: train it, then score"
    lowest, highest = frame["flops"].min(), frame["flops"].max()
    return (
        f"no run near {target.flops:.4g} FLOPs in {source} (it has {lowest:.3g} to {highest:.3g}): train the budget, "
        "then score"
    )


def _check_data(path: Path, value: Mapping[str, Any], data: pd.DataFrame | None) -> tuple[pd.DataFrame, Points]:
    """The runs that the prediction was fitted to, and their points. Raises RegistrationError if these have changed."""
    fitted = value["data"]
    source = Path(fitted["table"]) if on_hub(fitted["table"]) else path.resolve().parent / fitted["table"]
    if data is None:
        if not on_hub(source) and not source.exists():
            raise RegistrationError(f"{source}: the data behind {path} are not there; put them back, and score again")
        data = Reading.of(fitted.get("read", {})).again(source, fitted["run_ids"])
    elif fitted["run_ids"] is not None and "run_id" in data:
        data = data[data["run_id"].isin(fitted["run_ids"])]
    if data.empty:
        raise RegistrationError(f"none of the {fitted['n_runs']} runs behind {path} is in its data")
    known = _points(data, value)
    if data_hash(known) != fitted["sha256"]:
        raise RegistrationError(
            f"{path}: the {fitted['n_runs']} runs that it was fitted to have changed since (hash of "
            f"{fitted['table']}): it cannot be scored"
        )
    return data, known


def _measure(found: Points, target: Target, hits: pd.DataFrame) -> tuple[float, float | None, str]:
    """Measured loss, best size (None for a target of given size) and how the runs in `hits` measured them."""
    if not target.optimal:
        return float(np.exp(np.log(hits["loss"]).mean())), None, f"mean of {len(hits)} runs"
    near = replace(found, frame=hits.reset_index(drop=True))
    profiles = [one for one in isoflop_profiles(near) if one.accepted]
    if profiles:
        nearest = min(profiles, key=lambda one: abs(np.log(one.flops / target.flops)))
        runs = len(nearest.frame)
        return nearest.loss_opt, nearest.n_opt, f"minimum of the isoFLOP profile of {runs} runs"
    best = hits.loc[hits["loss"].idxmin()]
    return float(best["loss"]), float(best["n_params"]), f"best of {len(hits)} runs"
