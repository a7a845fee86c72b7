"""The front door: one command line that wires the packages together. Imports are lazy, logic lives in the packages."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from commands import arms as arm_commands
from commands import data as data_commands
from commands import models as model_commands

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Run scaling-law experiments, fit and compare power laws, draw the figures.",
)

Table = Annotated[Path, typer.Argument(help="a runs folder, a parquet or a CSV")]
Json = Annotated[bool, typer.Option("--json", help="print JSON, numbers in full precision")]
HYDRA = {"allow_extra_args": True, "ignore_unknown_options": True}


def emit(value: dict, text: str, as_json: bool) -> None:
    typer.echo(json.dumps(value, indent=2) if as_json else text)


@app.command(context_settings=HYDRA)
def run(context: typer.Context) -> None:
    """Train what a study lacks: isoflop run experiment=quick [key=value ...]. Safe to interrupt and to repeat."""
    from experiments.sweep import launch

    try:
        launch(context.args)
    except KeyboardInterrupt:
        typer.echo("isoflop: interrupted; the same command goes on from here", err=True)
        raise SystemExit(130) from None


@app.command(context_settings=HYDRA)
def plan(
    context: typer.Context,
    as_json: Json = False,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="measure this machine first, about 10 s")] = False,
) -> None:
    """Cells, sizes, tokens, FLOPs and predicted minutes of a study: isoflop plan experiment=quick. Starts nothing."""
    from experiments import cost
    from experiments.compose import compose_all
    from experiments.plan import plan, plan_text

    specs = compose_all(context.args)
    if calibrate:
        from experiments.calibrate import measure

        cost.keep(measure(specs[0].data, specs[0].optim))
    value = plan(specs, cost.known_speed())
    emit(value, plan_text(value), as_json)


@app.command()
def status(runs: Annotated[Path, typer.Argument(help="a runs folder")] = Path("runs"), as_json: Json = False) -> None:
    """States and progress of the studies in a runs folder."""
    from experiments.plan import status, status_text
    from scaling.store import open_store

    value = status(open_store(runs))
    emit(value, status_text(value), as_json)


def pairs(values: list[str] | None, option: str) -> dict[str, str]:
    """NAME=VALUE options as a dictionary."""
    split = [v.partition("=") for v in values or []]
    for name, sign, value in split:
        if not (name and sign and value):
            raise ValueError(f"{option} {name}{sign}{value}: write it as {option} NAME=VALUE")
    return {name: value for name, _, value in split}


def number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{option} {text}: not a number") from None


Law = Annotated[str, typer.Option("--law", help="a law by name, or your own as module:Class")]
Params = Annotated[str, typer.Option("--params", help="what counts as parameters: matrices, total, no-embedding")]
Compute = Annotated[str, typer.Option("--compute", help="what counts as compute: exact, 6nd, full-attention")]
Where = Annotated[str | None, typer.Option("--where", help="keep the rows where this holds, e.g. 'loss < 5'")]
Map = Annotated[list[str] | None, typer.Option("--map", help="use your column: loss=val_loss (repeatable)")]
Study = Annotated[str | None, typer.Option("--study", help="of a runs folder: only the runs that this study asked for")]
Objective = Annotated[str, typer.Option("--objective", help="huber, huber-raw, least-squares, least-squares-raw")]
Delta = Annotated[str, typer.Option("--delta", help="Huber's threshold: auto, or a number such as 1e-3")]


def load(table: Path, mapping: list[str] | None, where: str | None, study: str | None = None):
    from scaling.tables import read_table

    return read_table(table, mapping=pairs(mapping, "--map"), where=where, study=study)


def objective_of(name: str, delta: str):
    from scaling.verdict import objective_named

    return objective_named(name, delta if delta == "auto" else number(delta, "--delta"))


@app.command()
def fit(
    table: Table,
    law: Law = "chinchilla",
    objective: Objective = "huber",
    delta: Delta = "auto",
    params: Params = "matrices",
    compute: Compute = "exact",
    where: Where = None,
    mapping: Map = None,
    study: Study = None,
    fix: Annotated[list[str] | None, typer.Option("--fix", help="hold a parameter: E=0 (repeatable)")] = None,
    bootstrap: Annotated[int, typer.Option(help="resamples of whole runs beside the jackknife; 0 for none")] = 1000,
    seed: Annotated[int, typer.Option(help="of starts and resamples")] = 0,
    level: Annotated[float, typer.Option(help="of every interval")] = 0.9,
    as_json: Json = False,
) -> None:
    """Fit one law: parameters with intervals, exponents, and what to object to."""
    from scaling.verdict import verdict

    found = verdict(
        load(table, mapping, where, study),
        law,
        objective=objective_of(objective, delta),
        params=params,
        compute=compute,
        fixed={k: number(v, f"--fix {k}") for k, v in pairs(fix, "--fix").items()},
        resamples=bootstrap,
        seed=seed,
        level=level,
    )
    emit(found.to_dict(), str(found), as_json)


@app.command()
def approaches(
    table: Table,
    params: Params = "matrices",
    compute: Compute = "exact",
    objective: Objective = "huber",
    delta: Delta = "auto",
    where: Where = None,
    mapping: Map = None,
    study: Study = None,
    as_json: Json = False,
) -> None:
    """Approaches 1, 2 and 3 side by side: how the best size and tokens grow with compute."""
    from scaling.approaches import approaches as compare_approaches
    from scaling.diagnose import diagnose_approaches

    found = compare_approaches(
        load(table, mapping, where, study),
        params=params,
        compute=compute,
        objective=objective_of(objective, delta),
    )
    findings = diagnose_approaches(found)
    text = "\n".join([str(found), *map(str, findings)])
    emit(found.to_dict() | {"findings": [f.to_dict() for f in findings]}, text, as_json)


AnyLaw = Annotated[str | None, typer.Option("--law", help="by name; left out: chosen by hold-out")]


@app.command()
def report(
    table: Table,
    out: Annotated[Path, typer.Option("--out", help="folder to write into")] = Path("report"),
    law: AnyLaw = None,
    params: Params = "matrices",
    compute: Compute = "exact",
    where: Where = None,
    mapping: Map = None,
    study: Study = None,
    bootstrap: Annotated[int, typer.Option(help="resamples of whole runs")] = 1000,
    seed: Annotated[int, typer.Option(help="of the resamples")] = 0,
    as_json: Json = False,
) -> None:
    """Every figure that the table supports, the data behind each, and report.md."""
    from analysis.report import write_report

    written = write_report(
        load(table, mapping, where, study), out,
        law=law, params=params, compute=compute, n_draws=bootstrap, seed=seed,
        command=" ".join(["isoflop", *sys.argv[1:]]),
    )  # fmt: skip
    emit(written.to_dict(), str(written), as_json)


@app.command()
def plot(
    table: Table,
    out: Annotated[Path, typer.Option("-o", "--out", help="a .png, .svg or .pdf file")],
    figure: Annotated[str, typer.Option("--figure", help="an unknown name lists them")] = "isoflop",
    law: AnyLaw = None,
    params: Params = "matrices",
    compute: Compute = "exact",
    where: Where = None,
    mapping: Map = None,
    study: Study = None,
) -> None:
    """One figure to one file: isoflop plot TABLE --figure isoflop -o x.pdf."""
    from analysis.evidence import Evidence
    from analysis.report import draw_figure

    evidence = Evidence(load(table, mapping, where, study), law=law, params=params, compute=compute)
    typer.echo(draw_figure(figure, evidence, out))


@app.command(context_settings=HYDRA)
def tune(
    context: typer.Context,
    axis: Annotated[str, typer.Option("--axis", help="learning-rate or batch")] = "learning-rate",
    limit: Annotated[float, typer.Option("--limit", help="drift that passes, decades over all widths")] = 0.15,
    table: Annotated[Path | None, typer.Option("--table", help="analyse these runs instead of training")] = None,
    as_json: Json = False,
) -> None:
    """Best learning rate (or batch) of each width, and whether one serves all: isoflop tune experiment=lr_transfer."""
    from experiments.tune_report import train_and_read, tune, tune_text
    from scaling.tables import read_table

    value = tune(read_table(table) if table else train_and_read(context.args), axis, limit)
    emit(value, tune_text(value), as_json)


Laws = Annotated[str, typer.Option("--laws", help="by name, separated by commas; left out: those that apply")]
Level = Annotated[float, typer.Option(help="of every interval")]
Number = float | None


@app.command()
def compare(
    table: Table,
    laws: Laws = "",
    above: Annotated[Number, typer.Option("--holdout-above", help="one hold-out above this, else rolling")] = None,
    by: Annotated[str, typer.Option("--holdout-by", help="flops, n_params or tokens")] = "flops",
    params: Params = "matrices",
    compute: Compute = "exact",
    where: Where = None,
    mapping: Map = None,
    study: Study = None,
    level: Level = 0.9,
    as_json: Json = False,
) -> None:
    """Scoreboard of laws by what they predict of larger runs; nested tests; what moves the answer."""
    from scaling.nested import comparison

    data = load(table, mapping, where, study)
    found = comparison(data, laws, by=by, above=above, params=params, compute=compute, level=level)
    emit(found.to_dict(), str(found), as_json)


@app.command()
def multiplier(
    table: Table,
    by: Annotated[str, typer.Option("--by", help="the column that names the arms")] = "arm",
    baseline: Annotated[str | None, typer.Option("--baseline", help="an arm; left out: the first")] = None,
    target: Annotated[Number, typer.Option("--flops", help="compare at this compute too")] = None,
    params: Params = "matrices",
    compute: Compute = "exact",
    where: Where = None,
    mapping: Map = None,
    study: Study = None,
    level: Annotated[float, typer.Option(help="of every interval")] = 0.9,
    as_json: Json = False,
) -> None:
    """Compute multiplier between arms, where they cross, and how sure that one beats the other."""
    from scaling.multiplier import multiplier as compare_arms

    data = load(table, mapping, where, study)
    found = compare_arms(data, by=by, baseline=baseline, target=target, params=params, compute=compute, level=level)
    emit(found.to_dict(), str(found), as_json)


@app.command()
def predict(
    table: Table,
    flops: Annotated[Number, typer.Option("--flops", help="the best run of this compute")] = None,
    n_params: Annotated[Number, typer.Option("--n-params", help="with --tokens: one run")] = None,
    tokens: Annotated[Number, typer.Option("--tokens", help="with --n-params")] = None,
    laws: Laws = "",
    register: Annotated[Path | None, typer.Option("--register", help="write it to this file before the run")] = None,
    score: Annotated[Path | None, typer.Option("--score", help="a registered file, against the runs of TABLE")] = None,
    inference: Annotated[Number, typer.Option("--inference-tokens", help="tokens to be served")] = None,
    cap: Annotated[Number, typer.Option("--token-cap", help="no more training tokens than this")] = None,
    unique: Annotated[Number, typer.Option("--unique-tokens", help="so many, repeats allowed")] = None,
    params: Params = "matrices",
    compute: Compute = "exact",
    where: Where = None,
    mapping: Map = None,
    study: Study = None,
    as_json: Json = False,
) -> None:
    """What a run not yet made will reach, with intervals; registered before it and scored after it."""
    from scaling import predict as record
    from scaling.answer import answer

    data = load(table, mapping, where, study)
    if score:
        found = record.score(score, data)
    else:
        serving = (inference, cap, unique)
        found = answer(data, (flops, n_params, tokens), laws, params=params, compute=compute, serving=serving)
        if register:
            record.register(found.outlook, register, table=table)
    emit(found.to_dict(), str(found), as_json)


@app.command()
def suggest(
    table: Annotated[Path | None, typer.Argument(help="runs so far; left out with --from-law")] = None,
    budget: Annotated[float, typer.Option("--budget", help="FLOPs to spend")] = ...,
    target: Annotated[float, typer.Option("--target", help="FLOPs of the run to decide on")] = ...,
    goal: Annotated[str, typer.Option("--goal", help="n_opt, loss or multiplier")] = "n_opt",
    out: Annotated[Path | None, typer.Option("--out", help="study file, e.g. conf/experiment/next.yaml")] = None,
    from_law: Annotated[str | None, typer.Option("--from-law", help="a published law, when there are no runs")] = None,
    as_json: Json = False,
) -> None:
    """The runs that most narrow a question, what they will do to its interval, and the study file for them."""
    from experiments.next_study import next_runs

    found = next_runs(table, budget=budget, target=target, goal=goal, out=out, from_law=from_law)
    emit(found.to_dict(), str(found), as_json)


app.add_typer(arm_commands.app)
app.add_typer(data_commands.app)
app.add_typer(model_commands.app)


def main() -> None:
    """Exit 0 ok, 1 the question could not be answered, 2 bad usage. ISOFLOP_DEBUG=1 shows tracebacks."""
    try:
        code = app(standalone_mode=True)
    except (ValueError, OSError) as error:
        if os.environ.get("ISOFLOP_DEBUG"):
            raise
        typer.echo(f"isoflop: {error}", err=True)
        code = getattr(error, "exit_code", 2)
    sys.exit(code)


if __name__ == "__main__":
    main()
