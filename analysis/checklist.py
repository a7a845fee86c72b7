"""The reporting checklist, filled in by the software: what must hold for a scaling law to be believed, and what does.

A line is objected to when a Finding says so; it holds when the evidence was looked at and no Finding objects; it is
open when nobody measured it, with the reason.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.evidence import Evidence, UnsupportedError
from analysis.style import LEVEL
from scaling.accounting import is_runs
from scaling.runs import final_rows

LEAST_COVERED = 0.8  # of the runs held out, inside their 90% intervals
Says = Callable[[Evidence], str]


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
    says: Says


def checklist(e: Evidence) -> list[Line]:
    """Every line of the checklist. Raises UnsupportedError where there is no fit to judge."""
    _ = e.fit, e.findings
    return [_judge(rule, e) for rule in _RULES]


def _judge(rule: _Rule, e: Evidence) -> Line:
    against = [f.message for f in e.findings if f.code in rule.findings and f.severity != "info"]
    if against:
        return Line(rule.code, rule.condition, "objected", "; ".join(against))
    try:
        return Line(rule.code, rule.condition, "holds", rule.says(e))
    except NotMetError as error:
        return Line(rule.code, rule.condition, "objected", str(error))
    except ValueError as error:
        return Line(rule.code, rule.condition, "open", str(error))


def _runs(e: Evidence):
    if not is_runs(e.ends):
        raise UnsupportedError("a plain table does not tell; a run table would")
    return final_rows(e.ends)


def _law(e: Evidence) -> str:
    p = e.fit.points
    return f"{e.law_name}: {e.fit.law.formula}; loss in nats/token; N {p.params}, C {p.compute}"


def _spread(e: Evidence) -> str:
    each = e.fit.points.frame.groupby("n_params")["tokens"].nunique()
    told = f"{len(each)} sizes, a median of {each.median():g} token counts each"
    if each.median() < 3:
        raise NotMetError(told)
    return told


def _clusters(e: Evidence) -> str:
    return f"{e.fit.n_clusters} clusters ({e.fit.points.cluster}) for {len(e.fit.free)} free parameters"


def _spans(e: Evidence) -> str:
    frame = e.fit.points.frame
    parts = (f"{name} {np.ptp(np.log10(frame[name])):.2f}" for name in ("n_params", "tokens", "flops"))
    return "decades: " + ", ".join(parts)


def _ratio(e: Evidence) -> str:
    ratio = e.fit.points.frame["tokens"] / e.fit.points.frame["n_params"]
    return f"{ratio.min():.3g} to {ratio.max():.3g} tokens per parameter"


def _floor(e: Evidence) -> str:
    if "E" not in e.fit.free:
        raise UnsupportedError("E is not fitted by this law")
    if "E" in e.fit.bounds_hit:
        raise NotMetError(f"E is at its bound, {e.fit.law.E:.4g}: not identified")
    low, high = e.draws.interval("E", LEVEL)
    return f"E = {e.fit.law.E:.4f} [{low:.4f}, {high:.4f}], lowest loss {e.fit.points.frame['loss'].min():.4f}"


def _held_out(e: Evidence) -> str:
    test = e.held_out.forecasts.get(e.law_name)
    if test is None:
        raise UnsupportedError(f"{e.law_name} has no held-out forecast")
    told = f"rms |ln error| {test.rms_error:.2%}, {test.coverage:.0%} of held-out runs in their {LEVEL:.0%} intervals"
    if test.coverage < LEAST_COVERED:
        raise NotMetError(told)
    return told


def _minima(e: Evidence) -> str:
    return f"{sum(p.accepted for p in e.profiles)} of {len(e.profiles)} budgets have a usable minimum"


def _warmup(e: Evidence) -> str:
    runs = _runs(e)
    return f"at most {(runs['warmup_tokens'] / runs['tokens']).max():.1%} of a run"


def _rates(e: Evidence) -> str:
    runs = _runs(e)
    tried = runs.groupby(["n_params_total", "horizon_tokens"])["peak_learning_rate"].nunique()
    if tried.max() < 3:
        raise UnsupportedError("these runs have one learning rate each; isoflop tune measures its optimum")
    return f"up to {tried.max()} rates in one cell; see the figure bowls"


def _seeds(e: Evidence) -> str:
    cells = e.seed_noise
    pooled = np.sqrt(np.average(cells["sd"] ** 2, weights=cells["seeds"] - 1))
    return f"sd of ln loss {pooled:.2%} over seeds in {len(cells)} cells"


def _one_value(column: str) -> Says:
    def says(e: Evidence) -> str:
        return f"{column}: {', '.join(map(str, _runs(e)[column].unique()[:3]))}"

    return says


def _repeats(e: Evidence) -> str:
    if "unique_tokens" not in e.ends:
        raise UnsupportedError("no column unique_tokens (or run table) tells how often the data were repeated")
    told = f"at most {(e.ends['tokens'] / e.ends['unique_tokens']).max():.2g} epochs"
    return f"{told}, under a law of repeated data" if e.fit.law.name == "data-constrained" else told


def _steps(e: Evidence) -> str:
    return f"at least {_runs(e)['step'].min():,} steps"


def _left_out(e: Evidence) -> str:
    return "; ".join(e.points.notes) or "none was left out"


def _sensitive(e: Evidence) -> str:
    table = e.sensitivity
    chosen = table.iloc[0]
    width, moved = chosen["high"] - chosen["low"], np.ptp(table["value"])
    told = f"a moves by {moved:.3f} over {len(table) - 1} changes of the analysis; its interval is {width:.3f} wide"
    if moved > width:
        raise NotMetError(told)
    return told


def _agree(e: Evidence) -> str:
    known = [r for r in e.approaches.rows if r.power is not None]
    if not e.approaches.agree:
        raise NotMetError("; ".join(e.approaches.disagreements))
    if len({r.approach for r in known}) < 2:
        raise UnsupportedError("only one approach has an answer on this table")
    return "a = " + ", ".join(f"{r.power.n_exponent:.3f} ({r.approach} {r.method})" for r in known)


def _intervals(e: Evidence) -> str:
    return f"{e.draws.kind} by {e.draws.by}; bootstrap of {len(e.resamples)} by {e.resamples.by}, seed {e.seed}"


def _drift(e: Evidence) -> str:
    raise UnsupportedError("isoflop compare tests laws whose exponents drift (farseer, kappa) on held-out runs")


def _arms(e: Evidence) -> str:
    if "arm" not in e.table or e.table["arm"].nunique() < 2:
        raise UnsupportedError("one arm: nothing is claimed about another")
    return f"{e.table['arm'].nunique()} arms; see the figure multiplier and isoflop multiplier"


def _same_tuning(e: Evidence) -> str:
    _arms(e)
    grids = _runs(e).groupby("arm")["peak_learning_rate"].unique().map(lambda v: tuple(sorted(v)))
    if grids.nunique() > 1:
        raise NotMetError(f"learning rates differ by arm: {grids.to_dict()}")
    return f"every arm was run at the same {len(grids.iloc[0])} learning rates"


_RULES = tuple(
    _Rule(*row)
    for row in (
        ("C1", "The law, its variables and units, and what counts as N and C are named", (), _law),
        ("C2", "At least 5 sizes, 3 token counts at the median size", ("few_sizes",), _spread),
        ("C3", "At least 5 clusters per free parameter", ("few_clusters", "few_points", "rows_not_runs"), _clusters),
        ("C4", "N and D span 1.5 decades, C spans 2", ("narrow_span",), _spans),
        ("C5", "N and D vary apart", ("collinear", "narrow_tokens_per_param", "extreme_ratio"), _ratio),
        ("C6", "The parameters are well conditioned", ("ill_conditioned",),
         lambda e: f"condition number {e.fit.condition:.2g}"),
        ("C7", "One optimum from at least 20% of starts", ("few_starts_agree", "second_basin", "not_converged"),
         lambda e: f"{e.fit.share_at_best:.0%} of {len(e.fit.starts)} starts"),
        ("C8", "No parameter at its bound", ("at_bound",), lambda e: "none"),
        ("C9", "E below the lowest loss, its interval above 0", ("floor_above_data", "unidentified"), _floor),
        ("C10", "Nothing quoted far beyond the runs", ("extrapolates",),
         lambda e: "the law is quoted inside its range; the calculator warns beyond it"),
        ("C11", "Held-out runs lie in their intervals", (), _held_out),
        ("C12", "Each budget has an interior minimum", ("no_interior_minimum", "lopsided_profile", "few_minima"),
         _minima),
        ("C13", "Each run ends where its schedule ends", ("unfinished_schedule",),
         lambda e: f"all {len(_runs(e))} runs"),
        ("C14", "Warm-up under 10% of a run", ("long_warmup",), _warmup),
        ("C15", "The learning rate is at its optimum at two sizes", (), _rates),
        ("C16", "Seed noise is measured", ("no_replicates", "lack_of_fit"), _seeds),
        ("C17", "One evaluation set and one tokenizer", ("mixed_conventions", "loss_in_bits", "mixed_units"),
         _one_value("eval_id")),
        ("C18", "At most 4 epochs, or a law of repeated data", ("repeated_data",), _repeats),
        ("C19", "At least 1000 steps in each run", ("few_steps",), _steps),
        ("C20", "Runs left out are counted with the reason", ("runs_left_out", "duplicate_rows"), _left_out),
        ("C21", "Residuals have no trend", ("residual_trend", "outliers"),
         lambda e: f"|t| under 2 against ln N, ln D, ln C; residual sd {e.fit.noise:.2%}"),
        ("C22", "The exponent does not hang on the analysis",
         ("sensitive_to_delta", "sensitive_to_rows", "kappa_matters"), _sensitive),
        ("C23", "Approaches 1, 2 and 3 agree", ("approaches_disagree",), _agree),
        ("C24", "Code, data and seeds are stored", ("no_provenance",), _one_value("code_version")),
        ("C25", "One hardware, precision and optimiser", ("mixed_experiment",), _one_value("device")),
        ("C26", "The resampling and its unit are named", ("refits_not_converged",), _intervals),
        ("C27", "The exponents do not drift with scale", (), _drift),
        ("C28", "An A-against-B claim shows both arms at equal compute", (), _arms),
        ("C29", "The interval of E is closed", ("unidentified",), _floor),
        ("C30", "Every arm was tuned alike", (), _same_tuning),
    )
)  # fmt: skip
