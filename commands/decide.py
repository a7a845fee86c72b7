"""What a fit is for: isoflop predict, suggest, mix."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isoflop.commands.options import (
    DECIDE,
    FIT,
    BestOf,
    Compute,
    Json,
    Laws,
    Level,
    Map,
    Params,
    Sheet,
    Study,
    Table,
    Where,
    columns_or_table,
    emit,
    load,
    new_file,
    not_negative,
    number,
    numbers,
    pairs,
    positive,
    refuse,
    refuse_failed,
    refuse_others,
)

if TYPE_CHECKING:  # loaded when a command runs
    import pandas as pd

    from isoflop.scaling.laws.inputs import Column
    from isoflop.scaling.prediction.registered.ledger import Ledger

app = typer.Typer()

Number = float | None
TARGET = ("flops", "n_params", "tokens")
READ = ("where", "mapping", "study", "sheet", "best")  # how a table is read


@app.command(rich_help_panel=DECIDE)
def predict(
    context: typer.Context,
    table: Annotated[
        Path | None,
        typer.Argument(help="smaller runs; left out with --from-law"),
    ] = None,
    flops: Annotated[
        Number,
        typer.Option("--flops", help="the best run of this compute", callback=positive),
    ] = None,
    n_params: Annotated[
        Number,
        typer.Option("--n-params", help="with --tokens: one run", callback=positive),
    ] = None,
    tokens: Annotated[
        Number,
        typer.Option("--tokens", help="with --n-params", callback=positive),
    ] = None,
    laws: Laws = "",
    register: Annotated[
        Path | None,
        typer.Option(
            "--register", help="write it to this file before the run; a .jsonl is a ledger, added to", callback=new_file
        ),
    ] = None,
    score: Annotated[
        Path | None,
        typer.Option("--score", help="a registered file, against the runs of TABLE; with --ledger: a table"),
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option("--ledger", help="forecasts so far and how they held; with --score TABLE, scored"),
    ] = None,
    inference: Annotated[
        Number,
        typer.Option("--inference-tokens", help="tokens to be served", callback=not_negative),
    ] = None,
    cap: Annotated[
        Number,
        typer.Option("--token-cap", help="no more training tokens than this", callback=positive),
    ] = None,
    unique: Annotated[
        Number,
        typer.Option("--unique-tokens", help="so many of the tokens differ", callback=positive),
    ] = None,
    token_price: Annotated[
        Number,
        typer.Option("--price-per-token", help="with --unique-tokens: is more text worth it?", callback=positive),
    ] = None,
    flop_price: Annotated[
        Number,
        typer.Option("--price-per-flop", help="in the same money; left out: 1.4e-18", callback=positive),
    ] = None,
    memory: Annotated[
        Number,
        typer.Option("--memory", help="bytes of weights: with --flops, the best mixture of experts", callback=positive),
    ] = None,
    parameter_bytes: Annotated[
        Number,
        typer.Option("--bytes-per-parameter", help="with --memory; left out: 2, bfloat16", callback=positive),
    ] = None,
    from_law: Annotated[
        str | None,
        typer.Option("--from-law", help="a published law, when there is no table"),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", help="a column of the run, NAME=VALUE (repeatable); or a table: forecast all its runs"),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", help="a run of TABLE: its loss at its end, or --at STEP, by its curve so far"),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option("--schedule", help="with --run: how it goes on, constant, cosine, linear, wsd, wsdld or wsdcon"),
    ] = None,
    cooldown: Annotated[
        Number,
        typer.Option("--cooldown", help="with --run: the share of its steps that a wsd cools down over"),
    ] = None,
    final_fraction: Annotated[
        Number,
        typer.Option("--final-fraction", help="with --schedule: the share of the peak rate that it falls to"),
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
    """Forecast a larger run, with intervals.

    The forecast can be registered in a file before the run is made (--register), and scored after it (--score). A
    ledger keeps many: --register forecasts.jsonl adds to one, --ledger forecasts.jsonl says how they held.
    """
    from isoflop.scaling.prediction.at_columns import RunForecast
    from isoflop.scaling.prediction.predict import predict as predict_loss
    from isoflop.scaling.prediction.predict import predict_from_law, predict_table

    if ledger is not None:
        scored = ("score", *READ) if score else ()
        refuse_others(
            context, "--ledger shows forecasts that were made, --score TABLE scores them, and a new one is added by "
            f"--register {ledger} alone", "ledger", "register", "as_json", *scored,
        )  # fmt: skip
        made = load(score, mapping, where, study, sheet, best=best, keep_held_out=True) if score else None
        kept = _ledger(ledger, register, made)
        emit(kept.to_dict(), str(kept), as_json)
        return
    if (table is None) == (from_law is None):
        raise ValueError("predict takes a TABLE of runs, or --from-law NAME without one")
    if from_law is not None:
        refuse_others(context, "--from-law reads no table of runs", "from_law", *TARGET, "unique", "as_json")
        result = predict_from_law(from_law, flops=flops, n_params=n_params, tokens=tokens, unique_tokens=unique)
        emit(result.to_dict(), str(result), as_json)
        return
    assert table is not None
    values, runs = ({}, None) if run is not None else columns_or_table(at)
    if run is not None:
        why = "--run forecasts a run of the table by its curve"
        refuse_others(
            context, why, "table", "run", "at", "schedule", "cooldown", "final_fraction", "params", *READ, "as_json"
        )
    elif memory is not None or parameter_bytes is not None:
        why = "--memory, with --bytes-per-parameter, finds the best mixture of experts of --flops"
        read = ("memory", "parameter_bytes", "flops")
        refuse_others(context, why, "table", *read, "laws", "params", "compute", *READ, "as_json")
        if memory is None or flops is None:
            raise ValueError("--memory BYTES and --flops go together; --bytes-per-parameter is of --memory")
    elif score is not None:
        why = "--score sets the runs of TABLE against a forecast that was made, as it was made"
        refuse_others(context, why, "table", "score", *READ, "as_json")
    elif runs is not None:
        why = "--at takes its runs from a table"
        refuse_others(context, why, "table", "at", "laws", "params", "compute", *READ, "as_json")
    else:
        refuse(context, "these are of a run's curve, which --run names", "schedule", "cooldown", "final_fraction")
    data = load(
        table, mapping, where, study, sheet, best=best, laws=laws, keep_unfinished=run is not None,
        keep_held_out=run is not None or score is not None, inputs=_of_experts() if memory is not None else (),
    )  # fmt: skip
    if run is not None:
        from isoflop.scaling.prediction.curves.run_forecast import predict_run

        step = _step(at)
        if (table / "STORE.json").exists():
            from isoflop.experiments.store.running import running_rows
            from isoflop.experiments.store.store import open_store
            from isoflop.experiments.sweep.watching import with_running

            rows = running_rows(open_store(table))
            data = with_running(data, rows[rows["run_id"].str.startswith(run)] if len(rows) else rows)
        ahead = predict_run(
            data, run, schedule=schedule, cooldown=cooldown, final_fraction=final_fraction, at=step, params=params
        )
        emit(ahead.to_dict(), str(ahead), as_json)
        return
    if memory is not None and flops is not None:
        from isoflop.scaling.laws import law_names
        from isoflop.scaling.prediction.spending.memory import BYTES, predict_memory

        capped = predict_memory(
            data, flops, memory, bytes_per_parameter=parameter_bytes or BYTES, laws=law_names(laws) if laws else (),
            params=params, compute=compute,
        )  # fmt: skip
        emit(capped.to_dict(), str(capped), as_json)
        return
    if score is not None:
        from isoflop.scaling.prediction.registered.score import score as score_registered

        scored_runs = score_registered(score, data)
        emit(scored_runs.to_dict(), str(scored_runs), as_json)
        return
    if runs is not None:
        target = load(runs, mapping, where, None, sheet, laws=laws, keep_held_out=True)
        held = predict_table(data, target, laws, params=params, compute=compute)
        emit(held.to_dict(), str(held), as_json)
        refuse_failed(held.refused if laws else {})
        return
    found = predict_loss(
        data, flops=flops, n_params=n_params, tokens=tokens, laws=laws, inference_tokens=inference, token_cap=cap,
        unique_tokens=unique, price_per_token=token_price, price_per_flop=flop_price, at=values, params=params,
        compute=compute,
    )  # fmt: skip
    if isinstance(found, RunForecast):
        if register:
            raise ValueError("--register keeps a run given by --flops, or --n-params and --tokens: leave out --at")
        emit(found.to_dict(), str(found), as_json)
        refuse_failed(found.refused)
        return
    if register:
        from isoflop.scaling.prediction.registered.ledger import register_in
        from isoflop.scaling.prediction.registered.reading import Reading
        from isoflop.scaling.prediction.registered.register import register as write_registration

        best_columns = tuple(name.strip() for name in best.split(",")) if best else ()
        reading = Reading(pairs(mapping, "--map"), where, study, sheet, best_columns, laws)
        if register.suffix == ".jsonl":
            register_in(register, found.loss, table=table, reading=reading)
        else:
            write_registration(found.loss, register, table=table, reading=reading)
    emit(found.to_dict(), str(found), as_json)
    refuse_failed(found.failed)


def _of_experts() -> "tuple[Column, ...]":
    """What --memory reads of a table beside size and tokens."""
    from isoflop.scaling.prediction.spending.memory import COLUMNS

    return COLUMNS


def _step(at: list[str] | None) -> int | None:
    """The step of --at beside --run."""
    if not at:
        return None
    if len(at) > 1 or not at[0].isdigit() or int(at[0]) < 1:
        raise ValueError(f"--at {' '.join(at)}: with --run it is one step, a whole number of 1 or more")
    return int(at[0])


def _ledger(path: Path, registered: Path | None, runs: "pd.DataFrame | None") -> "Ledger":
    """A ledger after a registration was entered in it and its forecasts were scored, each where it is requested."""
    from isoflop.scaling.prediction.registered.ledger import enter, read_ledger, score_ledger

    if registered is not None:
        enter(path, registered)
    return read_ledger(path) if runs is None else score_ledger(path, runs)


@app.command(rich_help_panel=DECIDE)
def suggest(
    context: typer.Context,
    budget: Annotated[float, typer.Option("--budget", help="FLOPs to spend", callback=positive)],
    target: Annotated[float, typer.Option("--target", help="FLOPs of the run to decide on", callback=positive)],
    table: Annotated[Path | None, typer.Argument(help="runs so far; left out with --from-law")] = None,
    goal: Annotated[str, typer.Option("--goal", help="n_opt, loss, multiplier or mixture")] = "n_opt",
    out: Annotated[
        Path | None, typer.Option("--out", help="study file, e.g. conf/experiment/next.yaml", callback=new_file)
    ] = None,
    from_law: Annotated[str | None, typer.Option("--from-law", help="a published law, when there are no runs")] = None,
    where: Where = None,
    mapping: Map = None,
    study: Study = None,
    sheet: Sheet = None,
    best: BestOf = "",
    as_json: Json = False,
) -> None:
    """Choose the most informative next runs.

    Prints the cells, what they will do to the interval of the answer, and with --out writes their study file.
    """
    from isoflop.experiments.followup.next_study import next_runs

    if from_law is not None:
        refuse(context, "--from-law reads no table of runs", "table", *READ)
    data = load(table, mapping, where, study, sheet, best=best) if table else None
    found = next_runs(data, budget=budget, target=target, goal=goal, out=out, from_law=from_law)
    emit(found.to_dict(), str(found), as_json)


@app.command(rich_help_panel=FIT)
def mix(
    table: Table,
    loss: Annotated[
        str, typer.Option("--loss", help="a column, or NAME of loss_NAME; several with weights: code=2,prose=1")
    ] = "loss",
    at: Annotated[
        list[str] | None, typer.Option("--at", help="the run: n_params=1e9, tokens=25e9 (repeatable)")
    ] = None,
    tokens: Annotated[Number, typer.Option("--tokens", help="of that run", callback=positive)] = None,
    cap: Annotated[str | None, typer.Option("--cap", help="epochs=4: no domain more often than this")] = None,
    unique: Annotated[
        list[str] | None,
        typer.Option("--unique", help="unique tokens of a domain, NAME=TOKENS; else the column unique_tokens_NAME"),
    ] = None,
    natural: Annotated[
        list[str] | None,
        typer.Option("--natural", help="the weight that a domain has now, NAME=WEIGHT: what the gain is over"),
    ] = None,
    normalise: Annotated[
        bool, typer.Option("--normalise", help="divide weights that do not add up to 1 by their sum")
    ] = False,
    params: Params = "matrices",
    where: Where = None,
    mapping: Map = None,
    study: Study = None,
    sheet: Sheet = None,
    level: Level = 0.9,
    as_json: Json = False,
) -> None:
    """Best mixture of data.

    Of a table with a column weight_NAME for each domain, which add up to 1: the weights with the lowest loss, the gain
    over natural proportions, how flat the optimum is, and which further runs would narrow the gain.
    """
    from isoflop.scaling.laws.inputs import Column
    from isoflop.scaling.laws.mixtures.means import SHARES
    from isoflop.scaling.mixtures.mix import mix as best_mix

    losses = {name: number(weight, f"--loss {name}=") if sign else 1.0
              for name, sign, weight in (part.strip().partition("=") for part in loss.split(","))}  # fmt: skip
    if "" in losses or len(losses) < len(loss.split(",")):
        raise ValueError(f"--loss {loss}: names of columns, each once: NAME[,NAME=WEIGHT]")
    bound = numbers([cap] if cap is not None else None, "--cap")
    if bound and set(bound) != {"epochs"}:
        raise ValueError(f"--cap {cap}: write it as --cap epochs=4")
    inputs = (SHARES, *(Column(name) for name in losses if name != "loss"))
    named = next(iter(losses))
    try:
        read = load(table, mapping, where, study, sheet, inputs=inputs, outcome=named)
    except ValueError as error:
        if f"no column {named!r}" not in str(error):
            raise
        read = _with_loss_of(error, table, mapping, where, study, sheet, inputs=inputs, outcome=f"loss_{named}")
    found = best_mix(
        read, losses, numbers(at, "--at"), tokens=tokens, cap=bound.get("epochs"), unique=numbers(unique, "--unique"),
        natural=numbers(natural, "--natural"), normalise=normalise, params=params, level=level,
    )  # fmt: skip
    emit(found.to_dict(), str(found), as_json)


def _with_loss_of(error: ValueError, *which: Any, **how: Any) -> "pd.DataFrame":
    """The table read for the column loss_NAME where it has none called NAME; the first error where it has neither."""
    try:
        return load(*which, **how)
    except ValueError as other:
        if f"no column {how['outcome']!r}" not in str(other):
            raise other from None
        raise type(error)(f"--loss {how['outcome'].removeprefix('loss_')}: {error}") from None
