"""The reporting checklist, filled in by the software: what must hold for a scaling law to be believed, and what does.

A line is objected to when a Finding does; it holds when the evidence was looked at and no Finding objects; it is
open when nobody measured it, with the reason.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from isoflop.analysis.evidence import Evidence, UnsupportedError
from isoflop.analysis.figures.allocation import allocation_frame
from isoflop.analysis.figures.exponents import slope_frame
from isoflop.analysis.figures.runs.bowls import CELL, best_rate, bowl_frame
from isoflop.analysis.page.calculator import ABOVE
from isoflop.analysis.sections import pooled_sd
from isoflop.analysis.style import LEVEL, is_known
from isoflop.printable import loss_text
from isoflop.scaling.findings.departures import LEVEL as DEPARTURE_LEVEL
from isoflop.scaling.findings.departures import departures
from isoflop.scaling.findings.finding import Case
from isoflop.scaling.table.runs import final_rows, is_runs

if TYPE_CHECKING:
    from isoflop.scaling.arms.multiplier import Pair

CLUSTERS = 5  # for each free parameter
SIZES = 5
DECADES = {"n_params": 1.5, "tokens": 1.5, "flops": 2.0}
ALIKE, APART = 0.9, 16.0  # the correlation of ln N and ln D at most, the span of tokens per parameter at least
CONDITION = 1e8  # of J'WJ, at most: the square of what the Finding ill_conditioned names
FARTHEST = 10.0  # times the largest run: what is quoted beyond it is an extrapolation
LEAST_COVERED = 0.8  # of the runs held out, inside their 90% intervals
Evidenced = Callable[[Evidence], str]


@dataclass(frozen=True)
class Line:
    """One condition with its state and the numbers behind it."""

    code: str
    condition: str
    state: Literal["holds", "objected", "open"]
    evidence: str


class NotMetError(ValueError):
    """The evidence was looked at, and the condition does not hold."""


@dataclass(frozen=True)
class _Rule:
    code: str
    condition: str
    findings: tuple[str, ...]
    evidence: Evidenced


def checklist(e: Evidence) -> list[Line]:
    """Every line of the checklist. Raises UnsupportedError where there is no fit to judge."""
    _ = e.fit, e.findings
    return [_judge(rule, e) for rule in _RULES]


def _judge(rule: _Rule, e: Evidence) -> Line:
    against = [f.message for f in e.findings if f.code in rule.findings and f.severity != "info"]
    if against:
        return Line(rule.code, rule.condition, "objected", "; ".join(against))
    try:
        return Line(rule.code, rule.condition, "holds", rule.evidence(e))
    except NotMetError as error:
        return Line(rule.code, rule.condition, "objected", str(error))
    except ValueError as error:
        return Line(rule.code, rule.condition, "open", str(error))


def _runs(e: Evidence) -> pd.DataFrame:
    if not is_runs(e.ends):
        raise UnsupportedError("not known from a plain table; a run table holds it")
    return final_rows(e.ends)


def _law(e: Evidence) -> str:
    p = e.fit.points
    return f"{e.law_name}: {e.fit.law.formula}; loss in {p.loss_unit}; N {p.params}, C {p.compute}"


def _spread(e: Evidence) -> str:
    each = e.fit.points.frame.groupby("n_params")["tokens"].nunique()
    text = f"{len(each)} sizes, a median of {each.median():g} token counts each"
    if len(each) < SIZES or each.median() < 3:
        raise NotMetError(text)
    return text


def _clusters(e: Evidence) -> str:
    clusters, free = e.fit.n_clusters, len(e.fit.free)
    text = (
        f"{clusters} clusters ({e.fit.points.cluster}) for {free} free parameters: {clusters / free:.1f} each, "
        f"against {CLUSTERS}"
    )
    if clusters < CLUSTERS * free:
        raise NotMetError(text)
    return text


def _quoted(e: Evidence) -> str:
    """How far beyond the largest run the figures draw the law; the calculator goes farther and marks what it shows."""
    largest = float(e.fit.points.frame["flops"].max())
    reach = max(float(frame(e.fit)["flops"].max()) for frame in (allocation_frame, slope_frame)) / largest
    text = (
        f"the figures go to {reach:.3g} times the largest run of {largest:.3g} FLOPs, against {FARTHEST:g}; the "
        f"calculator to {ABOVE:,.0f} times, where it marks each number"
    )
    if reach > FARTHEST * (1 + 1e-9):
        raise NotMetError(text)
    return text


def _spans(e: Evidence) -> str:
    decades = {name: float(np.ptp(np.log10(e.fit.points.frame[name]))) for name in DECADES}
    text = "decades: " + ", ".join(f"{name} {span:.2f}" for name, span in decades.items())
    if any(decades[name] < needed for name, needed in DECADES.items()):
        raise NotMetError(text)
    return text


def _ratio(e: Evidence) -> str:
    """Tested here as well: a law that does not read both has no Finding of it."""
    n, d = np.log(e.fit.points.frame[["n_params", "tokens"]].to_numpy(float)).T
    together = abs(np.corrcoef(n, d)[0, 1]) if min(np.ptp(n), np.ptp(d)) > 0 else 1.0
    low, high = np.exp((d - n).min()), np.exp((d - n).max())
    text = f"{low:.3g} to {high:.3g} tokens per parameter, correlation of ln N and ln D {together:.2f}"
    if together > ALIKE or high < APART * low:
        raise NotMetError(text)
    return text


def _condition(e: Evidence) -> str:
    text = f"condition number {e.fit.condition:.2g}"
    if e.fit.condition > CONDITION:
        raise NotMetError(text)
    return text


def _floor(e: Evidence) -> str:
    name, value = e.fit.law.floor_name, e.fit.law.irreducible
    if name is None or name not in e.fit.free:
        raise UnsupportedError(f"{name or 'an irreducible loss'} is not fitted by this law")
    if name in e.fit.bounds_hit:
        raise NotMetError(f"{name} is at its bound, {value:.4g}: not identified")
    low, high = e.draws.interval(name, LEVEL)
    floor = f"{name} = {loss_text(value)} [{loss_text(low, of=value)}, {loss_text(high, of=value)}]"
    if low <= 0:
        raise NotMetError(f"{floor}: its interval meets 0")
    return f"{floor}, lowest loss {loss_text(e.fit.points.frame['loss'].min())}"


def _closed(e: Evidence) -> str:
    law = e.fit.law
    values = [_floor(e)] if law.floor_name in e.fit.free else []
    for name in (p for p in law.open_ended if p in e.fit.free):
        low, high = e.draws.interval(name, LEVEL)
        values.append(f"{name} = {getattr(law, name):.3f} [{low:.3f}, {high:.3f}]")
    if not values:
        raise UnsupportedError("this law fits no parameter that is hard to identify")
    return "; ".join(values)


def _held_out(e: Evidence) -> str:
    test = e.held_out.forecasts.get(e.law_name)
    if test is None:
        raise UnsupportedError(f"{e.law_name} has no held-out forecast")
    text = f"rms |ln error| {test.rms_error:.2%}, {test.coverage:.0%} of held-out runs in their {LEVEL:.0%} intervals"
    if test.coverage < LEAST_COVERED:
        raise NotMetError(text)
    return text


def _minima(e: Evidence) -> str:
    text = f"{sum(p.accepted for p in e.profiles)} of {len(e.profiles)} budgets have a usable minimum"
    if e.fit.law.inputs != ("N", "D"):
        raise UnsupportedError(f"{text}; where a budget's minimum lies is tested by a law of size and tokens alone")
    return text


def _warmup(e: Evidence) -> str:
    runs = _runs(e)
    return f"at most {(runs['warmup_tokens'] / runs['tokens']).max():.1%} of a run"


def _rates(e: Evidence) -> str:
    """From the bowls of a table with several learning rates."""
    try:
        bowls = bowl_frame(e.ends, params=e.params)
    except ValueError as error:
        raise UnsupportedError(f"{error}: answered by isoflop tune, on a table of learning rates") from None
    inside = [cell[1] for cell, bowl in bowls.groupby(CELL) if best_rate(bowl)[2]]
    text = f"{len(set(inside))} of {bowls['n_params'].nunique()} sizes have their best rate between those tried"
    if len(set(inside)) < 2:
        raise NotMetError(text)
    return f"{text}; see the figure bowls"


def _seeds(e: Evidence) -> str:
    cells = e.seed_noise
    return f"sd of ln loss {pooled_sd(cells):.2%} over seeds in {len(cells)} cells"


def _one_value(*columns: str) -> Evidenced:
    def values(e: Evidence) -> str:
        runs = _runs(e)
        return "; ".join(f"{c} {', '.join(map(str, runs[c].unique()[:3]))}" for c in columns if c in runs)

    return values


def _repeats(e: Evidence) -> str:
    if "unique_tokens" not in e.ends:
        raise UnsupportedError("how often the data were repeated is not known without a column unique_tokens")
    text = f"at most {(e.ends['tokens'] / e.ends['unique_tokens']).max():.2g} epochs"
    return f"{text}, under a law of repeated data" if "U" in e.fit.law.inputs else text


def _steps(e: Evidence) -> str:
    return f"at least {_runs(e)['step'].min():,} steps"


def _left_out(e: Evidence) -> str:
    return "; ".join(e.points.notes) or "none was left out"


def _sensitive(e: Evidence) -> str:
    table = e.sensitivity
    chosen = table.iloc[0]
    width, moved = chosen["high"] - chosen["low"], np.ptp(table["value"])
    text = f"a moves by {moved:.3f} over {len(table) - 1} changes of the analysis; its interval is {width:.3g} wide"
    if moved > width or not is_known(chosen["low"], chosen["high"]):
        raise NotMetError(text)
    return text


def _agree(e: Evidence) -> str:
    known = [r for r in e.approaches.rows if r.power is not None]
    if e.approaches.agree is None:
        raise UnsupportedError(e.approaches.verdict)
    if not e.approaches.agree:
        raise NotMetError("; ".join(e.approaches.disagreements))
    return "a = " + ", ".join(f"{r.power.n_exponent:.3f} ({r.approach} {r.method})" for r in known)


def _intervals(e: Evidence) -> str:
    return f"{e.draws.kind} by {e.draws.by}; bootstrap of {len(e.resamples)} by {e.resamples.by}, seed {e.seed}"


def _no_trend(*codes: str) -> Evidenced:
    """The largest t of the departures of these codes, with its p and the level that they are held to."""

    def largest(e: Evidence) -> str:
        found = departures(Case(e.fit, e.draws, e.ends, None, LEVEL))
        tested = [t for t in found.tested if t.departure.code in codes]
        if not tested:
            raise UnsupportedError("needs a law of N and D, and runs enough to look for it")
        worst = min(tested, key=lambda t: t.p)
        text = (
            f"largest |t| {abs(worst.t):.1f} ({worst.departure.name}), p {worst.p:.2g} corrected for "
            f"{len(found.tested)} directions, against {DEPARTURE_LEVEL:g}; residual sd {e.fit.noise:.2%}"
        )
        if worst.p < DEPARTURE_LEVEL:
            raise NotMetError(text)
        return text

    return largest


def _pairs(e: Evidence, where: str) -> tuple["Pair", ...]:
    if "arm" not in e.table or e.table["arm"].nunique() < 2:
        raise UnsupportedError(f"one arm, so nothing is claimed about another; {where}, on a table of arms")
    return e.multipliers.pairs


def _objections(pairs: Iterable["Pair"], codes: tuple[str, ...]) -> str:
    return "; ".join(f"{p.arm}: {f.message}" for p in pairs for f in p.findings if f.code in codes)


def _arms(e: Evidence) -> str:
    pairs = _pairs(e, "answered by isoflop multiplier --by arm")
    against = _objections(pairs, ("verdicts_disagree", "different_ruler", "unequal_ends"))
    if against:
        raise NotMetError(against)
    if not all(p.matched for p in pairs):
        raise UnsupportedError("the arms have no budget in common to be ranked at")
    return "; ".join(str(p.matched) for p in pairs)


def _same_tuning(e: Evidence) -> str:
    pairs = _pairs(e, "answered by isoflop multiplier and isoflop tune")
    against = _objections(pairs, ("unequal_tuning",))
    if against:
        raise NotMetError(against)
    unknown = _objections(pairs, ("tuning_unknown", "rate_not_tuned"))
    if unknown:
        raise UnsupportedError(f"{unknown}; isoflop tune measures it")
    return f"{len(pairs) + 1} arms, the same learning rates each"


_RULES = tuple(
    _Rule(*row)
    for row in (
        ("C1", "The law, its variables and units, and what counts as N and C are named", (), _law),
        ("C2", "At least 5 sizes, 3 token counts at the median size", ("few_sizes",), _spread),
        ("C3", "At least 5 clusters per free parameter", ("few_clusters", "few_points", "rows_not_runs"), _clusters),
        ("C4", "N and D span 1.5 decades, C spans 2", ("narrow_span",), _spans),
        ("C5", "N and D vary apart", ("collinear", "narrow_tokens_per_param", "extreme_ratio"), _ratio),
        ("C6", "The parameters are well conditioned", ("ill_conditioned",),
         _condition),
        ("C7", "One optimum from at least 20% of starts", ("few_starts_agree", "second_basin", "not_converged"),
         lambda e: f"{e.fit.share_at_best:.0%} of {len(e.fit.starts)} starts"),
        ("C8", "No parameter at its bound", ("at_bound",), lambda e: "none"),
        ("C9", "E below the lowest loss, its interval above 0", ("floor_above_data", "unidentified", "unnamed_floor"),
         _floor),
        ("C10", "Nothing quoted beyond 10 times the largest run", ("extrapolates",), _quoted),
        ("C11", "Held-out runs lie in their intervals", ("hold_out_missed",), _held_out),
        ("C12", "Each budget has an interior minimum", ("no_interior_minimum", "lopsided_profile", "few_minima"),
         _minima),
        ("C13", "Each run ends where its schedule ends", ("unfinished_schedule",),
         lambda e: f"all {len(_runs(e))} runs"),
        ("C14", "Warm-up under 10% of a run", ("long_warmup",), _warmup),
        ("C15", "The best learning rate lies between those tried, at two sizes or more", (), _rates),
        ("C16", "Seed noise is measured", ("no_replicates", "lack_of_fit"), _seeds),
        ("C17", "One evaluation set and one tokenizer", ("mixed_conventions", "loss_in_bits", "mixed_units"),
         _one_value("eval_id", "tokenizer_id")),
        ("C18", "At most 4 epochs, or a law of repeated data", ("repeated_data",), _repeats),
        ("C19", "At least 1000 steps in each run", ("few_steps",), _steps),
        ("C20", "Runs left out are counted with the reason", ("runs_left_out", "duplicate_rows"), _left_out),
        ("C21", "Residuals have no trend", ("residual_trend", "outliers"),
         _no_trend("residual_trend", "hold_out_missed")),
        ("C22", "The exponent does not hang on the analysis",
         ("sensitive_to_delta", "sensitive_to_rows", "kappa_matters", "pooled_settings"), _sensitive),
        ("C23", "Approaches 1, 2 and 3 agree within their intervals", ("approaches_disagree",), _agree),
        ("C24", "Code, corpus, tokenizer and seeds are stored", ("no_provenance",),
         _one_value("code_version", "corpus_id", "tokenizer_id", "seed")),
        ("C25", "One hardware, precision and optimiser", ("mixed_experiment",),
         _one_value("device", "dtype", "optimizer")),
        ("C26", "The resampling and its unit are named", ("refits_not_converged",), _intervals),
        ("C27", "The exponent of one axis does not drift along the other", ("exponents_drift",),
         _no_trend("exponents_drift")),
        ("C28", "A against B: the ranking at equal compute agrees with the law's verdict", (), _arms),
        ("C29", "The intervals of E and kappa are closed", ("unidentified",), _closed),
        ("C30", "Every arm was tuned alike: as many rates, the same grid", (), _same_tuning),
    )
)  # fmt: skip
