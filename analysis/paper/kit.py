"""What a paper takes from a report: tables for LaTeX, a bibliography, figures at the width of a column.

    parameters.tex  exponents.tex  laws.tex    tables of booktabs, for \\input
    numbers.tex                                a macro for each number: \\isoflopalpha, \\isoflopalphaLow, ..
    laws.bib                                   an entry for each paper of a law that the tables name
    NAME-single.pdf  NAME-double.pdf           3.25 and 6.75 inches wide, vectors, fonts embedded
    paper.tex                                  a document that shows them all

Nothing is edited by hand: the same table gives the same files, byte by byte.
"""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas

from isoflop.analysis.evidence import Evidence, reason
from isoflop.analysis.figure import save
from isoflop.analysis.figures import FIGURES, get_figure
from isoflop.analysis.law_tables import SPLIT
from isoflop.analysis.own_files import claimed
from isoflop.analysis.paper import tables
from isoflop.analysis.paper.bibliography import bibliography
from isoflop.analysis.paper.latex import escaped, number
from isoflop.analysis.style import LEVEL, style
from isoflop.scaling.findings.diagnose import refused

SINGLE, DOUBLE = 3.25, 6.75  # inches
HEIGHT = 2.5
ONE_COLUMN = ("isoflop", "n_star", "d_star", "surface", "residuals_flops")
PANELS = ("isoflop", "n_star")  # side by side over both columns
BOTH_COLUMNS = ("prediction",)  # too much text for one
_FILES = {f"{name}-single": (name,) for name in ONE_COLUMN} | {"profiles-double": PANELS}
_FILES |= {f"{name}-double": (name,) for name in BOTH_COLUMNS}
_SMALL: dict[Any, Any] = {
    "font.size": 7, "axes.titlesize": 7.5, "axes.labelsize": 7.5, "xtick.labelsize": 6.5, "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5, "lines.linewidth": 1.1, "lines.markersize": 3,
}  # fmt: skip
_TABLES: dict[str, tuple[Callable[[Evidence], str], str]] = {
    "parameters": (tables.parameters, "The law fitted to all runs."),
    "exponents": (tables.exponents, "Its exponents under each way to count parameters and compute."),
    "laws": (tables.laws, "Laws by their error on larger runs than they were fitted to."),
}


_TEXTS = (*(f"{table}.tex" for table in _TABLES), "numbers.tex", "laws.bib")
DOCUMENT = "paper.tex"
_FIRST_LINE = "% pdflatex paper && bibtex paper && pdflatex paper && pdflatex paper"


@dataclass(frozen=True)
class Paper:
    """The files of a paper that were written under `folder`, and why the rest was not."""

    folder: Path
    files: tuple[str, ...]
    missing: dict[str, str]


def claimed_kit(folder: Path, *, read: str = "") -> AbstractContextManager[None]:
    """List the files of a kit as isoflop's own in `folder`. Raises as `claimed` does for a file of somebody else."""
    document = folder / DOCUMENT
    earlier = document.is_file() and document.read_bytes().startswith(_FIRST_LINE.encode())
    names = [DOCUMENT, *_TEXTS, *(f"{file}.pdf" for file in _FILES)]
    return claimed(folder, names, "the kit of a paper", read=read, earlier=earlier)


def write_paper(e: Evidence, folder: Path) -> Paper:
    """Write the kit of a report's evidence into `folder`; what the table cannot support has its reason in `missing`."""
    folder.mkdir(parents=True, exist_ok=True)
    with claimed_kit(folder, read=str(e.table.attrs.get("source", ""))):
        return _write(e, folder)


def _write(e: Evidence, folder: Path) -> Paper:
    texts: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name, (make, _) in _TABLES.items():
        _try(name, lambda make=make, name=name: texts.update({f"{name}.tex": make(e)}), missing)  # type: ignore[misc]
    _try("numbers", lambda: texts.update({"numbers.tex": numbers(e)}), missing)
    _try("laws.bib", lambda: texts.update({"laws.bib": bibliography(*tables.cited(e))}), missing)
    drawn = []
    for file, names in _FILES.items():
        if _try(file, lambda file=file, names=names: _draw(e, names, folder / f"{file}.pdf"), missing):  # type: ignore[misc]
            drawn.append(f"{file}.pdf")
    texts[DOCUMENT] = _document(texts, drawn)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name in _TEXTS:
        if name not in texts:  # nothing of an earlier kit under the name of what failed
            (folder / name).unlink(missing_ok=True)
    return Paper(folder, (*texts, *drawn), missing)


def _try(name: str, make: Callable[[], object], missing: dict[str, str]) -> bool:
    try:
        make()
    except OSError:
        raise
    except Exception as error:  # one table's fault must not cost the others
        missing[f"paper: {name}"] = reason(error)
        return False
    return True


def numbers(e: Evidence) -> str:
    r"""A macro for each number of the law: \isoflopalpha is its value, \isoflopalphaLow and ...High its interval.

    Names are those of the parameters, in their case and without what no macro may hold; exponents that follow from the
    law begin with exp: \isoflopexpa. What the data do not determine has none.
    """
    lines = [f"% {e.law_name}: {e.fit.law.formula}; intervals {LEVEL:.0%}"]
    made: dict[str, str] = {}
    known = [(f"isoflop{name}", name) for name in e.fit.law.parameters()]
    values = dict(zip((macro for macro, _ in known), e.fit.law.values().tolist(), strict=True))
    known += [(f"isoflopexp{name}", name) for name in e.fit.exponents()]
    values |= {f"isoflopexp{name}": value for name, value in e.fit.exponents().items()}
    for macro, name in known:
        if name in refused(e.findings) or (name in SPLIT and e.no_optimum(e.fit)):
            continue
        made[_macro(macro)] = number(values[macro])
        if name not in e.fit.problem.pinned and name != e.fit.problem.follower:
            low, high = e.draws.interval(name, LEVEL)
            made |= {_macro(macro) + "Low": number(low), _macro(macro) + "High": number(high)}
    lines += [rf"\newcommand{{\{macro}}}{{\ensuremath{{{text.strip('$')}}}}}" for macro, text in made.items()]
    return "\n".join([*lines, ""])


def _macro(name: str) -> str:
    return re.sub(r"[^A-Za-z]", lambda found: _DIGIT.get(found[0], ""), name)


_WORDS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
_DIGIT = {str(digit): word for digit, word in enumerate(_WORDS)}


def _draw(e: Evidence, names: tuple[str, ...], path: Path) -> None:
    """Figures side by side, over one column or over both."""
    width = DOUBLE if path.stem.endswith("double") else SINGLE
    with style(), mpl.rc_context(_SMALL):
        canvas = Canvas(figsize=(width, HEIGHT), layout="constrained")
        for name, ax in zip(names, canvas.subplots(1, len(names), squeeze=False)[0], strict=True):
            get_figure(name).draw(e, ax)
        save(canvas.axes[0], path)


def _document(texts: dict[str, str], drawn: list[str]) -> str:
    """A document of two columns that holds every table and figure, each as a paper would."""
    parts = [
        _FIRST_LINE,
        r"\documentclass[twocolumn]{article}",
        r"\usepackage[utf8]{inputenc}", r"\usepackage[T1]{fontenc}", r"\usepackage{booktabs,graphicx,amsmath}",
        *([r"\input{numbers}"] if "numbers.tex" in texts else []), r"\begin{document}",
    ]  # fmt: skip
    for name, (_, caption) in _TABLES.items():
        if f"{name}.tex" in texts:
            parts += [r"\begin{table*}\centering\small", rf"\input{{{name}}}", rf"\caption{{{escaped(caption)}}}",
                      r"\end{table*}"]  # fmt: skip
    for file in drawn:
        name, star = file.rpartition("-")[0], "*" if file.endswith("-double.pdf") else ""
        caption = FIGURES[name].caption if name in FIGURES else "Loss against model size, and the best size by compute."
        parts += [rf"\begin{{figure{star}}}\centering", rf"\includegraphics{{{file}}}",
                  rf"\caption{{{escaped(caption)}}}", rf"\end{{figure{star}}}"]  # fmt: skip
    if "laws.bib" in texts:
        parts += [r"\nocite{isoflop}", r"\bibliographystyle{plain}", r"\bibliography{laws}"]
    return "\n".join([*parts, r"\end{document}", ""])
