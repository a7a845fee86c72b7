"""Tables of a paper: the law's parameters, its exponents under each convention, and the laws compared."""

from typing import Any

from isoflop.analysis.evidence import Evidence
from isoflop.analysis.law_tables import SPLIT
from isoflop.analysis.paper.bibliography import key_of
from isoflop.analysis.paper.latex import escaped, formula, number, percent, span, symbol, tabular
from isoflop.analysis.style import LEVEL
from isoflop.scaling.findings.diagnose import refused
from isoflop.scaling.laws import get_law
from isoflop.scaling.laws.law import Law, Paper, Preset
from isoflop.scaling.selection.rolling_origins import BASELINE
from isoflop.scaling.selection.scoreboard import AVERAGE

_COUNTS = {"N": "parameters", "D": "tokens", "U": "tokens", "C": "FLOPs"}


def unit_of(law: type[Law], name: str, loss_unit: str) -> str:
    """The unit of a law's parameter; empty for exponents and other pure numbers.

    Amplitudes have none to write: theirs is the loss's times a power of what their term is of, which the fit chose.
    """
    if name in (law.floor_name, law.ceiling_name):
        return loss_unit
    if name[0] in _COUNTS and name[1:2] == "_":  # N_c, D_c
        return _COUNTS[name[0]]
    return ""


def parameters(e: Evidence) -> str:
    """Every parameter and exponent of the report's law: value, interval, unit."""
    fit, draws = e.fit, e.draws
    form = type(fit.law)
    rows = []
    for name, value in zip(fit.law.parameters(), fit.law.values(), strict=True):
        rows.append([symbol(name), number(float(value)), _between(e, name), escaped(unit_of(form, name, e.loss_unit))])
    for name, value in fit.exponents().items():
        if name in refused(e.findings) or (name in SPLIT and e.no_optimum(fit)):
            rows.append([_exponent(name), "--", "not determined", ""])
        else:
            rows.append([_exponent(name), number(float(value)), span(*draws.interval(name, LEVEL)), ""])
    intervals = f"{LEVEL:.0%} intervals: {draws.kind} by {draws.by}"
    comment = "\n".join([
        f"{e.law_name}: {fit.law.formula}", f"{len(fit.points)} runs; {intervals}; in full precision:",
        *(f"{name} = {float(value)!r}" for name, value in zip(fit.law.parameters(), fit.law.values(), strict=True)),
        *(f"{name} = {float(value)!r}" for name, value in fit.exponents().items()),
    ])  # fmt: skip
    head = ["", "value", rf"${100 * LEVEL:.0f}\,\%$ interval", "unit"]
    return tabular("lrll", head, rows, comment)


def _between(e: Evidence, name: str) -> str:
    if name in e.fit.problem.pinned:
        return "fixed"
    if name == e.fit.problem.follower and e.fit.law.ties:
        return f"tied to {symbol(e.fit.law.ties[0])}"
    if name in refused(e.findings):
        return "not determined"
    return span(*e.draws.interval(name, LEVEL)) + (" (at its bound)" if name in e.fit.bounds_hit else "")


def _exponent(name: str) -> str:
    symbols = {"a": r"$N^* \propto C^a$", "b": r"$D^* \propto C^b$", "frontier": r"$L^* - E \propto C^{-f}$"}
    return symbols.get(name, symbol(name))


def exponents(e: Evidence) -> str:
    """The exponents of the best size and tokens under each way to count parameters and compute."""
    rows = [
        [escaped(r["params"]), escaped(r["compute"]), number(r["a"]), span(r["a_low"], r["a_high"]), number(r["b"]),
         span(r["b_low"], r["b_high"])]
        for r in e.conventions.to_dict("records")
    ]  # fmt: skip
    level = rf"${100 * LEVEL:.0f}\,\%$"
    return tabular("llrlrl", ["$N$", "$C$", "$a$", level, "$b$", level], rows, f"law: {e.law_name}")


def laws(e: Evidence) -> str:
    """Every law scored by what it predicts, with its formula and citation; the one of the report is marked."""
    rows = []
    for row in e.scoreboard.frame.drop(index=BASELINE, errors="ignore").reset_index().to_dict("records"):
        rows.append(_scored(str(row["law"]), row, e.law_name))
    head = ["law", "formula", "free", "error", "s.e.", "too high", "covered"]
    comment = (
        "error: mean |ln(predicted / loss)| on runs not fitted; too high: mean ln(predicted / loss)\n"
        "covered: inside 90% intervals; * the report's law"
    )
    return tabular("llrrrrr", head, rows, comment)


def _scored(name: str, row: dict[str, Any], preferred: str) -> list[str]:
    numbers = [percent(row["error"]), percent(row["error_se"]), percent(row["bias"]), percent(row["coverage"], 0)]
    if name == AVERAGE:
        return ["forecast average", "", "--", *numbers]
    form, preset = get_law(name)
    mark = "$^*$" if name == preferred else ""
    free = row["free"]
    shown = f"${free:.0f}$" if free == free else "--"
    keys = ",".join([key_of(form), *([preset.paper.key] if preset.paper else [])])
    return [rf"{escaped(name)}{mark}~\cite{{{keys}}}", _as_fitted(form, preset), shown, *numbers]


def _as_fitted(form: type[Law], preset: Preset) -> str:
    """The formula of a form, and what it is held to under one of its names: kappa = 1, E = 0, alpha = beta."""
    held = {name: value for name, value in form.defaults().items() if name not in preset.free} | dict(preset.fixed)
    said = [f"{name} = {value:g}" for name, value in held.items()]
    said += [" = ".join(form.ties)] if preset.tied and form.ties else []
    return ", ".join(map(formula, [form.formula, *said]))


def cited(e: Evidence) -> tuple[list[type[Law]], list[Paper]]:
    """The laws that the tables name, and the papers of what their names free."""
    names = [e.law_name, *map(str, e.scoreboard.frame.index.drop([BASELINE, AVERAGE], errors="ignore"))]
    known = [get_law(name) for name in dict.fromkeys(names)]
    return [form for form, _ in known], [preset.paper for _, preset in known if preset.paper]
