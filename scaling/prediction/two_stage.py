"""From compute to a score on a task in two stages: (N, D) -> loss -> accuracy  (Bhagia et al. 2024, arXiv 2412.04403).

The first stage is a scaling law of the loss. The second is a sigmoid of the loss between the score of guessing and a
ceiling: loss falls smoothly while a task is still at chance, so that a law of the accuracy alone would see a jump. Both
are fitted by `scaling.fitting.fit`; intervals leave out the same runs from both stages at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from isoflop.printable import loss_text
from isoflop.scaling.findings.diagnose import Finding, diagnose
from isoflop.scaling.fitting.fit import Fit, FitError, fit
from isoflop.scaling.fitting.uncertainty import bootstrap, jackknife
from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.laws.law import Array
from isoflop.scaling.prediction.chain import Chain, ChainDraws, Sigmoid, chained
from isoflop.scaling.prediction.direct import RAW, Direct, direct
from isoflop.scaling.table.columns import TableError, parse, row_names
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.meaning import parse_percent
from isoflop.scaling.table.read import require
from isoflop.scaling.table.runs import final_rows, is_runs

RISES, SURE = 0.5, 3.0  # rank correlation of a score with the loss, and its t: beyond both it is no score
NEAR_TOP = 0.8  # of the way from guessing to the best score: a run that far supports a fitted top


@dataclass(frozen=True)
class TwoStage:
    """The fits of both stages, and refits of the chain of both.

    `draws` are jackknife refits, `resamples` bootstrap refits (None without any); each leaves out or draws the same
    runs in both stages. `score` names the column, `table` is what was fitted. `direct` is the law of the score in
    compute beside them, or says why there is none.
    """

    first: Fit
    second: Fit
    draws: ChainDraws
    resamples: ChainDraws | None
    score: str
    notes: tuple[str, ...]
    table: pd.DataFrame
    direct: Direct | str

    @property
    def law(self) -> Chain:
        """The score as a function of N and D."""
        return Chain(self.first.law, self.second.law)

    def at(self, N: float, D: float, level: float = 0.9) -> dict[str, float]:
        """Loss and score at N parameters and D tokens, the score with the interval of the law."""
        lo, hi = self.draws.score_interval(lambda law: law(N, D), level)
        return {"n_params": N, "tokens": D, "loss": float(self.first.law(N, D)), "accuracy": float(self.law(N, D)),
                "lo": lo, "hi": hi}  # fmt: skip

    def best(self, C: float, level: float = 0.9) -> dict[str, float]:
        """As `at`, for the compute-optimal run of C FLOPs under the loss law."""
        where = self.first.optimal(C)
        cost = self.first.cost
        lo, hi = self.draws.score_interval(lambda law: law.optimal(C, cost).loss, level)
        return self.at(float(where.N), float(where.D), level) | {"flops": C, "lo": lo, "hi": hi}

    @property
    def error(self) -> float:
        """Root mean square of the score less the score predicted from the same run's loss."""
        rest = self.second.points.frame["loss"].to_numpy(float) - self.second.predicted
        return float(np.sqrt(np.mean(rest**2)))

    def findings(self, predictions: Sequence[dict] = (), level: float = 0.9) -> list[Finding]:
        """Objections to both stages and to how far the predictions go beyond the runs, worst first."""
        reach = [float(self.first.cost.flops(p["n_params"], p["tokens"])) for p in predictions]
        found = diagnose(
            self.first, jackknife(self.first), self.table, target_flops=max(reach, default=None), level=level
        )
        found += [*self._sigmoid_findings(), *self._apart(predictions, level)]
        return sorted(found, key=lambda f: ("fail", "warn", "info").index(f.severity))

    def _sigmoid_findings(self) -> list[Finding]:
        law, found = self.second.law, []
        assert isinstance(law, Sigmoid)
        if not self.second.converged:
            found.append(Finding(
                "not_converged", "fail", f"the law of {self.score}: {self.second.message}",
                "fix the chance (--chance), leave the top at 1, or add runs",
            ))  # fmt: skip
        for name in self.second.bounds_hit:
            found.append(Finding(
                "at_bound", "warn", f"{name} = {getattr(law, name):.4g} of {self.score} lies at its bound",
                "do not quote it; add runs between guessing and the best score",
            ))  # fmt: skip
        scores = self.second.points.frame["loss"].to_numpy(float)
        below = int(np.sum(scores < law.floor))
        if "floor" not in self.second.free and 2 * below > len(scores):
            found.append(Finding(
                "below_chance", "fail",
                f"{below} of {len(scores)} runs have less {self.score} than guessing ({law.floor:.4g})",
                "give the chance of this task (--chance), or leave it out and have it fitted",
            ))  # fmt: skip
        best = float(scores.max())
        share = (best - law.floor) / max(law.top - law.floor, 1e-12)
        if "top" in self.second.free and share < NEAR_TOP:
            found.append(Finding(
                "top_not_supported", "warn",
                f"the best {self.score} {best:.3f} is {share:.0%} of the way from {law.floor:.3f} to the fitted top "
                f"{law.top:.3f}: no run is near it",
                "leave the top at 1 (without --free-top), or add larger runs",
            ))  # fmt: skip
        return found

    def _apart(self, predictions: Sequence[dict], level: float) -> list[Finding]:
        """Predictions whose interval by the stages and by the direct law have no score in common."""
        found: list[Finding] = []
        if isinstance(self.direct, str):
            return found
        for one in predictions:
            flops = self._flops(one)
            other = self.direct.at(flops, level)
            if one["lo"] > other["hi"] or other["lo"] > one["hi"]:
                found.append(Finding(
                    "stages_disagree", "warn",
                    f"{self.score} at {flops:.3g} FLOPs: {one['lo']:.3f} to {one['hi']:.3f} through the loss, "
                    f"{other['lo']:.3f} to {other['hi']:.3f} by the law of the score in compute",
                    "rely on neither; add runs nearer to that compute",
                ))  # fmt: skip
        return found

    def to_dict(self, predictions: Sequence[dict] = (), level: float = 0.9) -> dict[str, Any]:
        """JSON-ready values of both stages, with `predictions` made by `at` or `best`."""
        return {
            "score": self.score,
            "loss_law": self.first.to_dict() | {"level": level},
            "sigmoid": self._sigmoid_dict(level),
            "interval_kind": self.draws.kind,
            "level": level,
            "predictions": list(predictions),
            "direct": self._direct_dict(predictions, level),
            "conventions": self.first.points.conventions,
            "findings": [f.to_dict() for f in self.findings(predictions, level)],
            "notes": list(self.notes),
        }

    def _sigmoid_dict(self, level: float) -> dict[str, Any]:
        second = self.second.to_dict()
        kept = ("formula", "params", "fixed", "value", "n_points", "n_clusters", "status", "message", "bounds_hit")
        spans = {name: self._span(name, level) for name in self.second.free}
        return {name: second[name] for name in kept} | {"intervals": spans, "rmse": self.error}

    def _direct_dict(self, predictions: Sequence[dict], level: float) -> dict[str, Any]:
        """The direct law with its own predictions, or why there is none."""
        if isinstance(self.direct, str):
            return {"failed": self.direct}
        made = [self.direct.at(self._flops(p), level) for p in predictions]
        return self.direct.to_dict(level) | {"predictions": made}

    def _flops(self, prediction: dict) -> float:
        return float(prediction.get("flops") or self.first.cost.flops(prediction["n_params"], prediction["tokens"]))

    def _direct_lines(self, predictions: Sequence[dict], level: float) -> list[str]:
        if isinstance(self.direct, str):
            return [f"no law of {self.score} in compute: {self.direct}"]
        values = self.direct.to_dict(level)
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in values["params"].items())
        out = f", {self.direct.left_out} at or below chance are left out" if self.direct.left_out else ""
        lines = [
            f"in one stage, {values['formula']}: {numbers}; {values['n_points']} runs{out}; scores lie within "
            f"{self.direct.error:.4f} (rms)"
        ]
        for one in (self.direct.at(self._flops(p), level) for p in predictions):
            span = f"[{one['lo']:.4f}, {one['hi']:.4f}]"
            lines.append(f"  {one['flops']:.3g} FLOPs: {self.score} {one['accuracy']:.4f} {span}")
        return lines

    def _span(self, name: str, level: float) -> list[float]:
        """Interval of a parameter of the sigmoid; of a score it ends at 0 and 1."""
        is_score = name in Sigmoid.amplitudes
        span = self.draws.interval(_part(name), level, positive=not is_score)
        return [min(max(end, 0.0), 1.0) if is_score else end for end in span]

    def text(self, predictions: Sequence[dict] = (), level: float = 0.9) -> str:
        """The report as plain lines of text, with `predictions` made by `at` or `best`."""
        values = self._sigmoid_dict(level)
        lines = [
            f"{self.score} from the loss, the loss from N and D; {values['n_points']} runs, {level:.0%} intervals: "
            f"{self.draws.kind} by {self.draws.by}",
            f"  {self.first.law.written()}",
            f"  {self.second.law.formula}, L the loss",
        ]
        for name, value in values["params"].items():
            span = values["intervals"].get(name)
            remark = f"[{span[0]:.4f}, {span[1]:.4f}]" if span else "fixed"
            lines.append(
                f"  {name:>9} {value:>9.4f}  {remark}" + ("  at its bound" if name in values["bounds_hit"] else "")
            )
        lines += [f"  {values['status']}; scores lie within {self.error:.4f} (rms) of what their run's loss predicts"]
        for one in predictions:
            where = f"{one['flops']:.3g} FLOPs: " if "flops" in one else ""
            lines.append(
                f"{where}N {one['n_params']:.4g}, D {one['tokens']:.4g}: loss {loss_text(one['loss'])}, {self.score} "
                f"{one['accuracy']:.4f} [{one['lo']:.4f}, {one['hi']:.4f}]"
            )
        lines += [*self._direct_lines(predictions, level), *(f"note: {note}" for note in self.notes)]
        return "\n".join([*lines, *map(str, self.findings(predictions, level))])


def _part(name: str) -> Callable[[Any], float]:
    return lambda law: getattr(law.task_law, name)


def two_stage(
    table: pd.DataFrame,
    *,
    law: str = "chinchilla",
    column: str = "accuracy",
    chance: float | None = None,
    free_top: bool = False,
    params: str = "matrices",
    compute: str = "exact",
    resamples: int = 0,
    seed: int = 0,
) -> TwoStage:
    """Fit both stages to a table of runs with a score between 0 and 1, or in percent, in `column`.

    `chance` fixes the floor; None takes it from the table's `chance`, and fits it where that is missing. A column named
    as the score's with `_se` weighs the runs. Raises TableError for a score or a chance that is none, FitError when no
    run scores above chance or the data determine no law.
    """
    source = table.attrs.get("source", "table")
    require(table, (column,), source=source)
    table = _in_shares(table, column)
    rows = final_rows(table) if is_runs(table) else table
    _check_scores(rows, column, source)
    wanted = [column, f"{column}_se"] if _has_errors(rows, column) else [column]
    data = points(table, params=params, compute=compute, inputs=[Column(name, transform="linear") for name in wanted])
    score, *errors = (data.frame[name].to_numpy(float) for name in wanted)
    error = errors[0] if errors else None
    _refuse_errors(score, data.frame["loss"], column, source)
    named, chance = chance is not None, _chance(rows) if chance is None else chance
    if chance is not None:
        _check_chance(chance, f"--chance {chance:g}" if named else f"{source}: chance {chance:g}", score, error, column)
    first = fit(law, data, seed=seed)
    frame = data.frame.assign(model_loss=data.frame["loss"], loss=np.maximum(score, 1e-9))
    fixed = {} if chance is None else {"floor": chance}
    weights = None if error is None else np.mean(error**2) / np.maximum(error, 0.1 * np.median(error)) ** 2
    second = fit(
        Sigmoid, replace(data, frame=frame), objective=RAW, fixed=fixed, free=("top",) if free_top else (),
        weights=weights, seed=seed,
    )  # fmt: skip
    drawn = (
        chained(bootstrap(first, resamples, seed=seed), bootstrap(second, resamples, seed=seed)) if resamples else None
    )
    floor = chance if chance is not None else float(second.law.values()[0])
    beside: Direct | str
    try:
        beside = direct(data, score, floor, error)
    except FitError as failed:
        beside = str(failed)
    drawn_out = chained(jackknife(first), jackknife(second))
    return TwoStage(first, second, drawn_out, drawn, column, data.notes, table, beside)


def _has_errors(rows: pd.DataFrame, column: str) -> bool:
    """Whether every score has a standard error."""
    name = f"{column}_se"
    return name in rows and bool((pd.to_numeric(rows[name], errors="coerce") > 0).all())


def _in_shares(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """The table with scores in percent as shares, and a note: 45.2%, or above 1 in most rows and nowhere above 100."""
    percent = table[column].map(lambda value: isinstance(value, str) and value.strip().endswith("%")).any()
    made = {name: parse_percent(table[name]) for name in (column, f"{column}_se", "chance") if name in table}
    score, wrong = made[column]
    known = score[~wrong].dropna()
    if wrong.any() or not (percent or known.median() > 1) or not known.between(0, 100).all():
        return table
    scaled = {name: values / 100 for name, (values, _) in made.items() if name != "chance" or values.max() > 1}
    note = f"{column} is in percent: divided by 100"
    shares = table.assign(**scaled)
    shares.attrs = table.attrs | {"notes": (*table.attrs.get("notes", ()), note)}
    return shares


def _check_scores(rows: pd.DataFrame, column: str, source: str) -> None:
    score = parse(rows[column])[0]
    wrong = (score.notna() & ~score.between(0, 1)).to_numpy()
    if wrong.any():
        raise TableError(
            f"{source}: {column} must lie between 0 and 1; it does not in {wrong.sum()} of {len(score)} rows "
            f"({row_names(rows, wrong)}): {score[wrong].iloc[0]:g}; write all of them as shares, or all in percent"
        )


def _refuse_errors(score: Array, loss: pd.Series, column: str, source: str) -> None:
    """Raise TableError where the score rises with the loss beyond doubt, as the share of mistakes does."""
    together, freedom = float(loss.rank().corr(pd.Series(score).rank())), len(score) - 2
    if together > RISES and together * (freedom / max(1 - together**2, 1e-12)) ** 0.5 > SURE:
        raise TableError(
            f"{source}: {column} rises with the loss (rank correlation {together:+.2f} in {len(score)} runs), and a "
            f"score falls with it: if it is an error rate, add a column of 1 - {column} and name that"
        )


def _check_chance(chance: float, name: str, score: Array, error: Array | None, column: str) -> None:
    """Raise TableError for a chance that no guessing has, FitError where no score is above it."""
    if not 0 <= chance < 1:
        raise TableError(f"{name}: guessing scores at least 0 and less than 1")
    if not np.any(score - chance > (0 if error is None else 2 * error)):
        far = "two standard errors above" if error is not None else "above"
        raise FitError(
            f"no run's {column} lies {far} chance ({chance:.3g}): the sigmoid is not identified; larger models, "
            "more items or another --chance are needed"
        )


def _chance(rows: pd.DataFrame) -> float | None:
    known = rows["chance"].dropna() if "chance" in rows else pd.Series(dtype=float)
    return float(known.mean()) if len(known) else None
