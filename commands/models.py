"""What can be done with a trained model: isoflop export, generate, serve, evaluate, positions."""

from pathlib import Path
from typing import Annotated

import typer

from isoflop.arguments import MOST
from isoflop.commands.options import (
    CORPORA,
    MODELS,
    SHOW,
    Json,
    Sheet,
    Study,
    corpora_folder,
    emit,
    new_folder,
    not_negative,
    positive,
    refuse,
    say,
    table_file,
)
from isoflop.printable import printable

app = typer.Typer()
MOST_TOKENS = 2**31 - 1

RunId = Annotated[str, typer.Argument(help="a finished run, or the beginning of its id (`isoflop status` lists them)")]
Runs = Annotated[Path, typer.Option("--runs", help="the runs folder that it is in")]
Corpora = Annotated[Path, typer.Option("--corpora", help="folder of prepared corpora", callback=corpora_folder)]


@app.command(rich_help_panel=MODELS)
def export(
    run_id: RunId,
    out: Annotated[Path, typer.Option("-o", "--out", help="a new folder, or an earlier export", callback=new_folder)],
    runs: Runs = Path("runs"),
) -> None:
    """A run's model as a Hugging Face folder.

    transformers, vLLM and llama.cpp read it; a model that they do not know is written as TorchScript.
    """
    from isoflop.experiments.finished.card import export
    from isoflop.experiments.store.models import find_trained
    from isoflop.experiments.store.store import open_store

    say(export(find_trained(open_store(runs), run_id), out))


@app.command(rich_help_panel=MODELS)
def generate(
    context: typer.Context,
    run_id: RunId,
    prompt: Annotated[str, typer.Option("--prompt", help="the text to go on from")] = "\n",
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, max=MOST_TOKENS)] = 200,
    temperature: Annotated[
        float, typer.Option("--temperature", help="0: always the likeliest token", callback=not_negative)
    ] = 1.0,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="draw from the k likeliest tokens", min=1, max=MOST_TOKENS)
    ] = None,
    top_p: Annotated[
        float, typer.Option("--top-p", help="draw from the likeliest with this probability", callback=positive)
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", min=0, max=MOST)] = 0,
    cached: Annotated[bool, typer.Option("--cache/--no-cache", help="same text, slower without")] = True,
    runs: Runs = Path("runs"),
) -> None:
    """Text from a run's model.

    isoflop generate RUN_ID --prompt 'def '. The prompt is printed before it.
    """
    from isoflop.experiments.store.models import find_trained
    from isoflop.experiments.store.store import open_store
    from isoflop.models.generate import Sampling

    if temperature == 0:
        refuse(context, "--temperature 0 takes the likeliest token, and draws none", "top_k", "top_p", "seed")
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    trained = find_trained(open_store(runs), run_id)
    pieces = trained.generate(prompt, max_tokens=max_tokens, sampling=sampling, cached=cached)
    first = next(pieces)  # a prompt that does not fit is refused before anything is printed
    say(prompt + first, nl=False)
    for piece in pieces:
        say(piece, nl=False)
    say()


@app.command(rich_help_panel=MODELS)
def serve(
    run_id: RunId,
    host: Annotated[str, typer.Option("--host", help="the default is reachable from this machine alone")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8000,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda:0, ...")] = "cpu",
    runs: Runs = Path("runs"),
) -> None:
    """A run's model behind an HTTP API.

    OpenAI-compatible; exports the model first. Needs pip install 'isoflop[serve]'.
    """
    from isoflop.experiments.finished import serve as server
    from isoflop.experiments.finished.card import export
    from isoflop.experiments.store.models import find_trained
    from isoflop.experiments.store.store import open_store
    from isoflop.experiments.sweep.pool import check_device

    server.check(host, port)
    check_device(device, "--device ")
    trained = find_trained(open_store(runs), run_id)
    server.check_family(trained.model.config)  # type: ignore[arg-type]  # a model of ours holds its ModelConfig
    folder = export(trained, trained.store.root / "exports" / trained.run_id)
    say(f"{folder}\non GPUs: {server.vllm_command(folder, host, port)}")
    say(f"http://{host}:{port}/v1/completions  model: {folder.name}  (Ctrl-C ends it)")
    server.serve(folder, host=host, port=port, device=device)


@app.command(rich_help_panel=MODELS)
def evaluate(
    context: typer.Context,
    run_ids: Annotated[list[str] | None, typer.Argument(help="finished runs; each is set against the first")] = None,
    tasks: Annotated[str, typer.Option("--tasks", help="next_line,identifier, .yaml files, lm-eval's own names")] = "",
    items: Annotated[int, typer.Option("--items", min=2, max=MOST_TOKENS, help="questions per task, at most")] = 500,
    study: Study = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda:0, ...")] = "cpu",
    runs: Runs = Path("runs"),
    corpora: Corpora = CORPORA,
    as_json: Json = False,
) -> None:
    """Losses and task scores of runs.

    With paired differences to the first: isoflop evaluate A B --tasks next_line. Scores by lm-eval are kept with the
    runs, and need pip install 'isoflop[evaluate]'.
    """
    from isoflop.experiments.finished.compare import compare, compare_text
    from isoflop.experiments.finished.lm_eval import TaskRequest
    from isoflop.experiments.store.models import find_trained, finished
    from isoflop.experiments.store.store import open_store
    from isoflop.experiments.sweep.pool import check_device

    names = tuple(name.strip() for name in tasks.split(",") if name.strip())
    if tasks and not names:
        raise ValueError(f"--tasks {tasks}: names no task")
    if study is not None:
        refuse(context, f"--study {study} names the runs", "run_ids")
    if not names:
        refuse(context, "without --tasks no questions are put", "items")
    check_device(device, "--device ")
    store = open_store(runs)
    chosen = finished(store, study) if study else [find_trained(store, run_id) for run_id in run_ids or []]
    if not chosen:
        raise ValueError("name a run, or --study for all of its finished ones (`isoflop status` lists them)")
    request = TaskRequest(names, items) if names else None
    found = compare(chosen, request, corpora=corpora, device=device)
    emit(found, compare_text(found), as_json)


@app.command(rich_help_panel=SHOW)
def positions(
    runs: Annotated[Path, typer.Argument(help="a runs folder")] = Path("runs"),
    study: Study = None,
    sheet: Sheet = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="write every position to this .parquet or .csv", callback=table_file)
    ] = None,
    corpora: Corpora = CORPORA,
) -> None:
    """Loss by position in the context window.

    Of each arm's best run at each budget.
    """
    from isoflop.experiments.finished.positions import positions, positions_text, write_positions
    from isoflop.experiments.store.store import open_store
    from isoflop.scaling.table.read import read_table

    found = positions(read_table(runs, study=study, sheet=sheet), open_store(runs), corpora)
    if out:
        write_positions(found, out)
    say(printable(positions_text(found)))
