"""report.html: one self-contained page. Verdict, Findings, budget calculator, charts, checklist, provenance.

The charts are Vega-Lite, whose JavaScript is put into the page: it asks nothing of any network. A part
that the table cannot support is replaced by its reason, as in report.md.
"""

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from html import escape
from importlib.util import find_spec
from pathlib import Path
from string import Template

import pandas as pd

from isoflop.analysis import sections as summary
from isoflop.analysis.evidence import Evidence, UnsupportedError
from isoflop.analysis.figure import Figure
from isoflop.analysis.page.checklist import checklist
from isoflop.analysis.page.mathml import mathml
from isoflop.analysis.page.vega import Script
from isoflop.analysis.style import LEVEL, losses_in

NAME = "report.html"
NEEDS = ("vl_convert", "markdown_it")
HERE = Path(__file__).parent
PRICE, SPEED = 2.0, 4e14  # of a device-hour, and FLOP/s that a device sustains: shown as inputs, to be overwritten


@cache
def javascript() -> Script:
    """The script of the charts, for every page of this process."""
    return Script()


def absent() -> list[str]:
    """What the page needs and is not installed."""
    return [name for name in NEEDS if find_spec(name) is None]


def page(e: Evidence, *, missing: dict[str, str], provenance: str, figures: Sequence[Figure] = ()) -> str:
    """The page as text; `figures` are those written beside it. Raises UnsupportedError without the extra `report`."""
    if lacking := absent():
        raise UnsupportedError(f"{', '.join(lacking)} not installed: pip install 'isoflop[report]'")
    title = summary.title(e)
    data = page_data(e)
    parts: Sequence[tuple[str, str, Callable[[], str]]] = (
        ("verdict", "Verdict", lambda: _verdict(e)),
        ("findings", "Findings", lambda: _findings(e)),
        ("calculator", "Budget calculator", lambda: _calculator(e, data)),
        ("charts", "Charts", lambda: _charts(data)),
        ("checklist", "Reporting checklist", lambda: _checklist(e)),
        ("scoreboard", "Scoreboard", lambda: _scoreboard(e)),
        *((_slug(title), title, _text(e, write)) for title, write in _SECTIONS),
        ("figures", "Figures", lambda: _figures(figures)),
        ("cells", "Cells", lambda: _folded("<h2>Cells</h2>", _cells(e, figures))),
        ("missing", "Not drawn", lambda: _markdown("\n".join(f"- {k}: {v}" for k, v in missing.items()) or "Nothing.")),
        ("provenance", "Provenance", lambda: _markdown(provenance)),
    )
    return Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        css=(HERE / "page.css").read_text(encoding="utf-8"),
        nav=" ".join(f'<a href="#{name}">{escape(heading)}</a>' for name, heading, _ in parts),
        main="\n".join(_section(*part) for part in parts),
        bundle=javascript().text.replace("</script", "<\\/script"),
        data=script_json(data),
        script=(HERE / "page.js").read_text(encoding="utf-8"),
    )


def page_data(e: Evidence) -> dict:
    """What the page's script works on: charts with their data, the calculator's rows, the fitted range."""
    from isoflop.analysis.page.charts import charts
    from isoflop.analysis.page.data import convention_name, datasets, law_names, records, without_optimum

    try:
        laws, rows, convention = law_names(e), datasets(e), convention_name(e.points)
    except ValueError as error:
        return {"charts": {}, "datasets": {}, "laws": [], "conventions": [], "convention": "", "why": str(error)}
    budgets, joined = e.points.frame["flops"], any(row["budget"] for row in rows["points"])
    arms = sorted({row["arm"] for row in rows["points"] if "arm" in row})
    with losses_in(e.loss_unit):
        drawn = charts(
            laws, convention, (budgets.min(), budgets.max()), arms=arms, joined=joined, frontier=bool(rows["frontier"]),
            seeded=any("seed" in row for row in rows["points"]),
        )  # fmt: skip
    data = {
        "charts": drawn,
        "datasets": rows,
        "laws": laws,
        "convention": convention,
        "conventions": list(dict.fromkeys(row["convention"] for row in rows["points"])),
        "fitted": [budgets.min(), budgets.max()],
        "no_optimum": without_optimum(e, laws),
        "arms": len(arms),
    }
    try:
        return data | {"calculator": list(records([_calculated(e)]))}
    except ValueError as error:
        return data | {"no_calculator": str(error)}


def _calculated(e: Evidence) -> pd.DataFrame:
    from isoflop.analysis.page.calculator import calculator_frame

    return calculator_frame(e.optimum, e.identified)


_SECTIONS = (
    ("Held out", summary.held_out), ("Laws", summary.laws), ("Parameters", summary.parameters),
    ("Conventions", summary.conventions),
    ("Three approaches", summary.three_approaches), ("Noise", summary.noise), ("Cost", summary.cost),
)  # fmt: skip


def _section(name: str, title: str, write: Callable[[], str]) -> str:
    try:
        body = write()
    except ValueError as error:
        body = f"<p>Not available: {escape(str(error))}.</p>"
    for k in range(1, body.count(_UNNAMED) + 1):
        body = body.replace(_UNNAMED, f'aria-label="{escape(title)}, table {k}"', 1)
    heading = "" if name in ("verdict", "cells") else f"<h2>{escape(title)}</h2>"
    return f'<section id="{name}" aria-label="{escape(title)}">{heading}\n{body}\n</section>'


_UNNAMED = 'aria-label="table"'  # of a table in a section that has yet to be written
_SCROLL = f'<div class="scroll" tabindex="0" role="region" {_UNNAMED}><table>'  # wide tables scroll by key too


def _slug(title: str) -> str:
    return title.lower().replace(" ", "-")


def _verdict(e: Evidence) -> str:
    """The verdict with its law set as mathematics, where the grammar of `mathml` holds it (a user's own may not be)."""
    text = summary.section(e, "", summary.verdict)
    try:
        written = summary.formula(e.fit)
        formula, _, values = written.partition(" with ")
        each = (mathml(value, block=False) for value in re.split(r", (?=\w+ = )", values))
        shown = mathml(formula) + (f"<p>with {', '.join(each)}</p>" if values else "")
    except ValueError:
        return _markdown(text)
    box = f'<div class="scroll law" tabindex="0" role="region" aria-label="{escape(written)}">{shown}</div>'
    return box + _markdown(text.replace(f"**{written}** ({e.loss_unit})", f"Losses are in {e.loss_unit}", 1))


def _text(e: Evidence, write: Callable[[Evidence], str]) -> Callable[[], str]:
    return lambda: _markdown(write(e))


def script_json(data: object) -> str:
    """JSON for a <script> element: names inside cannot end it, nor open a comment or a script of their own."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _markdown(text: str) -> str:
    """HTML of what report.md says, wide tables in a box that scrolls; HTML inside the text stays text."""
    from markdown_it import MarkdownIt

    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    html = re.sub(r"\b([CDN])\^(-?\w+(?:\.\d+)?)", r"\1<sup>\2</sup>", html)
    return html.replace("<table>", _SCROLL).replace("</table>", "</table></div>")


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>{body}</details>"


def _scoreboard(e: Evidence) -> str:
    """What to use, the laws beside it, and folded what nobody would use here."""
    far = summary.scoreboard_far(e)
    return _markdown(summary.scoreboard_close(e)) + (_folded("The others", _markdown(far)) if far else "")


def _figures(figures: Sequence[Figure]) -> str:
    """Every figure of the report's folder, a link to each of its files."""
    if not figures:
        return "<p>None was written beside this page.</p>"
    items = "".join(
        f'<li><a href="{f.name}.png">{f.name}.png</a>, <a href="{f.name}.svg">{f.name}.svg</a>, '
        f'<a href="{f.name}.csv">{f.name}.csv</a><span class="remedy">{escape(f.caption)}</span></li>'
        for f in figures
    )
    also = {"isoflop": "the optima of budgets in isoflop.csv", "n_star": "the efficient frontier in n_star.csv",
            "d_star": "its tokens in d_star.csv"}  # fmt: skip
    others = "".join(f", {what}" for name, what in also.items() if name in {f.name for f in figures})
    where = f"In the folder of this page, each with the numbers of its own. All runs stand in cells.csv{others}:"
    return f'<p>{where}</p><ul class="files">{items}</ul>'


def _cells(e: Evidence, figures: Sequence[Figure]) -> str:
    return _text(e, summary.cells)() + (
        '<p>All, with every digit: <a href="cells.csv">cells.csv</a>.</p>' * bool(figures)
    )


def _findings(e: Evidence) -> str:
    if not e.findings:
        return "<p>None: no check objects to this fit.</p>"
    severity = {"fail": "Failure", "warn": "Warning", "info": "Note"}
    items = (
        f'<li class="{f.severity}"><span class="tag">{severity[f.severity]}</span> <code>{escape(f.code)}</code> '
        f'{escape(f.message)}.<span class="remedy">{escape(f.remedy[:1].upper() + f.remedy[1:])}.</span></li>'
        for f in e.findings
    )
    return f'<ul class="findings">{"".join(items)}</ul>'


def _calculator(e: Evidence, data: dict) -> str:
    if "calculator" not in data:
        raise UnsupportedError(data.get("no_calculator", data.get("why", "no law")))
    law = f"Law {e.law_name}, {data['convention']}; {LEVEL:.0%} intervals: {e.draws.kind} by {e.draws.by}, "
    alone = "of this law alone: other laws, breaks of its exponents and the noise of a run are not in them"
    quantities = (("flops", "compute C"), ("n_params", "size N"), ("tokens", "tokens D"))
    radios = "".join(
        f'<label><input type="radio" name="given" value="{name}"{" checked" * (not k)}> {label}</label> '
        for k, (name, label) in enumerate(quantities)
    )
    fields = (("exact", "exactly", ""), ("price", "price of a device-hour", PRICE),
              ("speed", "FLOP/s sustained", f"{SPEED:.0e}"))  # fmt: skip
    typed = "".join(
        f'<label>{label}<br><input id="{name}" type="text" value="{value}" aria-describedby="warning"></label>'
        for name, label, value in fields
    )
    names = (("n_params", "best size N*"), ("tokens", "best tokens D*"), ("loss", f"loss ({e.loss_unit})"),
             ("flops", "compute C (FLOPs)"))  # fmt: skip
    cards = "".join(
        f'<div id="best-{name}"><dt>{label}</dt><dd class="value"></dd><dd class="span"></dd>'
        '<dd class="more span"></dd></div>'
        for name, label in names
    )
    return (
        f"<p>{escape(law + alone)} (<code>isoflop predict</code> has them).</p>"
        f'<div class="controls"><fieldset><legend>I know the</legend>{radios}</fieldset>'
        '<label class="wide">budget<br><input id="budget" type="range" step="0.01"></label>'
        f'{typed}</div><p id="warning" role="status"></p><dl class="answer">{cards}'
        '<div id="best-cost"><dt>cost</dt><dd class="value"></dd><dd class="span"></dd></div></dl>'
    )


_CAPTIONS = {
    "isoflop": "Loss against size; lines: the laws at each budget. Stronger colour, more compute.",
    "compute": "Loss against compute; lines: the laws at their optimum; dotted rule: the largest run; red rule: the "
    "calculator's compute.",
    "n_params": "The size that spends compute best. Diamonds: optimum of each budget (all arms), hollow where refused. "
    "Red rule: the calculator's compute.",
    "tokens": "The tokens that spend compute best. Red rule: the calculator's compute.",
    "residuals": "Residuals of the law named above: ln(loss / law) of each run.",
}


def _charts(data: dict) -> str:
    from isoflop.analysis.page.charts import SHAPES

    if not data["charts"]:
        raise UnsupportedError(data["why"])
    names = [n for n in _CAPTIONS if n in data["charts"] or n == "residuals"]
    slots = "".join(
        f'<figure><div class="chart" data-chart="{n}" role="img" aria-label="{escape(_CAPTIONS[n])}"></div>'
        f"<figcaption>{escape(_CAPTIONS[n])}</figcaption></figure>"
        for n in names
    )
    boxes = "".join(
        f'<label><input type="checkbox" name="laws" value="{escape(law)}"{" checked" * (not k)}> {escape(law)}</label> '
        for k, law in enumerate(data["laws"])
    )
    axes = (("flops", "compute C"), ("n_params", "size N"), ("tokens", "tokens D"))
    refused = "".join(
        f"<p>No optimum is drawn of {escape(', '.join(names))}: {escape(why)}.</p>"
        for why, names in data["no_optimum"].items()
    )
    if data["arms"] > len(SHAPES):
        refused += f"<p>{data['arms']} arms have no marks of their own: point at a run to see its arm.</p>"
    return (
        '<div class="controls">'
        f"<label>counting<br>{_menu('convention', [(c, c) for c in data['conventions']])}</label>"
        f"<fieldset><legend>laws drawn</legend>{boxes}</fieldset>"
        f"<label>residuals of<br>{_menu('law', [(law, law) for law in data['laws']])}</label>"
        f"<label>residuals against<br>{_menu('residuals-by', axes)}</label></div>"
        "<p>Point at a run to see which it is; drag a box in one chart to pick its runs in all. "
        '<span id="picked" role="status"></span></p><p>Shown: <span id="shown"></span>.</p>'
        f'{refused}<div class="grid">{slots}</div>'
    )


def _menu(name: str, choices: Sequence[tuple[str, str]]) -> str:
    options = "".join(f'<option value="{escape(value)}">{escape(label)}</option>' for value, label in choices)
    return f'<select id="{name}">{options}</select>'


def _checklist(e: Evidence) -> str:
    lines = checklist(e)
    held = sum(line.state == "holds" for line in lines)
    rows = "".join(
        f'<tr><td>{r.code}</td><td>{escape(r.condition)}</td><td class="{r.state}">{r.state}</td>'
        f"<td>{escape(r.evidence)}</td></tr>"
        for r in lines
    )
    return (
        f"<p>{held} of {len(lines)} hold; what nobody measured is open.</p>"
        '<table class="checks"><thead><tr><th>code</th><th>condition</th><th>state</th><th>evidence</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )
