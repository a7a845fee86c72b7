"""Laws fitted to one table and compared: isoflop fit, approaches, compare, multiplier, gate, batch, accuracy."""

from pathlib import Path
from typing import Annotated

import typer

from isoflop.arguments import MOST_DEVICES
from isoflop.commands.options import (
    FIT,
    HYDRA,
    KEYS,
    SHOWN,
    BestOf,
    Compute,
    Delta,
    Json,
    Law,
    Laws,
    Level,
    Map,
    Objective,
    Params,
    Resamples,
    Seed,
    Sheet,
    Steps,
    Study,
    Table,
    Where,
    at_least_one,
    emit,
    load,
    not_negative,
    numbers,
    objective_of,
    positive,
    refuse,
    refuse_failed,
    seconds,
    share,
)

app = typer.Typer()


@app.command(rich_help_panel=FIT)
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
    sheet: Sheet = None,
    fix: Annotated[list[str] | None, typer.Option("--fix", help="hold a parameter: E=0 (repeatable)")] = None,
    bootstrap: Resamples = 1000,
    seed: Seed = 0,
    level: Level = 0.9,
    best: BestOf = "",
    as_json: Json = False,
) -> None:
    """Fit one law, with intervals and findings.

    A table has a row per run, with the loss and two of parameters, tokens and FLOPs, under their usual names (n_params,
    N, num_params; tokens, D; flops, C; loss, val_loss), with units in the name where there are any (Params (M),
    btokens, log10_flops, val_bpb, perplexity). What was taken for what is said; --map names another column.
    """
    from isoflop.scaling.findings.verdict import verdict

    with Steps() as step:
        found = verdict(
            load(table, mapping, where, study, sheet, best=best, laws=law),
            law,
            objective=objective_of(objective, delta),
            params=params,
            compute=compute,
            fixed=numbers(fix, "--fix"),
            resamples=bootstrap,
            seed=seed,
            level=level,
            on_step=step,
        )
    emit(found.to_dict(), str(found), as_json)


@app.command(rich_help_panel=FIT)
def approaches(
    table: Table,
    params: Params = "matrices",
    compute: Compute = "exact",
    objective: Objective = "huber",
    delta: Delta = "auto",
    where: Where = None,
    mapping: Map = None,
    study: Study = None,
    sheet: Sheet = None,
    best: BestOf = "",
    as_json: Json = False,
) -> None:
    """Approaches 1, 2 and 3 side by side.

    How the best size and tokens grow with compute: by the envelope of training curves, by isoFLOP profiles, by a law.
    """
    from isoflop.scaling.approaches.approaches import approaches as compare_approaches
    from isoflop.scaling.findings.diagnose import diagnose_approaches

    runs = load(table, mapping, where, study, sheet, best=best)
    found = compare_approaches(runs, params=params, compute=compute, objective=objective_of(objective, delta))
    findings = diagnose_approaches(found, runs)
    text = "\n".join([str(found), *map(str, findings)])
    emit(found.to_dict() | {"findings": [f.to_dict() for f in findings]}, text, as_json)
    refuse_failed({} if any(row.power for row in found.rows) else {row.method: row.reason for row in found.rows})


@app.command(rich_help_panel=FIT)
def compare(
    table: Table,
    laws: Laws = "",
    above: Annotated[
        float | None, typer.Option("--holdout-above", help="one hold-out above this; else rolling", callback=positive)
    ] = None,
    by: Annotated[
        str, typer.Option("--holdout-by", "--by", help="flops, n_params, tokens or any other column")
    ] = "flops",
    params: Params = "matrices",
    compute: Compute = "exact",
    where: Where = None,
    mapping: Map = None,
    study: Study = None,
    sheet: Sheet = None,
    level: Level = 0.9,
    best: BestOf = "",
    as_json: Json = False,
) -> None:
    """Score laws by what they predict.

    A scoreboard by the error on larger runs than were fitted, likelihood-ratio tests of nested laws, and what moves
    the answer.
    """
    from isoflop.scaling.selection.comparison import comparison

    data = load(table, mapping, where, study, sheet, best=best, laws=laws, keep_held_out=above is not None)
    with Steps() as step:
        found = comparison(
            data,
            laws,
            by=by,
            above=above,
            params=params,
            compute=compute,
            level=level,
            on_step=step,
        )
    emit(found.to_dict(), str(found), as_json)
    refuse_failed(found.board.refused if laws else {})


@app.command(rich_help_panel=FIT)
def multiplier(
    table: Table,
    by: Annotated[str, typer.Option("--by", help="the column that names the arms")] = "arm",
    baseline: Annotated[str | None, typer.Option("--baseline", help="an arm; left out: the first")] = None,
    target: Annotated[
        float | None, typer.Option("--flops", help="compare at this compute too", callback=positive)
    ] = None,
    params: Params = "matrices",
    compute: Compute = "exact",
    where: Where = None,
    mapping: Map = None,
    study: Study = None,
    sheet: Sheet = None,
    level: Level = 0.9,
    as_json: Json = False,
) -> None:
    """Compare arms by compute at equal loss.

    The compute multiplier between arms, where they cross, and how sure it is that one beats the other.
    """
    from isoflop.scaling.arms.multiplier import multiplier as compare_arms

    data = load(table, mapping, where, study, sheet, labels=(by,))
    found = compare_arms(data, by=by, baseline=baseline, target=target, params=params, compute=compute, level=level)
    emit(found.to_dict(), str(found), as_json)
    refuse_failed(found.failed)


@app.command(context_settings=HYDRA, options_metavar=KEYS, rich_help_panel=FIT)
def gate(
    context: typer.Context,
    table: Annotated[str, typer.Argument(help="a table with arms; or experiment=NAME key=value ...: train pairs")],
    target: Annotated[float, typer.Option("--target", help="judge at this compute, in FLOPs", callback=positive)],
    by: Annotated[str, typer.Option("--by", help="the column that names the arms")] = "arm",
    baseline: Annotated[str | None, typer.Option("--baseline", help="an arm; left out: the first")] = None,
    error: Annotated[
        float, typer.Option("--error", help="probability of a wrong promotion, over all arms", callback=share)
    ] = 0.05,
    least: Annotated[float, typer.Option("--least", help="the multiplier worth having", callback=at_least_one)] = 1.03,
    past: Annotated[
        Path | None, typer.Option("--learn", help="a table of past arms: how their gains changed with scale")
    ] = None,
    spend: Annotated[
        float | None,
        typer.Option("--spend", help="FLOPs of all pairs of a study; left out: those of --target", callback=positive),
    ] = None,
    params: Params = "matrices",
    compute: Compute = "exact",
    where: Where = None,
    mapping: Map = None,
    study: Study = None,
    sheet: Sheet = None,
    best: BestOf = "",
    as_json: Json = False,
) -> None:
    """Judge whether a change survives scale.

    Every arm against the baseline, by pairs of runs of equal size, compute and seed: promote, reject or undecided at
    the target compute, with an error that holds however often it is asked, and the pair of runs to make next. Of a
    study with 'study.arms.candidate={optim: {name: muon}}' it trains pairs until all is decided; the same command goes
    on after an interruption.
    """
    learned = load(past, None, None, labels=(by,)) if past is not None else None
    if "=" in table and not Path(table).exists():
        why = f"{table[:SHOWN]} is a study, whose runs are trained here, and no TABLE"
        refuse(context, why, "by", "where", "mapping", "study", "sheet", "best", "params", "compute")
        from isoflop.experiments.followup.gate import run_gate

        found = run_gate(
            [table, *context.args], target=target, error=error, least=least, baseline=baseline, spend=spend,
            learned=learned,
        )  # fmt: skip
    else:
        from isoflop.scaling.gate.gate import gate as judge

        if context.args or spend is not None:
            extra = context.args[0] if context.args else "--spend"
            raise ValueError(f"{extra[:SHOWN]}: no argument of a gate on a TABLE ({table[:SHOWN]})")
        data = load(Path(table), mapping, where, study, sheet, labels=(by,), best=best)
        found = judge(
            data, target=target, by=by, baseline=baseline, error=error, least=least, learned=learned, params=params,
            compute=compute,
        )  # fmt: skip
    emit(found.to_dict(), str(found), as_json)
    refuse_failed(found.failed)


@app.command(rich_help_panel=FIT)
def batch(
    table: Table,
    deadline: Annotated[str | None, typer.Option("--deadline", help="reach the loss within: 90m, 2h, 3d")] = None,
    devices: Annotated[
        int | None, typer.Option("--devices", help="on up to so many devices", min=1, max=MOST_DEVICES)
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option("--tokens-per-second", help="that one device reads, in training", callback=positive),
    ] = None,
    device_batch: Annotated[
        float | None,
        typer.Option(
            "--device-batch", help="tokens a device takes a step; left out: the smallest batch", callback=positive
        ),
    ] = None,
    where: Where = None,
    mapping: Map = None,
    study: Study = None,
    sheet: Sheet = None,
    level: Level = 0.9,
    as_json: Json = False,
) -> None:
    """Find the critical batch of each size.

    A table has a row per size and batch: n_params, batch_tokens or batch_sequences, and steps_to_target, the steps to a
    fixed loss (target_loss); of a table of runs with several batches the steps are read from the curves, and a noise
    scale that was logged stands beside. With --devices and --tokens-per-second: time against compute, and what meets
    --deadline.
    """
    from isoflop.scaling.prediction.batch.critical_batch import COLUMNS, STEPS, critical_batch

    data = load(table, mapping, where, study, sheet, inputs=COLUMNS, outcome=STEPS)
    found = critical_batch(
        data,
        deadline=seconds(deadline, "--deadline"),
        devices=devices,
        tokens_per_second=speed,
        device_batch=device_batch,
        level=level,
    )
    emit(found.to_dict(), str(found), as_json)


@app.command(rich_help_panel=FIT)
def accuracy(
    context: typer.Context,
    table: Table,
    task: Annotated[str, typer.Option("--task", help="a task that isoflop evaluate scored, of a runs folder")] = "",
    metric: Annotated[str | None, typer.Option("--metric", help="of the task; left out: its first")] = None,
    column: Annotated[str, typer.Option("--column", help="without --task: a score between 0 and 1")] = "accuracy",
    chance: Annotated[
        float | None,
        typer.Option("--chance", help="the score of guessing; left out: known or fitted", callback=not_negative),
    ] = None,
    free_top: Annotated[bool, typer.Option("--free-top", help="fit the best score there is instead of 1")] = False,
    law: Law = "chinchilla",
    flops: Annotated[
        list[float] | None, typer.Option("--flops", help="predict the best run of this (repeatable)", callback=positive)
    ] = None,
    n_params: Annotated[
        float | None, typer.Option("--n-params", help="with --tokens: predict this run", callback=positive)
    ] = None,
    tokens: Annotated[float | None, typer.Option("--tokens", help="with --n-params", callback=positive)] = None,
    params: Params = "matrices",
    compute: Compute = "exact",
    where: Where = None,
    mapping: Map = None,
    study: Study = None,
    sheet: Sheet = None,
    level: Level = 0.9,
    as_json: Json = False,
) -> None:
    """Fit a task's score by a two-stage law.

    N and D give the loss, the loss gives the score, between what guessing scores and the best score.
    """
    from isoflop.scaling.prediction.two_stage import two_stage
    from isoflop.scaling.table.evaluations.task_scores import with_score

    if (n_params is None) != (tokens is None):
        raise ValueError("--n-params and --tokens go together: one run has both")
    if metric is not None and not task:
        raise ValueError("--metric needs --task, whose metric it is")
    if task:
        refuse(context, "--task names the score", "column")
    data = load(table, mapping, where, study, sheet)
    if not task and column not in data:
        names = ", ".join(map(str, data.columns))
        raise ValueError(f"--column {column[:100]}: no such column in {table} (columns: {names})")
    data = with_score(data, table, task, metric) if task else data
    found = two_stage(
        data, law=law, column="accuracy" if task else column, chance=chance, free_top=free_top, params=params,
        compute=compute,
    )  # fmt: skip
    predicted = [found.best(c, level) for c in flops or []]
    predicted += [found.at(n_params, tokens, level)] if n_params is not None and tokens is not None else []
    emit(found.to_dict(predicted, level), found.text(predicted, level), as_json)
