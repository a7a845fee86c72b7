"""One table, its laws: isoflop fit, approaches, accuracy."""

from typing import Annotated

import typer

from isoflop.commands.options import (
    Compute,
    Delta,
    Json,
    Law,
    Map,
    Objective,
    Params,
    Study,
    Table,
    Where,
    emit,
    load,
    number,
    objective_of,
    pairs,
)

app = typer.Typer()


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
    from isoflop.scaling.findings.verdict import verdict

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
    from isoflop.scaling.approaches.approaches import approaches as compare_approaches
    from isoflop.scaling.findings.diagnose import diagnose_approaches

    found = compare_approaches(
        load(table, mapping, where, study),
        params=params,
        compute=compute,
        objective=objective_of(objective, delta),
    )
    findings = diagnose_approaches(found)
    text = "\n".join([str(found), *map(str, findings)])
    emit(found.to_dict() | {"findings": [f.to_dict() for f in findings]}, text, as_json)


@app.command()
def accuracy(
    table: Table,
    task: Annotated[str, typer.Option("--task", help="a task that isoflop evaluate scored, of a runs folder")] = "",
    metric: Annotated[str | None, typer.Option("--metric", help="of the task; left out: its first")] = None,
    column: Annotated[str, typer.Option("--column", help="without --task: a score between 0 and 1")] = "accuracy",
    chance: Annotated[
        float | None, typer.Option("--chance", help="what guessing scores; left out: known or fitted")
    ] = None,
    free_top: Annotated[bool, typer.Option("--free-top", help="fit the best score there is instead of 1")] = False,
    law: Law = "chinchilla",
    flops: Annotated[
        list[float] | None, typer.Option("--flops", help="predict the best run of this (repeatable)")
    ] = None,
    n_params: Annotated[float | None, typer.Option("--n-params", help="with --tokens: predict this run")] = None,
    tokens: Annotated[float | None, typer.Option("--tokens", help="with --n-params")] = None,
    params: Params = "matrices",
    compute: Compute = "exact",
    where: Where = None,
    mapping: Map = None,
    study: Study = None,
    level: Annotated[float, typer.Option(help="of every interval")] = 0.9,
    as_json: Json = False,
) -> None:
    """A score by the two-stage law: N and D give the loss, the loss gives the score, with its chance floor."""
    from isoflop.scaling.prediction.two_stage import two_stage
    from isoflop.scaling.table.task_scores import with_score

    if (n_params is None) != (tokens is None):
        raise ValueError("--n-params and --tokens go together: one run has both")
    data = load(table, mapping, where, study)
    data = with_score(data, table, task, metric) if task else data
    found = two_stage(
        data, law=law, column="accuracy" if task else column, chance=chance, free_top=free_top, params=params,
        compute=compute,
    )  # fmt: skip
    said = [found.best(c, level) for c in flops or []]
    said += [found.at(n_params, tokens, level)] if n_params is not None and tokens is not None else []
    emit(found.to_dict(said, level), found.text(said, level), as_json)
