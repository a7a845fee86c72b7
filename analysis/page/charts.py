"""The interactive charts of the page as Vega-Lite. Their data are named; the page supplies them.

Every chart has the same signals, which the controls of the page set: `convention`, `laws` (those drawn), `law` (whose
residuals are shown), `picked` (the runs that a brush holds, or null), `at` (the compute of the calculator), `ramp` (the
colours of compute, least first).
"""

from collections.abc import Callable
from typing import Any

from isoflop.analysis.style import LEVEL, TONES, loss_label

Part = dict[str, Any]  # of a specification: a layer, an axis, a channel

TITLES = {
    "n_params": "model size N (parameters)", "tokens": "training tokens D", "flops": "training compute C (FLOPs)",
}  # fmt: skip
HEIGHT = 300
# 1, 2, 5 of each decade where the axis is short, decades alone where it is long; G is written B.
_MANTISSA = "round(datum.value / pow(10, floor(log(datum.value) / LN10 + 1e-9)))"
_SHORT = f"indexof([1, 2, 5], {_MANTISSA}) >= 0 ? replace(format(datum.value, '~s'), 'G', 'B') : ''"
_DECADES = f"{_MANTISSA} == 1 ? replace(format(datum.value, '.0e'), '+', '') : ''"
_PICKED = "picked == null || indexof(picked, datum.run_id) >= 0"
_HERE: Part = {"filter": "datum.convention == convention"}
_DRAWN: Part = {"filter": "indexof(laws, datum.law) >= 0"}
_RAMP: Part = {
    "scheme": {"expr": "ramp"},
    "type": "log",
}  # colours from a signal, set by the page's theme, and for paper
_DOTS = "runs"  # the layer that the brush is on


def charts(laws: list[str], convention: str, at: float, *, joined: bool, frontier: bool) -> dict[str, Part]:
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
    return {name: _layered(layers, signals) for name, layers in made.items()}


def _layered(layers: list[Part], signals: Part) -> Part:
    """One chart of layers, with the brush of its runs, where it shows them, and the signals."""
    brush = [{"name": "brush", "select": {"type": "interval"}, "views": [_DOTS]}]
    params = [*(brush if any(layer.get("name") == _DOTS for layer in layers) else [])]
    params += [{"name": name, "value": value} for name, value in signals.items()]
    return {"layer": layers, "height": HEIGHT, "params": params, "width": "container"}


def _layer(data: str | Part, mark: str, look: Part, encoding: Part, *transform: Part) -> Part:
    """A layer of named data, or of one row given here."""
    layer: Part = {"data": {"name": data} if isinstance(data, str) else {"values": [data]}}
    layer |= {"mark": {"type": mark, **look}, "encoding": encoding}
    return layer | {"transform": list(transform)} if transform else layer


def _number(name: str, **more: Any) -> Part:
    return {"field": name, **more, "type": "quantitative"}


def _word(name: str, **more: Any) -> Part:
    return {"field": name, **more, "type": "nominal"}


def _log(name: str, *, field: str | None = None, title: str | None = None) -> Part:
    label = _DECADES if name == "flops" else _SHORT
    axis = {
        "gridOpacity": {"condition": {"test": f"({label}) == ''", "value": 0}, "value": 0.6},
        "labelExpr": label, "labelOverlap": "greedy", "title": title or TITLES[name],
    }  # fmt: skip
    return {"axis": axis, **_number(field or name, scale={"nice": False, "padding": 12, "type": "log"})}


def _loss(field: str = "loss") -> Part:
    return _number(field, scale={"padding": 8, "zero": False}, title=loss_label())


def _colour(name: str = "flops") -> Part:
    return _number(name, legend=None, scale=_RAMP)


def _dash(laws: list[str]) -> Part:
    patterns = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 6]]
    return _word("law", legend=None, scale={"domain": laws, "range": patterns[: len(laws)]})


def _dots(x: Part, y: Part) -> Part:
    """Runs as points with a tooltip, dim outside a brush; the brush of the chart is on them."""
    shown = [
        _word("run_id", title="run"), _number("n_params", format=".4s", title="N"),
        _number("tokens", format=".4s", title="D"), _number("flops", format=".3e", title="C (FLOPs)"),
        _number("loss", format=".4f", title="loss"), _number("predicted", format=".4f", title="law"),
        _number("residual", format="+.2%", title="ln(loss/law)"), _word("seed", title="seed"),
        _word("arm", title="arm"),
    ]  # fmt: skip
    dim = {"condition": [{"test": _PICKED, "value": 0.95}], "value": 0.12}
    encoding = {"color": _colour(), "opacity": dim, "tooltip": shown, "x": x, "y": y}
    by_law = ({"calculate": "datum[law]", "as": "predicted"},
              {"calculate": "log(datum.loss / datum[law])", "as": "residual"})  # fmt: skip
    return _layer("points", "point", {"filled": True, "size": 48}, encoding, _HERE, *by_law) | {"name": _DOTS}


def _isoflop(laws: list[str], joined: bool) -> list[Part]:
    dots = _dots(_log("n_params"), _loss())
    if not joined:
        return [dots]
    encoding = {
        "color": _colour("budget"), "detail": _word("budget"), "strokeDash": _dash(laws), "x": _log("n_params"),
        "y": _loss("value"),
    }  # fmt: skip
    lines = _layer(
        "points", "line", {"interpolate": "monotone", "strokeWidth": 1.6}, encoding,
        _HERE, {"filter": "isValid(datum.budget)"}, {"fold": laws, "as": ["law", "value"]}, _DRAWN,
    )  # fmt: skip
    return [lines, dots]


def _compute(laws: list[str], frontier: bool) -> list[Part]:
    return [*(_frontier("loss", _loss, laws) if frontier else []), _dots(_log("flops"), _loss())]


def _allocation(name: str, laws: list[str]) -> list[Part]:
    best = f"best {TITLES[name]}"

    def vertical(field: str = name) -> Part:
        return _log(name, field=field, title=best)

    shown = [
        _number("flops", format=".3e", title="budget (FLOPs)"), _number(name, format=".4s"),
        _number("loss", format=".4f", title="loss"), _word("reason", title="note"),
    ]  # fmt: skip
    fill = {"condition": {"test": "datum.accepted", **_colour()}, "value": "transparent"}
    encoding = {"color": _colour(), "fill": fill, "tooltip": shown, "x": _log("flops"), "y": vertical()}
    optima = _layer("optima", "point", {"shape": "diamond", "size": 90, "strokeWidth": 1.8}, encoding, _HERE)
    return [*_frontier(name, vertical, laws), optima]


def _frontier(name: str, vertical: Callable[..., Part], laws: list[str]) -> list[Part]:
    """Band and line of the optimum over compute, dotted by law, faint beyond the data; a rule at the calculator's."""
    low, high, form, x = f"{name}_low", f"{name}_high", ".4f" if name == "loss" else ".4s", _log("flops")
    between = {"detail": _word("law"), "x": x, "y": vertical(low), "y2": {"field": high}}
    valid = {"filter": f"isValid(datum.{low})"}
    band = _layer("frontier", "area", {"opacity": 0.2}, between, _HERE, _DRAWN, valid)
    by_law = {"detail": _word("law"), "strokeDash": _dash(laws), "x": x, "y": vertical()}
    line = _layer("frontier", "line", {"strokeWidth": 1.8}, by_law, _HERE, _DRAWN)
    shown = [
        _word("law"), _number("flops", format=".3e", title="C (FLOPs)"), _number(name, format=form),
        _number(low, format=form, title=f"{LEVEL:.0%} from"), _number(high, format=form, title="to"),
    ]  # fmt: skip
    tips = {"tooltip": shown, "x": x, "y": vertical()}
    over = _layer("frontier", "point", {"opacity": 0, "size": 120}, tips, _HERE, _DRAWN)
    edge = _layer(
        "frontier", "rule", {"opacity": 0.6, "strokeDash": [2, 4]}, {"x": _number("end")},
        _HERE, _DRAWN, {"filter": "datum.inside"}, {"aggregate": [{"op": "max", "field": "flops", "as": "end"}]},
    )  # fmt: skip
    here = _layer(
        {}, "rule", {"clip": True, "color": "var(--fail)", "strokeWidth": 1.5}, {"x": _number("here")},
        {"calculate": "at", "as": "here"},
    )  # fmt: skip
    return [band, line, over, edge, here]


def _residuals(name: str) -> list[Part]:
    axis = {"axis": {"format": "+.1%"}, **_number("residual", title="ln(loss / law)")}
    zero = _layer({"zero": 0}, "rule", {"strokeDash": [4, 4]}, {"y": _number("zero")})
    return [zero, _dots(_log(name), axis)]
