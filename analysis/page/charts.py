"""The interactive charts of the page as Vega-Lite, through altair. Their data are named; the page supplies them.

Every chart has the same signals, which the controls of the page set: `convention`, `laws` (those drawn), `law` (whose
residuals are shown), `picked` (the runs that a brush holds, or null), `at` (the compute of the calculator), `ramp` (the
colours of compute, least first).
"""

from collections.abc import Callable

import altair as alt

from isoflop.analysis.style import LEVEL, TONES, loss_label

TITLES = {
    "n_params": "model size N (parameters)", "tokens": "training tokens D", "flops": "training compute C (FLOPs)",
}  # fmt: skip
HEIGHT = 300
# 1, 2, 5 of each decade where the axis is short, decades alone where it is long; G is written B.
_MANTISSA = "round(datum.value / pow(10, floor(log(datum.value) / LN10 + 1e-9)))"
_SHORT = f"indexof([1, 2, 5], {_MANTISSA}) >= 0 ? replace(format(datum.value, '~s'), 'G', 'B') : ''"
_DECADES = f"{_MANTISSA} == 1 ? replace(format(datum.value, '.0e'), '+', '') : ''"
_PICKED = "picked == null || indexof(picked, datum.run_id) >= 0"
_HERE = "datum.convention == convention"
_DRAWN = "indexof(laws, datum.law) >= 0"


def charts(laws: list[str], convention: str, at: float, *, joined: bool, frontier: bool) -> dict[str, dict]:
    """Vega-Lite specifications by name. `joined`: budgets are shared, so that points of one form a curve; `frontier`:
    some law has an optimum."""
    made = {"isoflop": _isoflop(laws, joined), "compute": _compute(laws, frontier)}
    if frontier:
        made |= {name: _allocation(name, laws) for name in ("n_params", "tokens")}
    made |= {f"residuals by {name}": _residuals(name) for name in ("flops", "n_params", "tokens")}
    signals = {
        "convention": convention,
        "laws": laws[:1],
        "law": laws[0],
        "picked": None,
        "at": at,
        "ramp": list(TONES),
    }
    return {name: _finish(chart, signals) for name, chart in made.items()}


def _finish(chart: alt.LayerChart | alt.FacetChart, signals: dict) -> dict:
    chart = chart.properties(width="container", height=HEIGHT)
    chart = chart.add_params(*(alt.param(name=name, value=value) for name, value in signals.items()))
    spec = chart.to_dict(validate=False)
    return {k: v for k, v in spec.items() if k not in ("config", "$schema")}


def _log(name: str, *, field: str | None = None, title: str | None = None) -> dict:
    label = _DECADES if name == "flops" else _SHORT
    unlabelled = {"condition": {"test": f"({label}) == ''", "value": 0}, "value": 0.6}
    axis = alt.Axis(labelExpr=label, title=title or TITLES[name], labelOverlap="greedy", gridOpacity=unlabelled)
    return {"shorthand": f"{field or name}:Q", "scale": alt.Scale(type="log", nice=False, padding=12), "axis": axis}


def _loss(field: str = "loss") -> alt.Y:
    return alt.Y(f"{field}:Q", scale=alt.Scale(zero=False, padding=8), title=loss_label())


def _colour() -> alt.Color:
    return alt.Color("flops:Q", scale=_ramp(), legend=None)


def _ramp() -> alt.Scale:
    """Colours of compute from a signal, which the page sets by its theme, and for paper."""
    return alt.Scale(type="log", scheme={"expr": "ramp"})


def _dash(laws: list[str]) -> alt.StrokeDash:
    patterns = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 6]]
    return alt.StrokeDash("law:N", scale=alt.Scale(domain=laws, range=patterns[: len(laws)]), legend=None)


def _runs() -> alt.Chart:
    return alt.Chart(alt.NamedData("points")).transform_filter(_HERE)


def _dots(chart: alt.Chart) -> alt.Chart:
    """Runs as points with a tooltip, dim outside a brush; the brush of the chart is on them."""
    shown = [
        alt.Tooltip("run_id:N", title="run"), alt.Tooltip("n_params:Q", title="N", format=".4s"),
        alt.Tooltip("tokens:Q", title="D", format=".4s"), alt.Tooltip("flops:Q", title="C (FLOPs)", format=".3e"),
        alt.Tooltip("loss:Q", title="loss", format=".4f"), alt.Tooltip("predicted:Q", title="law", format=".4f"),
        alt.Tooltip("residual:Q", title="ln(loss/law)", format="+.2%"), alt.Tooltip("seed:N", title="seed"),
        alt.Tooltip("arm:N", title="arm"),
    ]  # fmt: skip
    dim = alt.when(_PICKED).then(alt.value(0.95)).otherwise(alt.value(0.12))
    brush = alt.selection_interval(name="brush")
    dots = chart.transform_calculate(predicted="datum[law]", residual="log(datum.loss / datum[law])")
    return dots.mark_point(filled=True, size=48).encode(color=_colour(), opacity=dim, tooltip=shown).add_params(brush)


def _isoflop(laws: list[str], joined: bool) -> alt.LayerChart | alt.FacetChart:
    dots = _dots(_runs()).encode(x=alt.X(**_log("n_params")), y=_loss())
    if not joined:
        return alt.layer(dots)
    lines = (
        _runs().transform_filter("isValid(datum.budget)").transform_fold([*laws], as_=["law", "value"])
        .transform_filter(_DRAWN).mark_line(interpolate="monotone", strokeWidth=1.6)
        .encode(x=alt.X(**_log("n_params")), y=_loss("value"), detail="budget:N", strokeDash=_dash(laws),
                color=alt.Color("budget:Q", scale=_ramp(), legend=None))
    )  # fmt: skip
    return alt.layer(lines, dots)


def _compute(laws: list[str], frontier: bool) -> alt.LayerChart | alt.FacetChart:
    dots = _dots(_runs()).encode(x=alt.X(**_log("flops")), y=_loss())
    return alt.layer(*(_frontier("loss", _loss, laws) if frontier else []), dots)


def _allocation(name: str, laws: list[str]) -> alt.LayerChart | alt.FacetChart:
    best = f"best {TITLES[name]}"

    def vertical(field: str = name) -> alt.Y:
        return alt.Y(**_log(name, field=field, title=best))

    shown = [
        alt.Tooltip("flops:Q", title="budget (FLOPs)", format=".3e"), alt.Tooltip(f"{name}:Q", format=".4s"),
        alt.Tooltip("loss:Q", title="loss", format=".4f"), alt.Tooltip("reason:N", title="note"),
    ]  # fmt: skip
    optima = (
        alt.Chart(alt.NamedData("optima")).transform_filter(_HERE)
        .mark_point(shape="diamond", size=90, strokeWidth=1.8)
        .encode(x=alt.X(**_log("flops")), y=vertical(), color=_colour(), tooltip=shown,
                fill=alt.when("datum.accepted").then(_colour()).otherwise(alt.value("transparent")))
    )  # fmt: skip
    return alt.layer(*_frontier(name, vertical, laws), optima)


def _frontier(name: str, vertical: Callable[..., alt.Y], laws: list[str]) -> list[alt.Chart]:
    """Band and line of the optimum over compute, dotted by law, faint beyond the data; a rule at the calculator's."""
    base = alt.Chart(alt.NamedData("frontier")).transform_filter(_HERE).transform_filter(_DRAWN)
    x = alt.X(**_log("flops"))
    band = (
        base.transform_filter(f"isValid(datum.{name}_low)").mark_area(opacity=0.2)
        .encode(x=x, y=vertical(f"{name}_low"), y2=f"{name}_high:Q", detail="law:N")
    )  # fmt: skip
    shown = [
        alt.Tooltip("law:N"), alt.Tooltip("flops:Q", title="C (FLOPs)", format=".3e"),
        alt.Tooltip(f"{name}:Q", format=".4f" if name == "loss" else ".4s"),
        alt.Tooltip(f"{name}_low:Q", title=f"{LEVEL:.0%} from", format=".4f" if name == "loss" else ".4s"),
        alt.Tooltip(f"{name}_high:Q", title="to", format=".4f" if name == "loss" else ".4s"),
    ]  # fmt: skip
    line = base.mark_line(strokeWidth=1.8).encode(x=x, y=vertical(), strokeDash=_dash(laws), detail="law:N")
    over = base.mark_point(opacity=0, size=120).encode(x=x, y=vertical(), tooltip=shown)
    edge = (
        base.transform_filter("datum.inside").transform_aggregate(end="max(flops)")
        .mark_rule(strokeDash=[2, 4], opacity=0.6).encode(x=alt.X("end:Q"))
    )  # fmt: skip
    here = (
        alt.Chart(alt.InlineData([{}])).transform_calculate(here="at")
        .mark_rule(clip=True, color="var(--fail)", strokeWidth=1.5).encode(x=alt.X("here:Q"))
    )  # fmt: skip
    return [band, line, over, edge, here]


def _residuals(name: str) -> alt.LayerChart | alt.FacetChart:
    dots = _dots(_runs()).encode(
        x=alt.X(**_log(name)),
        y=alt.Y("residual:Q", title="ln(loss / law)", axis=alt.Axis(format="+.1%")),
    )
    zero = alt.Chart(alt.InlineData([{"zero": 0}])).mark_rule(strokeDash=[4, 4]).encode(y="zero:Q")
    return alt.layer(zero, dots)
