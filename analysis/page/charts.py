"""The interactive charts of the page as Vega-Lite. Their data are named; the page supplies them.

Every chart has the same signals, which the controls of the page set: `convention`, `laws` (those drawn), `law` (whose
residuals are shown), `picked` (the runs that a brush holds, or null), `at` (the compute of the calculator), `ramp` (the
colours of compute, least first). Lines have the colour and dashes of their law, which the style sheet knows.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from isoflop.analysis.style import LEVEL, TONES, loss_label
from isoflop.printable import shortened

Part = dict[str, Any]  # of a specification: a layer, an axis, a channel
Dots = Callable[[Part, Part], Part]  # the layer of runs for an x and a y
Shown = tuple[tuple[Part, ...], list[Part]]  # transforms, and the parts of a tooltip that show what they make

TITLES = {
    "n_params": "model size N (parameters)", "tokens": "training tokens D", "flops": "training compute C (FLOPs)",
}  # fmt: skip
LETTERS = {"n_params": "N", "tokens": "D"}
HEIGHT = 300
# 1, 2, 5 of each decade where the axis is short, decades alone where it is long; G is written B.
_MANTISSA = "round(datum.value / pow(10, floor(log(datum.value) / LN10 + 1e-9)))"
_SHORT = f"indexof([1, 2, 5], {_MANTISSA}) >= 0 ? replace(format(datum.value, '~s'), 'G', 'B') : ''"
_DECADES = f"{_MANTISSA} == 1 ? replace(format(datum.value, '.0e'), '+', '') : ''"
_LOSS = ".5~g"  # digits of a loss, whatever its size
_PICKED = "picked == null || indexof(picked, datum.run_id) >= 0"
_HERE: Part = {"filter": "datum.convention == convention"}
_DRAWN: Part = {"filter": "indexof(laws, datum.law) >= 0"}
_RAMP: Part = {
    "scheme": {"expr": "ramp"},
    "type": "log",
}  # colours from a signal, set by the page's theme, and for paper
_DOTS = "runs"  # the layer that the brush is on
COLOURS = 6  # of laws: --law-0 to --law-5 of the style sheet
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 6], [10, 4], [1, 3])  # so many that no law looks like another
SHAPES = (
    "circle", "square", "triangle-up", "triangle-down", "cross", "triangle-right", "triangle-left", "diamond",
    "M-.7,-1L0,-.3L.7,-1L1,-.7L.3,0L1,.7L.7,1L0,.3L-.7,1L-1,.7L-.3,0L-1,-.7Z",
    "M0,-1L.22,-.31L.95,-.31L.36,.12L.59,.81L0,.38L-.59,.81L-.36,.12L-.95,-.31L-.22,-.31Z",
    "M0,-1L.95,-.31L.59,.81L-.59,.81L-.95,-.31Z", "M0,-1L.87,-.5L.87,.5L0,1L-.87,.5L-.87,-.5Z",
)  # fmt: skip
LABEL = 20  # letters of an arm in the legend: two beside one another on a telephone


def charts(
    laws: list[str],
    convention: str,
    fitted: tuple[float, float],
    *,
    arms: Sequence[str],
    joined: bool,
    frontier: bool,
    seeded: bool = False,
) -> dict[str, Part]:
    """Vega-Lite specifications by name. `fitted` is the range of compute; `arms`, where there are several, have a mark
    each. `joined`: budgets are shared, so that laws have a curve at each; `frontier`: some law has an optimum;
    `seeded`: runs have seeds."""
    dots = partial(_dots, arms=arms, seeded=seeded)
    made = {"isoflop": _isoflop(laws, dots, joined), "compute": _compute(laws, dots, fitted, frontier)}
    if frontier:
        made |= {name: _allocation(name, laws, fitted) for name in ("n_params", "tokens")}
    made |= {f"residuals by {name}": _residuals(name, dots) for name in ("flops", "n_params", "tokens")}
    signals = {
        "convention": convention,
        "laws": laws[:1],
        "law": laws[0],
        "picked": None,
        "at": fitted[1],
        "ramp": list(TONES),
    }
    return {name: _layered(layers, signals) for name, layers in made.items()}


def _layered(layers: list[Part], signals: Part) -> Part:
    """One chart of layers, with the brush of its runs, where it shows them, and the signals."""
    brush = [{"name": "brush", "select": {"type": "interval"}, "views": [_DOTS]}]
    params = [*(brush if any(layer.get("name") == _DOTS for layer in layers) else [])]
    params += [{"name": name, "value": value} for name, value in signals.items()]
    apart = {
        "scale": {"color": "independent", "strokeDash": "independent"}
    }  # runs by their compute, lines by their law
    return {"layer": layers, "height": HEIGHT, "params": params, "resolve": apart, "width": "container"}


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


def _by_law(laws: list[str]) -> Part:
    """Colour and dashes of a line by its law, with one legend of the laws that are drawn."""
    legend = {"orient": "bottom", "columns": 3, "title": None, "values": {"expr": "laws"}, "symbolType": "stroke",
              "symbolSize": 500}  # fmt: skip
    colours = [f"var(--law-{k % COLOURS})" for k in range(len(laws))]
    dashes = [DASHES[k % len(DASHES)] for k in range(len(laws))]
    return {"color": _word("law", legend=legend, scale={"domain": laws, "range": colours}),
            "strokeDash": _word("law", legend=legend, scale={"domain": laws, "range": dashes})}  # fmt: skip


def _by_arm(arms: Sequence[str]) -> Part:
    """A mark for each arm, with a legend; none for more arms than there are marks, which page.py says."""
    if not 1 < len(arms) <= len(SHAPES):
        return {}
    labels = shortened(arms, LABEL)
    legend = {
        "orient": "top", "columns": 3 if max(map(len, labels.values())) <= LABEL // 2 else 2, "title": None,
        "symbolFillColor": "var(--ink)", "symbolStrokeWidth": 0, "labelLimit": 0,
        "labelExpr": f"({json.dumps(labels)})[datum.label]",
    }  # fmt: skip
    return {"shape": _word("arm", legend=legend, scale={"domain": list(arms), "range": SHAPES[: len(arms)]})}


def _counts(titles: Mapping[str, str]) -> Shown:
    """Columns of counts in a tooltip, written as the axes do: 1.096B."""
    written = tuple(
        {"calculate": f"isValid(datum.{n}) ? replace(format(datum.{n}, '.4s'), 'G', 'B') : ''", "as": f"{n}_text"}
        for n in titles
    )
    return written, [_word(f"{name}_text", title=title) for name, title in titles.items()]


def _losses(titles: Mapping[str, str]) -> Shown:
    """Columns of losses in a tooltip."""
    return (), [_number(name, format=_LOSS, title=title) for name, title in titles.items()]


def _dots(x: Part, y: Part, arms: Sequence[str], seeded: bool) -> Part:
    """Runs as points with a tooltip, a shape an arm, dim outside a brush; the brush of the chart is on them."""
    written, counts = _counts(LETTERS)
    shown = [
        _word("run_id", title="run"), *counts, _number("flops", format=".3e", title="C (FLOPs)"),
        _number("loss", format=_LOSS, title="loss"), _word("by", title="law"),
        _number("predicted", format=_LOSS, title="its loss"),
        _number("residual", format="+.2%", title="ln(loss/law)"), *([_word("seed", title="seed")] if seeded else []),
        *([_word("arm", title="arm")] if len(arms) > 1 else []),
    ]  # fmt: skip
    dim = {"condition": [{"test": _PICKED, "value": 0.95}], "value": 0.12}
    encoding = {"color": _colour(), "opacity": dim, **_by_arm(arms), "tooltip": shown, "x": x, "y": y}
    by_law = ({"calculate": "law", "as": "by"}, {"calculate": "datum[law]", "as": "predicted"},
              {"calculate": "log(datum.loss / datum[law])", "as": "residual"})  # fmt: skip
    mark = {"filled": True, "size": 48}
    return _layer("points", "point", mark, encoding, _HERE, *by_law, *written) | {"name": _DOTS}


def _isoflop(laws: list[str], dots: Dots, joined: bool) -> list[Part]:
    runs = dots(_log("n_params"), _loss())
    if not joined:
        return [runs]
    encoding = {**_by_law(laws), "detail": _word("budget"), "x": _log("n_params"), "y": _loss("value")}
    lines = _layer(
        "profiles", "line", {"strokeWidth": 1.6, "clip": True}, encoding,
        _HERE, {"fold": laws, "as": ["law", "value"]}, _DRAWN, {"filter": "isValid(datum.value)"},
    )  # fmt: skip
    return [lines, runs]


def _compute(laws: list[str], dots: Dots, fitted: tuple[float, float], frontier: bool) -> list[Part]:
    lines = _frontier("loss", _loss, laws, fitted) if frontier else []
    return [*lines, dots(_log("flops"), _loss())]


def _allocation(name: str, laws: list[str], fitted: tuple[float, float]) -> list[Part]:
    best = f"best {TITLES[name]}"

    def vertical(field: str = name) -> Part:
        return _log(name, field=field, title=best)

    written, counts = _counts({name: LETTERS[name]})
    shown = [
        _number("flops", format=".3e", title="budget (FLOPs)"), *counts,
        _number("loss", format=_LOSS, title="loss"), _word("reason", title="note"),
    ]  # fmt: skip
    fill = {"condition": {"test": "datum.accepted", **_colour()}, "value": "transparent"}
    encoding = {"color": _colour(), "fill": fill, "tooltip": shown, "x": _log("flops"), "y": vertical()}
    optima = _layer("optima", "point", {"shape": "diamond", "size": 90, "strokeWidth": 1.8}, encoding, _HERE, *written)
    return [*_frontier(name, vertical, laws, fitted), optima]


def _frontier(name: str, vertical: Callable[..., Part], laws: list[str], fitted: tuple[float, float]) -> list[Part]:
    """Band and line of the optimum over compute by law; a faint rule where the fitted range ends, one at the
    calculator's compute."""
    low, high, x = f"{name}_low", f"{name}_high", _log("flops")
    between = {"detail": _word("law"), "x": x, "y": vertical(low), "y2": {"field": high}}
    valid = {"filter": f"isValid(datum.{low})"}
    band = _layer("frontier", "area", {"opacity": 0.2}, between, _HERE, _DRAWN, valid)
    line = _layer("frontier", "line", {"strokeWidth": 1.8}, {**_by_law(laws), "x": x, "y": vertical()}, _HERE, _DRAWN)
    titles = {name: LETTERS.get(name, name), low: f"{LEVEL:.0%} from", high: "to"}
    written, values = _losses(titles) if name == "loss" else _counts(titles)
    shown = [_word("law"), _number("flops", format=".3e", title="C (FLOPs)"), *values]
    tips = {"tooltip": shown, "x": x, "y": vertical()}
    over = _layer("frontier", "point", {"opacity": 0, "size": 120}, tips, _HERE, _DRAWN, *written)
    edge = _layer({"end": fitted[1]}, "rule", {"opacity": 0.6, "strokeDash": [2, 4]}, {"x": _number("end")})
    here = _layer(
        {}, "rule", {"clip": True, "color": "var(--fail)", "strokeWidth": 1.5}, {"x": _number("here")},
        {"calculate": "at", "as": "here"},
    )  # fmt: skip
    return [band, line, over, here, edge]


def _residuals(name: str, dots: Dots) -> list[Part]:
    axis = {"axis": {"format": "+.1%"}, **_number("residual", title="ln(loss / law)")}
    zero = _layer({"zero": 0}, "rule", {"strokeDash": [4, 4]}, {"y": _number("zero")})
    return [zero, dots(_log(name), axis)]
