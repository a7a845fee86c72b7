"""The report: the only writer of files here. Every figure as png, svg and the csv behind it, report.md, report.html.

What the table cannot support is listed with its reason; nothing that fails stops the rest.
"""

import platform
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from isoflop.analysis import sections as summary
from isoflop.analysis.evidence import Evidence, UnsupportedError, reason
from isoflop.analysis.figure import FORMATS, Figure, save
from isoflop.analysis.figures import FIGURES, get_figure
from isoflop.analysis.own_files import claimed
from isoflop.analysis.page.page import NAME, absent, javascript, page
from isoflop.analysis.style import style
from isoflop.answer import Answer
from isoflop.arguments import RESAMPLES, SEED, check
from isoflop.package_version import package_version
from isoflop.printable import code_span, plain_markdown
from isoflop.scaling.fitting.search.kept_searches import keep_searches
from isoflop.scaling.laws import Law, law_name
from isoflop.scaling.prediction.registered.register import data_hash

TEXT, CELLS = "report.md", "cells.csv"
_MADE_BY = re.compile(r"\bisoflop \d[\w.+]*, numpy \d")  # in the provenance of every report


class ReportError(ValueError):
    """The report cannot be written to its folder."""

    exit_code = 1


@dataclass(frozen=True, repr=False, eq=False)
class Report(Answer):
    """What was written under `folder`, and why the rest was not."""

    folder: Path
    figures: tuple[str, ...]
    missing: dict[str, str]
    evidence: Evidence
    paper: tuple[str, ...] = ()

    @property
    def refusal(self) -> str:
        """Why the table has neither a law nor a figure; "" where it has either."""
        if self.figures:
            return ""
        try:
            _ = self.evidence.fit
        except UnsupportedError as error:
            return str(error)
        return ""

    def to_dict(self) -> dict:
        """JSON-ready."""
        try:
            findings = [f.to_dict() for f in self.evidence.findings]
        except UnsupportedError:
            findings = []
        return {
            "folder": str(self.folder), "figures": list(self.figures), "missing": self.missing, "findings": findings,
            "paper": list(self.paper),
            "notes": list(self.evidence.notes), "loss_unit": self.evidence.loss_unit,
        }  # fmt: skip

    def __str__(self) -> str:
        law = summary.section(self.evidence, "", summary.verdict).split("\n\n")
        page = "" if "report.html" in self.missing else ", page in report.html"
        lines = [law[0].replace("**", ""), f"{len(self.figures)} figures in {self.folder}, text in report.md{page}"]
        lines += [f"for a paper: {', '.join(self.paper)}"] if self.paper else []
        lines += [f"not drawn: {name}: {why}" for name, why in self.missing.items()]
        assumed = [n for n in self.evidence.notes if n not in self.evidence.table.attrs.get("notes", ())]
        return "\n".join([*lines, *(f"note: {n}" for n in assumed)])


def write_report(
    table: pd.DataFrame,
    out: str | Path,
    *,
    law: type[Law] | str | None = None,
    params: str = "matrices",
    compute: str = "exact",
    n_draws: int = 1000,
    seed: int = 0,
    command: str = "",
    paper: str | Path | None = None,
) -> Report:
    """Write every figure that `table` supports, and report.md, into the folder `out`.

    `law` None: the one that the scoreboard prefers. `paper` is a folder for what a paper takes: tables for LaTeX, a
    bibliography, figures at the width of a column. Raises ReportError if a folder cannot be written, and
    ForeignFileError where a file would be replaced that no report wrote; nothing else stops it.

    >>> import isoflop
    >>> written = isoflop.report(isoflop.example("quick"), "report", law="chinchilla", n_draws=50)
    >>> "isoflop" in written.figures
    True
    """
    check(RESAMPLES, n_draws=n_draws)
    check(SEED, seed=seed)
    folder, kit = Path(out), None if paper is None else Path(paper)
    named = None if law is None else law_name(law)
    evidence = Evidence(table, law=named, params=params, compute=compute, n_draws=n_draws, seed=seed)
    try:
        with _claimed(evidence, folder, kit), keep_searches():
            written = _write_all(evidence, folder, command)
            if kit is None:
                return written
            from isoflop.analysis.paper.kit import write_paper

            made = write_paper(evidence, kit)
            return replace(written, paper=made.files, missing=written.missing | made.missing)
    except OSError as error:
        raise ReportError(f"{error.filename or folder}: {error.strerror or error}") from error


@contextmanager
def _claimed(e: Evidence, folder: Path, kit: Path | None) -> Iterator[None]:
    """The folders of a report and of its paper, made, where they hold no file of somebody else under these names."""
    source = str(e.table.attrs.get("source", ""))
    names = [TEXT, NAME, CELLS, *(f"{name}.{form}" for name in FIGURES for form in ("png", "svg", "csv"))]
    _make(folder)
    earlier = any(_is_ours(folder / name) for name in (TEXT, NAME))
    with ExitStack() as both:
        both.enter_context(claimed(folder, names, "a report", read=source, earlier=earlier))
        if kit is not None:
            from isoflop.analysis.paper.kit import claimed_kit

            _make(kit)
            both.enter_context(claimed_kit(kit, read=source))
        yield


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(f"{folder}: cannot be made into the report's folder ({error.strerror})") from error


def _is_ours(text: Path) -> bool:
    """Whether a file is a report by what it says of itself."""
    try:
        return bool(_MADE_BY.search(text.read_text(encoding="utf-8", errors="replace")))
    except OSError:
        return False


def _write_all(evidence: Evidence, folder: Path, command: str) -> Report:
    evidence.begin()
    if not absent():
        javascript()  # made, if it must be, on another core while the figures are drawn
    written, missing = [], {}
    for figure in FIGURES.values():
        try:
            _write_figure(figure, evidence, folder)
            written.append(figure.name)
        except OSError:  # the folder's fault: no other figure can be written either
            raise
        except Exception as error:  # one figure's fault must not cost the others
            missing[figure.name] = reason(error)
            _remove(folder, figure.name)
    made_by = provenance(evidence, command)
    _write_page(evidence, folder, written, missing, made_by)
    report = Report(folder, tuple(written), missing, evidence)
    (folder / TEXT).write_text(_markdown(report, made_by), encoding="utf-8", errors="backslashreplace")
    _write_cells(evidence, folder)
    return report


def draw_figure(name: str, evidence: Evidence, out: str | Path) -> Path:
    """One figure to one file, its format by the file's ending. Raises ValueError naming the formats."""
    path = Path(out)
    if path.suffix[1:] not in FORMATS:
        raise ValueError(f"{path}: a figure is written as {', '.join(FORMATS)}; end the name in one of these")
    figure = get_figure(name)
    with style():
        try:
            ax = figure.draw(evidence)
        except (KeyError, ValueError) as error:
            source = str(evidence.table.attrs.get("source", "table"))
            why = reason(error).removeprefix(f"{source}: ")
            raise UnsupportedError(f"{source}: no figure {name}: {why}") from error
        if evidence.law is not None and not evidence.law_was_read:
            raise ValueError(f"--law {evidence.law}: figure {name} shows no law: leave it out")
        try:
            save(ax, path)
        except OSError as error:
            raise ReportError(f"{error.filename or path}: {error.strerror or error}") from error
    return path


def _write_figure(figure: Figure, evidence: Evidence, folder: Path) -> None:
    data = figure.data(evidence)
    with style():
        ax = figure.draw(evidence)
        for form in ("png", "svg"):
            save(ax, folder / f"{figure.name}.{form}")
    data.to_csv(folder / f"{figure.name}.csv", index=False)


def _write_page(evidence: Evidence, folder: Path, written: list[str], missing: dict[str, str], made_by: str) -> None:
    """The interactive page, or the reason in `missing`."""
    try:
        drawn = [FIGURES[name] for name in written]
        text = page(evidence, missing=missing, provenance=made_by, figures=drawn)
    except Exception as error:  # the figures and report.md stand without it
        missing[NAME] = reason(error)
        (folder / NAME).unlink(missing_ok=True)
        return
    (folder / NAME).write_text(text, encoding="utf-8")


def _remove(folder: Path, name: str) -> None:
    """Nothing half-written, and nothing of an earlier report, under the name of a figure that failed."""
    for form in ("png", "svg", "csv"):
        (folder / f"{name}.{form}").unlink(missing_ok=True)


def _write_cells(evidence: Evidence, folder: Path) -> None:
    try:
        summary.cells_table(evidence).to_csv(folder / CELLS, index=False)
    except ValueError:
        (folder / CELLS).unlink(missing_ok=True)


def _markdown(report: Report, made_by: str) -> str:
    e = report.evidence
    parts = [f"# {plain_markdown(summary.title(e))}", plain_markdown(summary.sections(e))]
    drawn = [f"### {name}\n\n{FIGURES[name].caption} [data]({name}.csv) [svg]({name}.svg)\n\n![{name}]({name}.png)"
             for name in report.figures]  # fmt: skip
    parts.append("## Figures\n\n" + ("\n\n".join(drawn) or "None."))
    if report.missing:
        parts.append(
            "## Not drawn\n\n" + "\n".join(f"- {name}: {plain_markdown(why)}" for name, why in report.missing.items())
        )
    parts += [plain_markdown(summary.section(e, *one)) for one in (("Cost", summary.cost), ("Cells", summary.cells))]
    parts.append("## Provenance\n\n" + made_by)
    return "\n\n".join(parts) + "\n"


def provenance(e: Evidence, command: str) -> str:
    """Versions, the hash of the table, the command, as a list in Markdown."""
    try:
        digest = f"sha256 {data_hash(e.points)} of the {len(e.points)} fitted (as isoflop predict --register writes it)"
    except ValueError:
        digest = "none can be fitted"
    versions = ", ".join(
        f"{name} {package_version(name)}" for name in ("isoflop", "numpy", "scipy", "pandas", "matplotlib")
    )
    notes = [f"- {n}" for n in e.notes]
    lines = [
        f"- table: {len(e.table)} rows; {digest}", f"- {versions}, Python {platform.python_version()}",
        f"- bootstrap: {e.n_draws} draws, seed {e.seed}", *notes,
    ]  # fmt: skip
    made_by = [f"- command: {code_span(command)}"] if command else []
    return "\n".join([*map(plain_markdown, lines), *made_by])
