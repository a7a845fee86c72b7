"""Launch and watch: isoflop run, plan, status, retry, clean, tune, compact."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from isoflop.commands.options import (
    HYDRA,
    KEYS,
    KEYS_LISTED,
    RUN,
    Json,
    Level,
    Map,
    Params,
    Sheet,
    Study,
    Where,
    emit,
    load,
    new_file,
    not_negative,
    numbers,
    parquet_file,
    positive,
    refuse,
    refuse_others,
    say,
)
from isoflop.printable import printable

app = typer.Typer()
WATCH_SECONDS = 2.0
BOWLS = ("axis", "along", "limit")  # of tune: what is asked of bowls
UNSETTLED = ("planned", "running")


@app.command(context_settings=HYDRA, options_metavar=KEYS, epilog=KEYS_LISTED, rich_help_panel=RUN)
def run(context: typer.Context) -> None:
    """Train the missing runs of a study.

    isoflop run experiment=quick [key=value ...]. Safe to interrupt and to repeat.
    """
    from isoflop.experiments.app import run_study

    try:
        code = run_study(context.args)
    except KeyboardInterrupt:
        typer.echo("isoflop: interrupted; the same command goes on from here", err=True)
        raise SystemExit(130) from None
    raise SystemExit(code)


@app.command(context_settings=HYDRA, options_metavar=KEYS, epilog=KEYS_LISTED, rich_help_panel=RUN)
def plan(
    context: typer.Context,
    as_json: Json = False,
    calibrate: Annotated[
        bool | None,
        typer.Option("--calibrate/--no-calibrate", help="time a study's shapes here: always, never; else when new"),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="which of the runs fit into this time", callback=positive)
    ] = None,
    dollars: Annotated[
        float | None, typer.Option("--dollars", help="which fit at where.price_per_hour=P", callback=positive)
    ] = None,
    card: Annotated[
        str | None,
        typer.Option("--for", help="a GPU that is not here, by rates of one; an unknown name lists them"),
    ] = None,
) -> None:
    """Cells, FLOPs, minutes and price of a study.

    isoflop plan experiment=quick. Starts nothing; shapes that were never timed on this machine are, for about 10 s.
    where.price_per_hour and where.watts, of a device, give dollars and joules; above where.max_dollars it ends with 2.
    """
    from isoflop.experiments.compose.compose import compose_all
    from isoflop.experiments.sweep.launch import make_launch
    from isoflop.experiments.sweep.plan import plan, plan_text, speed_for

    specs = compose_all(context.args)
    launch = make_launch(specs, workers=None, speed=speed_for(specs, calibrate, card))
    value = plan(launch, minutes=minutes, dollars=dollars)
    emit(value, plan_text(value), as_json)


@app.command(rich_help_panel=RUN)
def status(
    context: typer.Context,
    runs: Annotated[Path, typer.Argument(help="a runs folder")] = Path("runs"),
    as_json: Json = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="look again every 2 s while a cell is to be trained; of a table: its curves, once"
        ),
    ] = False,
    every: Annotated[bool, typer.Option("--runs", help="the id of every run that is done or stopped")] = False,
    where: Where = None,
    mapping: Map = None,
) -> None:
    """Show the progress of studies.

    With --watch, curves that left their band: those of cells in training with the bands that finished runs predict, and
    with status --watch TABLE those of a table or of imported logs with the bands of their siblings.
    """
    if watch and not (runs / "STORE.json").exists() and runs.exists():
        refuse(context, "of a table --watch looks at curves", "every")
        from isoflop.scaling.prediction.curves.watch import watch_curves

        seen = watch_curves(load(runs, mapping, where, keep_unfinished=True, keep_held_out=True))
        emit(seen.to_dict(), str(seen), as_json)
        return
    refuse(context, "a runs folder is shown as a whole; status --watch TABLE reads a table", "where", "mapping")
    if as_json:
        refuse(context, "--json has every run", "every")
    from isoflop.experiments.store.store import open_store
    from isoflop.experiments.sweep.plan import status, status_text
    from isoflop.experiments.sweep.watching import Watching

    store = open_store(runs)
    curves = Watching(store) if watch else None

    def show() -> bool:
        """Whether a cell is still to be trained."""
        value = status(store)
        text = status_text(value, every=every)
        if curves is not None:
            seen, drawn = curves.shown()
            value |= seen
            text += f"\n\n{drawn}" if value["counts"]["running"] else ""
        emit(value, text, as_json)
        return any(value["counts"][state] for state in UNSETTLED)

    try:
        while show() and watch:
            time.sleep(WATCH_SECONDS)
            say("\033[H\033[J" if sys.stdout.isatty() else "", nl=False)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


@app.command(rich_help_panel=RUN)
def retry(
    runs: Annotated[Path, typer.Argument(help="a runs folder")] = Path("runs"),
    state: Annotated[list[str] | None, typer.Option("--state", help="failed, lost, diverged (repeatable)")] = None,
    run_id: Annotated[str | None, typer.Option("--run", help="only this run, by its id or the beginning of it")] = None,
    only_mark: Annotated[bool, typer.Option("--mark", help="mark them as planned and start nothing")] = False,
) -> None:
    """Train failed or lost runs again.

    With --state diverged also those; each with the arguments that launched it.
    """
    from isoflop.experiments.app import run_study
    from isoflop.experiments.followup.rounds import check_can_begin
    from isoflop.experiments.store.store import open_store
    from isoflop.experiments.sweep import repair

    store = open_store(runs)
    cells = repair.choose(store, state or ["failed", "lost"], run_id)
    launches = [] if only_mark else repair.relaunches(store, cells)
    for launch in launches:  # nothing is marked unless they can all begin
        with repair.entered(launch, store):
            check_can_begin(launch.overrides(store))
    repair.mark(store, cells)
    typer.echo(f"{len(cells)} cells to train again in {store.root}", err=True)
    codes = []
    for launch in launches:
        with repair.entered(launch, store):
            codes.append(run_study(launch.overrides(store)))
    raise SystemExit(max(codes, default=0))


@app.command(rich_help_panel=RUN)
def clean(
    runs: Annotated[Path, typer.Argument(help="a runs folder")] = Path("runs"),
    yes: Annotated[bool, typer.Option("--yes", help="remove; without it, only say what would go")] = False,
    trunks: Annotated[
        bool, typer.Option("--trunks", help="also where finished trunks end: a longer budget then starts anew")
    ] = False,
) -> None:
    """Remove files that no run needs.

    Checkpoints, claims of dead processes and half-written files; never a result.
    """
    from isoflop.experiments.store.store import open_store
    from isoflop.experiments.sweep import repair

    store = open_store(runs)
    litter = repair.find_litter(store, trunks=trunks)
    summary = repair.litter_text(litter)
    if yes:
        freed, failed = repair.remove(store, litter)
        say(f"removed {summary}: {freed:,} bytes")
        for line in failed:
            typer.echo(printable(line), err=True)
        raise SystemExit(1 if failed else 0)
    say(f"to remove: {summary}: {litter.n_bytes:,} bytes; --yes removes them")


@app.command(context_settings=HYDRA, options_metavar=f"{KEYS} | TABLE", epilog=KEYS_LISTED, rich_help_panel=RUN)
def tune(
    context: typer.Context,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", help="with a TABLE: the run to tune, n_params=1e9 or tokens=1e11 (repeatable)"),
    ] = None,
    tokens: Annotated[
        float | None, typer.Option("--tokens", help="with a TABLE: tokens of that run", callback=positive)
    ] = None,
    batch: Annotated[
        float | None, typer.Option("--batch", help="its tokens a step; left out: the best", callback=positive)
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--setting", help="what would peak_learning_rate=.01 lose? (repeatable: one setting)"),
    ] = None,
    loss: Annotated[str | None, typer.Option("--loss", help="the column of the loss, as --map loss=COLUMN")] = None,
    by: Annotated[str, typer.Option("--by", help="the column that names the arms")] = "arm",
    arm: Annotated[str | None, typer.Option("--arm", help="only this arm")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--emit", help="write the best setting: conf/optim/fitted.yaml", callback=new_file),
    ] = None,
    axis: Annotated[
        str, typer.Option("--axis", help="of bowls by width: learning-rate, batch or weight-decay")
    ] = "learning-rate",
    along: Annotated[str, typer.Option("--along", help="whether it stays along width, depth or horizon")] = "width",
    limit: Annotated[
        float, typer.Option("--limit", help="drift that passes, decades over all widths", callback=not_negative)
    ] = 0.15,
    table: Annotated[Path | None, typer.Option("--table", help="bowls of these runs instead of training")] = None,
    params: Params = "matrices",
    where: Where = None,
    mapping: Map = None,
    study: Study = None,
    sheet: Sheet = None,
    level: Level = 0.9,
    as_json: Json = False,
) -> None:
    """Best learning rate, batch, weight decay.

    isoflop tune TABLE --at n_params=1e9 --tokens 1e11. By a law of the runs of a table over rates: the best setting at
    that scale, its intervals, and what another setting loses.
    isoflop tune experiment=lr_transfer. Trains a study, then the best rate or batch by width, and whether one serves
    all.
    """
    named = [word for word in context.args if "=" not in word and not word.startswith("-")]
    trains = not {"--config-dir", "-cd"} & {*context.args}
    of_table = Path(named[0]) if named and trains else None
    if of_table is not None:
        refuse(context, f"the runs are those of {of_table}", "table")
    source = of_table or (table if any((at, tokens, batch, setting, loss, arm, out, by != "arm")) else None)
    if source is None:
        read = () if table is None else ("table", "where", "mapping", "study", "sheet")
        why = "without a TABLE of runs (isoflop tune TABLE --at n_params=1e9) bowls by width are made"
        refuse_others(context, why, *BOWLS, *read, "as_json")
        if table is not None:
            _refuse_words(context.args, table)
        from isoflop.experiments.followup.tune_report import train_and_read, tune, tune_text

        data = load(table, mapping, where, study, sheet) if table else train_and_read(context.args)
        value = tune(data, axis, limit, along)
        emit(value, tune_text(value), as_json)
        return
    _refuse_words([word for word in context.args if word != str(source)], source)
    refuse(context, "bowls by width are of --table alone, without --at and its like", *BOWLS)
    from isoflop.scaling.tuning.sweep import INPUTS
    from isoflop.scaling.tuning.tune import tune as tune_table

    taken = [*(mapping or []), *([f"loss={loss}"] if loss is not None else [])]
    try:
        data = load(source, taken, where, study, sheet, labels=(by,), inputs=INPUTS)
    except ValueError as error:
        if loss is None or "--map loss=" not in str(error):
            raise
        raise ValueError(str(error).replace("--map loss=", "--loss ")) from error
    found = tune_table(
        data, numbers(at, "--at"), tokens=tokens, batch=batch, setting=numbers(setting, "--setting"), by=by, arm=arm,
        params=params, level=level,
    )  # fmt: skip
    value, text = found.to_dict(), str(found)
    if out is not None:
        from isoflop.experiments.followup.optim_file import emit_optim

        written = emit_optim(found, data, out, by=by)
        value, text = value | {"emitted": written.to_dict()}, f"{text}\n{written}"
    emit(value, text, as_json)


def _refuse_words(words: list[str], table: Path) -> None:
    """Raise ValueError for an argument of a study, beside a table."""
    if words:
        raise ValueError(f"{words[0]}: with a TABLE ({table}) nothing is trained, and no key can be set")


@app.command(rich_help_panel=RUN)
def compact(
    runs: Annotated[Path, typer.Argument(help="a runs folder")],
    out: Annotated[Path, typer.Option("-o", "--out", help="a .parquet file", callback=parquet_file)],
    study: Study = None,
    sheet: Sheet = None,
) -> None:
    """All runs of a folder as one file.

    Or of one study in it; every command reads the file.
    """
    from isoflop.scaling.table.read import read_table
    from isoflop.scaling.table.runs import is_runs, write_table

    table = read_table(runs, study=study, sheet=sheet)
    if not is_runs(table):
        raise ValueError(
            f"{runs}: no runs of isoflop, which is what compact merges; isoflop import writes other tables"
        )
    write_table(table, out)
    say(f"{table['run_id'].nunique()} runs in {out}")
