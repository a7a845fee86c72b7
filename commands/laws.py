"""One table, its laws: isoflop fit, approaches."""

from typing import Annotated

import typer

from commands.options import (
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
