"""What people look at, and what is published: isoflop report, plot, share."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from isoflop.commands.options import (
    SHOW,
    BestOf,
    Compute,
    Json,
    Map,
    Params,
    Resamples,
    Seed,
    Sheet,
    Study,
    Table,
    Where,
    emit,
    known_law,
    load,
    new_file,
    new_folder,
    refuse_others,
    say,
)

app = typer.Typer()

AnyLaw = Annotated[str | None, typer.Option("--law", help="by name; left out: chosen by hold-out", callback=known_law)]


@app.command(rich_help_panel=SHOW)
def report(
    table: Table,
    out: Annotated[Path, typer.Option("--out", help="folder to write into", callback=new_folder)] = Path("report"),
    law: AnyLaw = None,
    params: Params = "matrices",
    compute: Compute = "exact",
    where: Where = None,
    mapping: Map = None,
    study: Study = None,
    sheet: Sheet = None,
    bootstrap: Resamples = 1000,
    seed: Seed = 0,
    best: BestOf = "",
    paper: Annotated[
        Path | None,
        typer.Option("--paper", help="folder for LaTeX tables, .bib and figures of column width", callback=new_folder),
    ] = None,
    as_json: Json = False,
) -> None:
    """All figures, their data and a report.

    report.md and report.html, every figure that the table supports, and the reason for each that it does not.
    """
    from isoflop.analysis.evidence import UnsupportedError
    from isoflop.analysis.report import write_report
    from isoflop.experiments.training.process import keep_freed_memory

    keep_freed_memory()
    written = write_report(
        load(table, mapping, where, study, sheet, best=best, laws=law, keep_held_out=True), out,
        law=law, params=params, compute=compute, n_draws=bootstrap, seed=seed,
        command=shlex.join(["isoflop", *sys.argv[1:]]), paper=paper,
    )  # fmt: skip
    emit(written.to_dict(), str(written), as_json)
    if written.refusal:
        raise UnsupportedError(f"{table}: no law and no figure: {written.refusal}")


@app.command(rich_help_panel=SHOW)
def plot(
    table: Table,
    out: Annotated[Path, typer.Option("-o", "--out", help="a .png, .svg or .pdf file", callback=new_file)],
    figure: Annotated[str, typer.Option("--figure", help="an unknown name lists them")] = "isoflop",
    law: AnyLaw = None,
    params: Params = "matrices",
    compute: Compute = "exact",
    where: Where = None,
    mapping: Map = None,
    study: Study = None,
    sheet: Sheet = None,
    runs: Annotated[str | None, typer.Option("--runs", help="curves of these runs alone, by commas")] = None,
    against: Annotated[str | None, typer.Option("--against", help="of curves: flops, tokens, hours")] = None,
) -> None:
    """One figure to one file.

    isoflop plot TABLE --figure isoflop -o x.pdf

    isoflop plot TABLE --runs a,b --against hours -o x.pdf

    isoflop plot TABLE --figure bands -o x.pdf
    """
    from isoflop.analysis.evidence import Evidence
    from isoflop.analysis.figures import get_figure
    from isoflop.analysis.report import draw_figure

    if runs is not None or against is not None:
        if figure not in ("isoflop", "curves", "bands") or (figure == "bands" and against is not None):
            raise ValueError(f"--runs is of --figure curves and bands, --against of curves: not of {figure}")
        figure = "bands" if figure == "bands" else "curves"
    names = tuple(filter(None, (name.strip() for name in (runs or "").split(","))))
    if runs is not None and not names:
        raise ValueError(f"--runs {runs}: names no run")
    evidence = Evidence(
        load(
            table, mapping, where, study, sheet, laws=law, keep_unfinished=figure == "bands",
            keep_held_out=True, inputs=get_figure(figure).reads,
        ),
        law=law, params=params, compute=compute, runs=names, against="flops" if against is None else against,
    )  # fmt: skip
    say(draw_figure(figure, evidence, out))


@app.command(rich_help_panel=SHOW)
def share(
    context: typer.Context,
    source: Annotated[Path | None, typer.Argument(help="a runs folder or a table; left out with --check")] = None,
    to: Annotated[Path | None, typer.Option("--to", help="a new folder for the bundle", callback=new_folder)] = None,
    licence: Annotated[str, typer.Option("--licence", help="of the numbers: cc-by-4.0, mit, ...")] = "unknown",
    check: Annotated[Path | None, typer.Option("--check", help="verify a bundle: its folder, or hf://...")] = None,
    study: Study = None,
    where: Where = None,
    mapping: Map = None,
    sheet: Sheet = None,
    as_json: Json = False,
) -> None:
    """Publish runs as a bundle, or verify one.

    isoflop share runs --study NAME --to DIR writes a table, configurations, a card and SHA-256 of each; every command
    that takes a TABLE reads DIR, also as hf://datasets/USER/NAME. --check names every difference and exits with 1.
    """
    if check is not None:
        refuse_others(context, "--check takes a bundle alone", "check", "as_json")
        from isoflop.experiments.finished.bundle_check import DifferentError, check_anywhere

        found = check_anywhere(check)
        emit(found.to_dict(), str(found), as_json)
        if found.differences:
            n = len(found.differences)
            raise DifferentError(f"{check} does not verify: {n} difference{'s' if n > 1 else ''}")
        return
    if source is None or to is None:
        raise ValueError("share takes SOURCE and --to DIR, or --check DIR")
    from isoflop.experiments.finished.bundle import write_bundle

    table = load(source, mapping, where, study, sheet, keep_held_out=True)
    written = write_bundle(table, to, licence=licence)
    emit(written.to_dict(), str(written), as_json)
