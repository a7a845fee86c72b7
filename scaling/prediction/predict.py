"""`isoflop predict`: the predicted loss of a run, the cost of sizes off the optimum, and allocations for serving."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import pandas as pd

from isoflop.answer import Answer
from isoflop.arguments import NOT_NEGATIVE, POSITIVE, check
from isoflop.printable import loss_text
from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.findings.settings import table_findings
from isoflop.scaling.fitting.fit import Fit, Huber
from isoflop.scaling.laws import Laws, columns_read, law_names
from isoflop.scaling.laws.cost import SIX_ND
from isoflop.scaling.laws.inputs import STANDARD
from isoflop.scaling.laws.law import Law
from isoflop.scaling.laws.published import PUBLISHED, AllocationRule
from isoflop.scaling.prediction.at_columns import RunForecast, predict_at
from isoflop.scaling.prediction.breaks import probabilities, runs_with_breaks
from isoflop.scaling.prediction.forecast import (
    LEVELS,
    LossForecast,
    PredictError,
    Target,
    beyond_epochs,
    beyond_the_data,
    forecast_loss,
)
from isoflop.scaling.prediction.spending.serving import Serving, allocations, off_optimum_line
from isoflop.scaling.prediction.spending.text_price import TextPurchase, buy_text
from isoflop.scaling.selection.averaging import ForecastAverage, average
from isoflop.scaling.selection.law_weights import NoLawError, weigh_laws
from isoflop.scaling.selection.preference import candidates
from isoflop.scaling.selection.rolling_origins import forecast
from isoflop.scaling.table.columns import hint
from isoflop.scaling.table.conventions import Points, points
from isoflop.scaling.table.formats.data_frame import as_frame
from isoflop.scaling.table.json_plain import plain
from isoflop.scaling.table.law_inputs import unlike

ROUNDED = 1.05  # a factor of parameters and tokens: rounding below goes without a note


@dataclass(frozen=True, repr=False, eq=False)
class Prediction(Answer):
    """The forecast of a loss, with the allocations requested at its compute.

    `failed` names the requested laws and options without an answer, with the reason.
    """

    loss: LossForecast
    servings: tuple[Serving, ...]
    failed: dict[str, str]
    text: TextPurchase | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: those of the forecast, with keys servings, failed, and text where text has a price."""
        value = self.loss.to_dict() | {"servings": [s.to_dict() for s in self.servings], "failed": self.failed}
        return value if self.text is None else value | {"text": self.text.to_dict()}

    def __str__(self) -> str:
        lines = [str(self.loss), off_optimum_line(self.loss), *(f"  {s}" for s in self.servings)]
        lines += [f"  {self.text}"] if self.text else []
        return "\n".join(line for line in lines if line)


@overload
def predict(
    table: "pd.DataFrame | Points",
    *,
    flops: float | None = None,
    n_params: float | None = None,
    tokens: float | None = None,
    laws: Laws | None = None,
    inference_tokens: float | None = None,
    token_cap: float | None = None,
    unique_tokens: float | None = None,
    price_per_token: float | None = None,
    price_per_flop: float | None = None,
    at: None = None,
    params: str | None = None,
    compute: str | None = None,
) -> Prediction: ...


@overload
def predict(
    table: "pd.DataFrame | Points",
    *,
    flops: float | None = None,
    n_params: float | None = None,
    tokens: float | None = None,
    laws: Laws | None = None,
    inference_tokens: float | None = None,
    token_cap: float | None = None,
    unique_tokens: float | None = None,
    price_per_token: float | None = None,
    price_per_flop: float | None = None,
    at: Mapping[str, float],
    params: str | None = None,
    compute: str | None = None,
) -> RunForecast: ...


def predict(
    table: "pd.DataFrame | Points",
    *,
    flops: float | None = None,
    n_params: float | None = None,
    tokens: float | None = None,
    laws: Laws | None = None,
    inference_tokens: float | None = None,
    token_cap: float | None = None,
    unique_tokens: float | None = None,
    price_per_token: float | None = None,
    price_per_flop: float | None = None,
    at: Mapping[str, float] | None = None,
    params: str | None = None,
    compute: str | None = None,
) -> "Prediction | RunForecast":
    """Predict the loss of a run from a table of smaller runs.

    The run is the compute-optimal one of `flops`, or that of `n_params` and `tokens`, of which `unique_tokens` differ
    (None: all). `laws` (None: the candidates of `selection.preference`) take part in the forecast average. Allocations
    at the same compute are added for tokens to be served (`inference_tokens`), a cap on training tokens (`token_cap`)
    and the unique tokens; `price_per_token` says whether more text is worth its price (see `buy_text`). `at` gives
    further columns by name, for laws that read them (see `predict_at`).
    Raises ValueError for an incomplete target or a wrong number, PredictError for laws that read more of a run than it
    says and when the loss at it cannot be predicted.

    >>> import isoflop
    >>> found = isoflop.predict(isoflop.example("quick"), flops=3e12)
    >>> round(found.to_dict()["loss"], 1)
    1.4
    """
    check(POSITIVE, flops=flops, n_params=n_params, tokens=tokens, token_cap=token_cap, unique_tokens=unique_tokens)
    check(POSITIVE, price_per_token=price_per_token, price_per_flop=price_per_flop)
    check(NOT_NEGATIVE, inference_tokens=inference_tokens)
    if not isinstance(table, Points):
        table = as_frame(table)
    named = law_names(laws) if laws else None
    if at:
        given = {"flops": flops, "n_params": n_params, "tokens": tokens, "unique_tokens": unique_tokens}
        whole = {name: value for name, value in given.items() if value is not None} | dict(at)
        if any(value is not None for value in (inference_tokens, token_cap, price_per_token, price_per_flop)):
            raise ValueError(
                "--inference-tokens, --token-cap and prices are of laws of size and tokens: leave out --at"
            )
        return predict_at(table, whole, named, params=params, compute=compute)
    _refuse_other_columns(named or ())
    data = points(table, params=params, compute=compute)
    target = Target.of(data, flops, n_params, tokens, unique_tokens)
    loss = forecast_loss(data, target, named)
    loss = replace(loss, settings=table_findings(table, data, columns_read(named or ())))
    # The forecast of a law that reads unique tokens has them already; the others need an allocation for them.
    own = all("U" in law.inputs for law in loss.fitted.values())
    servings, failed, notes = allocations(loss, inference_tokens, token_cap, None if own else unique_tokens)
    loss = replace(loss, notes=(*loss.notes, *notes))
    if price_per_token is None and price_per_flop is not None:
        raise ValueError("--price-per-flop goes with --price-per-token")
    text = None if price_per_token is None else buy_text(loss, price_per_token, price_per_flop, laws=named or ())
    return Prediction(loss, tuple(servings), (loss.refused if laws else {}) | failed, text)


def _refuse_other_columns(laws: Sequence[str]) -> None:
    """Raises PredictError for laws that read columns which a run of FLOPs, or of size and tokens, does not say."""
    further = [law for law in laws if not set(columns_read([law])) <= set(STANDARD.values())]
    if further:
        names = dict.fromkeys(column.name for column in columns_read(further) if column not in STANDARD.values())
        given = " ".join(f"--at {name}=VALUE" for name in dict.fromkeys(("n_params", "tokens", *names)))
        raise PredictError(f"{', '.join(further)} also reads {', '.join(names)}, which FLOPs do not say: give {given}")


@dataclass(frozen=True, repr=False, eq=False)
class TableForecast(Answer):
    """Forecasts of the runs of one table from another, and how they held.

    `runs` has a row per run forecast: its quantities, predicted, error = ln(predicted / loss), pit (the probability
    that the forecast gave to a loss at or below the measured one), and lo and hi at LEVELS. `r2` is of ln loss against
    its mean over these runs, `bias` the mean error, `rms` its root mean square, `coverage` the share inside by level.
    """

    runs: pd.DataFrame
    preferred: str
    weights: dict[str, float]
    refused: dict[str, str]
    r2: float
    bias: float
    rms: float
    coverage: dict[float, float]
    notes: tuple[str, ...]
    findings: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "runs": plain(self.runs), "preferred": self.preferred, "weights": self.weights, "refused": self.refused,
            "r2": plain(self.r2), "bias": self.bias, "rms": self.rms, "notes": list(self.notes),
            "findings": [f.to_dict() for f in self.findings],
            "coverage": {f"{level:g}": share for level, share in self.coverage.items()},
        }  # fmt: skip

    def __str__(self) -> str:
        shares = ", ".join(f"{level:.0%} holds {share:.0%}" for level, share in self.coverage.items())
        r2 = f"R2 {self.r2:.4f} of ln loss, " if np.isfinite(self.r2) else ""
        lines = [
            f"{len(self.runs)} runs forecast by an average of {', '.join(self.weights)}; preferred {self.preferred}",
            f"  {r2}too {'low' if self.bias < 0 else 'high'} by {abs(np.expm1(self.bias)):.2%} (geometric mean of "
            f"predicted / loss), rms of ln loss {self.rms:.2%}",
            f"  intervals: {shares}",
        ]
        return "\n".join([*lines, *map(str, self.findings), *(f"note: {note}" for note in self.notes)])


def predict_table(
    table: "pd.DataFrame | Points",
    at: "pd.DataFrame | Points",
    laws: Sequence[str] | str | None = None,
    *,
    params: str | None = None,
    compute: str | None = None,
) -> TableForecast:
    """Forecast every run of the table `at` from the runs of `table`, and say how the forecasts held.

    Raises PredictError where no law can be fitted, or none reads what `at` has.
    """
    inputs = columns_read(law_names(laws)) if laws else ()
    data, target = (points(t, params=params, compute=compute, inputs=inputs) for t in (table, at))
    settings, data = table_findings(table, data, inputs), data.in_order()
    fits, preferred, discrepancy, refused, notes = _weighed(
        data, law_names(laws) if laws else None, joint=not unlike(inputs)
    )
    made = {}
    for law, fitted in fits.items():
        try:
            made[law] = forecast(fitted, target.frame)
        except ValueError as error:
            refused[law] = f"it has no forecast of these runs ({error})"
    if not made:
        raise PredictError("no law has a forecast: " + "; ".join(f"{law}: {why}" for law, why in refused.items()))
    share = probabilities({law: fits[law] for law in made})
    parts, portions = runs_with_breaks(fits, share, made, target.frame)
    pooled = average(beyond_the_data(parts, target.frame, data, discrepancy), portions)
    held = _held(target, pooled, share, preferred, refused, (*data.notes, *notes))
    if "unique_tokens" not in target.frame:
        return replace(held, findings=settings)
    epochs = float((target.frame["tokens"] / target.frame["unique_tokens"]).max())
    return replace(held, findings=(*settings, *beyond_epochs(data, epochs)))


@dataclass(frozen=True, repr=False, eq=False)
class PublishedLoss(Answer):
    """What a published law says of a run, with the conventions and the range that its numbers refer to.

    `loss` is None for a published allocation, which gives sizes and tokens alone; fields that the law does not read or
    give are None. `notes` say where the target lies outside the range of its fit.
    """

    name: str
    law: str
    flops: float | None
    n_params: float | None
    tokens: float | None
    unique_tokens: float | None
    loss: float | None
    conventions: dict[str, str]
    source: str
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return dict(vars(self)) | {"notes": list(self.notes), "findings": []}

    def __str__(self) -> str:
        run = {"parameters": self.n_params, "tokens": self.tokens, "unique": self.unique_tokens, "FLOPs": self.flops}
        scale = ", ".join(f"{value:.4g} {what}" for what, value in run.items() if value is not None)
        loss = "it gives no loss" if self.loss is None else f"{loss_text(self.loss)} nats/token"
        lines = [f"{self.name}: {self.law}", f"  {scale}: {loss}"]
        lines += [
            f"  N: {self.conventions['params']}; C: {self.conventions['compute']}; {self.conventions['tokenizer']}"
        ]
        return "\n".join([*lines, f"  {self.source}", *(f"note: {note}" for note in self.notes)])


def _weighed(
    data: Points, laws: Sequence[str] | None, joint: bool
) -> tuple[dict[str, Fit], str, float, dict[str, str], tuple[str, ...]]:
    try:
        found = weigh_laws(data, candidates(data) if laws is None else laws, Huber("auto"), joint=joint)
    except NoLawError as error:
        raise PredictError(str(error)) from error
    return found.fits, found.preferred, found.discrepancy, dict(found.refused), found.notes


def _held(
    target: Points,
    pooled: ForecastAverage,
    weights: dict[str, float],
    preferred: str,
    refused: dict[str, str],
    notes: tuple[str, ...],
) -> TableForecast:
    """How the pooled forecasts of the runs held."""
    log_loss = np.log(target.frame["loss"].to_numpy(float))
    median = pooled.quantile(0.5)
    error = median - log_loss
    kept = [c for c in ("run_id", "n_params", "tokens", "flops", "unique_tokens", "loss") if c in target.frame]
    runs = target.frame[kept].assign(predicted=np.exp(median), error=error, pit=pooled.cdf(log_loss))
    coverage = {}
    for level in LEVELS:
        lo, hi = pooled.interval(level)
        runs = runs.assign(**{f"lo_{level:g}": np.exp(lo), f"hi_{level:g}": np.exp(hi)})
        coverage[level] = float(np.mean((lo <= log_loss) & (log_loss <= hi)))
    around = float(np.sum((log_loss - log_loss.mean()) ** 2))
    r2 = 1 - float(np.sum(error**2)) / around if around > 0 else float("nan")
    bias, rms = float(error.mean()), float(np.sqrt(np.mean(error**2)))
    return TableForecast(runs, preferred, weights, refused, r2, bias, rms, coverage, notes)


def predict_from_law(
    name: str,
    *,
    flops: float | None = None,
    n_params: float | None = None,
    tokens: float | None = None,
    unique_tokens: float | None = None,
) -> PublishedLoss:
    """Evaluate the published law `name` without a table: at `n_params`, `tokens` and `unique_tokens`, or at `flops`.

    At `flops` a law of N and D gives its compute-optimal run under C = 6 N D. Raises ValueError for an unknown name,
    or for numbers that the law does not read, or lacks.
    """
    if name not in PUBLISHED:
        raise ValueError(f"--from-law {name}: not one of {', '.join(PUBLISHED)}{hint(name, PUBLISHED)}")
    known = PUBLISHED[name]
    given = {"flops": flops, "n_params": n_params, "tokens": tokens, "unique_tokens": unique_tokens}
    check(POSITIVE, **given)
    run, loss = _published_run(name, known.law, given)
    notes = []
    for what, (lo, hi) in {"n_params": known.n_params, "flops": known.flops}.items():
        value = run[what]
        if value is not None and not lo <= value <= hi:
            notes.append(f"{what} {value:.3g} lies outside the range that it was fitted on, {lo:.3g} to {hi:.3g}")
    factor = known.rounded_by(flops or 1.0)
    if factor > ROUNDED:
        notes.append(
            f"its constants are published with two digits: at {flops:.3g} FLOPs that alone may move the parameters and "
            f"the tokens by a factor {factor:.2g}"
        )
    formula = known.law.written() if isinstance(known.law, Law) else "an allocation of compute"
    conventions = {"params": known.params, "compute": known.compute, "tokenizer": known.tokenizer}
    return PublishedLoss(
        name, formula, **run, loss=loss, conventions=conventions, source=known.source, notes=tuple(notes)
    )


def _published_run(
    name: str, law: "Law | AllocationRule", given: dict[str, float | None]
) -> tuple[dict[str, float | None], float | None]:
    """The run whose loss a published law gives, every number of it that is known, and its loss."""
    flops, unique = given["flops"], given["unique_tokens"]
    joint = isinstance(law, AllocationRule) or {"N", "D"} <= set(law.inputs)
    if joint and flops is not None and given["n_params"] is None and given["tokens"] is None:
        if unique is not None and not (isinstance(law, Law) and "U" in law.inputs):
            raise ValueError(f"--from-law {name} does not read unique tokens: leave out --unique-tokens {unique:g}")
        if isinstance(law, Law) and "U" in law.inputs and unique is not None:
            best = law.optimal(flops, SIX_ND, unique_tokens=unique)  # type: ignore[call-arg]
        else:
            best = law.optimal(flops, SIX_ND)
        loss = float(best.loss)
        return given | {"n_params": float(best.N), "tokens": float(best.D)}, loss if np.isfinite(loss) else None
    if isinstance(law, AllocationRule):
        raise ValueError(f"--from-law {name} is an allocation of compute without a loss: give --flops alone")
    columns = {"N": "n_params", "D": "tokens", "C": "flops", "U": "unique_tokens"}
    values = {columns[letter]: given[columns[letter]] for letter in law.inputs}
    if "unique_tokens" in values and values["unique_tokens"] is None:
        values["unique_tokens"] = given["tokens"]
    lacking = [f"--{column.replace('_', '-')}" for column, value in values.items() if value is None]
    if lacking:
        raise ValueError(f"--from-law {name} reads {', '.join(law.inputs)}: give {' and '.join(lacking)}")
    unread = [f"--{k.replace('_', '-')}" for k, v in given.items() if v is not None and k not in values]
    if unread:
        raise ValueError(f"--from-law {name} reads {', '.join(law.inputs)} and not {' or '.join(unread)}")
    run = given | values
    if joint and run["n_params"] is not None and run["tokens"] is not None:
        run["flops"] = float(SIX_ND.flops(run["n_params"], run["tokens"]))
    return run, float(law(*values.values()))
