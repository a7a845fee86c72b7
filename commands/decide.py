"""What a fit is for: isoflop compare, multiplier, predict, suggest."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from isoflop.commands.options import Compute, Json, Map, Params, Study, Table, Where, emit, load

app = typer.Typer()

Laws = Annotated[str, typer.Option("--laws", help="by name, separated by commas; left out: those that apply")]
Level = Annotated[float, typer.Option(help="of every interval")]
Number = float | None


class PartialAnswerError(ValueError):
    """Part of what was asked for has no answer; the rest has been printed."""

    exit_code = 1


def answered(failed: dict[str, str]) -> None:
    """Raise PartialAnswerError for what was asked for by name and failed."""
    if failed:
        raise PartialAnswerError("no answer for " + "; ".join(f"{name}: {why}" for name, why in failed.items()))


def show_step(name: str) -> None:
    """Say on a terminal what is being fitted, in one line that the next step overwrites; "" clears it."""
    if sys.stderr.isatty():
        typer.echo(f"\r\033[Kfitting {name} ..." if name else "\r\033[K", nl=False, err=True)


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
    from isoflop.scaling.selection.comparison import comparison

    data = load(table, mapping, where, study)
    found = comparison(data, laws, by=by, above=above, params=params, compute=compute, level=level, on_step=show_step)
    show_step("")
    emit(found.to_dict(), str(found), as_json)
    answered(found.board.refused if laws else {})


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
    from isoflop.scaling.arms.multiplier import multiplier as compare_arms

    data = load(table, mapping, where, study)
    found = compare_arms(data, by=by, baseline=baseline, target=target, params=params, compute=compute, level=level)
    emit(found.to_dict(), str(found), as_json)
    answered(found.failed)


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
    from isoflop.scaling.prediction import register as record
    from isoflop.scaling.prediction.predict import predict as predict_loss

    data = load(table, mapping, where, study)
    if score:
        scored = record.score(score, data)
        emit(scored.to_dict(), str(scored), as_json)
        return
    found = predict_loss(
        data, flops=flops, n_params=n_params, tokens=tokens, laws=laws, inference_tokens=inference, token_cap=cap,
        unique_tokens=unique, params=params, compute=compute,
    )  # fmt: skip
    if register:
        record.register(found.loss, register, table=table)
    emit(found.to_dict(), str(found), as_json)
    answered(found.failed)


@app.command()
def suggest(
    table: Annotated[Path | None, typer.Argument(help="runs so far; left out with --from-law")] = None,
    budget: Annotated[float, typer.Option("--budget", help="FLOPs to spend")] = ...,
    target: Annotated[float, typer.Option("--target", help="FLOPs of the run to decide on")] = ...,
    goal: Annotated[str, typer.Option("--goal", help="n_opt, loss or multiplier")] = "n_opt",
    out: Annotated[Path | None, typer.Option("--out", help="study file, e.g. conf/experiment/next.yaml")] = None,
    from_law: Annotated[str | None, typer.Option("--from-law", help="a published law, when there are no runs")] = None,
    where: Where = None,
    mapping: Map = None,
    study: Study = None,
    as_json: Json = False,
) -> None:
    """The runs that most narrow a question, what they will do to its interval, and the study file for them."""
    from isoflop.experiments.followup.next_study import next_runs

    data = load(table, mapping, where, study) if table else None
    found = next_runs(data, budget=budget, target=target, goal=goal, out=out, from_law=from_law)
    emit(found.to_dict(), str(found), as_json)
