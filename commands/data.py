"""What goes in: text to a corpus (isoflop prepare), other people's logs to a table (isoflop import)."""

from pathlib import Path
from typing import Annotated, Any

import typer

from isoflop.commands.options import (
    HYDRA,
    KEYS,
    KEYS_LISTED,
    MODELS,
    RUN,
    Json,
    Map,
    Sheet,
    emit,
    new_file,
    number,
    pairs,
    positive,
)

app = typer.Typer()


@app.command(context_settings=HYDRA, options_metavar=KEYS, epilog=KEYS_LISTED, rich_help_panel=RUN)
def prepare(context: typer.Context, as_json: Json = False) -> None:
    """Make the corpora of a study, or find them.

    isoflop prepare data=text 'data.files=[/x/*.txt]'
    """
    from isoflop.experiments.compose.compose import compose_all
    from isoflop.experiments.data.corpus import Corpora, manifest_text
    from isoflop.experiments.study.arms import variants

    made: dict[Path, dict[str, Any]] = {}
    for spec in compose_all(context.args):
        corpora = Corpora(Path(spec.where.corpora).resolve())
        for corpus in (corpora(variant.data) for variant in variants(spec)):
            if corpus.folder not in made and not as_json:
                emit({}, manifest_text(corpus), as_json)
            made[corpus.folder] = dict(corpus.manifest)
    if as_json:
        manifests = [*made.values()]
        emit({**(manifests[0] if len(manifests) == 1 else {}), "corpora": manifests}, "", as_json)


@app.command("import", rich_help_panel=MODELS)
def import_(
    source: Annotated[
        Path, typer.Argument(help="event files, a W&B export, a training log, a CSV; or a folder of them")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="a .parquet or a .csv", callback=new_file)],
    kind: Annotated[
        str, typer.Option("--from", help="auto, or what the source is; an unknown name lists them")
    ] = "auto",
    mapping: Map = None,
    sheet: Sheet = None,
    n_params: Annotated[
        list[str] | None, typer.Option("--n-params", help="where the source does not hold it: N, or RUN=N (repeatable)")
    ] = None,
    batch_tokens: Annotated[
        list[str] | None, typer.Option("--batch-tokens", help="tokens per step: B, or RUN=B (repeatable)")
    ] = None,
    tokens: Annotated[
        list[str] | None, typer.Option("--tokens", help="tokens at the end of a run: D, or RUN=D (repeatable)")
    ] = None,
    params: Annotated[
        str, typer.Option("--params", help="of several counts: matrices, total, no-embedding")
    ] = "matrices",
    bytes_per_token: Annotated[
        float | None,
        typer.Option("--bytes-per-token", help="turns bits per byte into nats per token", callback=positive),
    ] = None,
    arm: Annotated[str, typer.Option("--arm", help="label these runs, to compare them with others")] = "",
    keep_unfinished: Annotated[
        bool, typer.Option("--keep-unfinished", help="also runs that stopped before their schedule did")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn other people's logs into a table.

    From TensorBoard, W&B, MLflow, Hugging Face, Lightning, litgpt, levanter, lm-eval, Megatron, nanoGPT, nanochat, OLMo
    or any table, to a table that every command reads.
    """
    from isoflop.scaling.findings.units import unit_findings
    from isoflop.scaling.imports.assemble import ImportOptions
    from isoflop.scaling.imports.read import import_source
    from isoflop.scaling.table.conventions import points

    options = ImportOptions(
        n_params=_by_run(n_params, "--n-params"),
        batch_tokens=_by_run(batch_tokens, "--batch-tokens"),
        tokens=_by_run(tokens, "--tokens"),
        params=params,
        bytes_per_token=bytes_per_token,
        arm=arm,
        keep_unfinished=keep_unfinished,
    )
    found = import_source(source, kind, options, pairs(mapping, "--map"), sheet=sheet)
    replaced = found.write(out)
    objections = unit_findings(points(found.ends))
    wrote = f"written to {out}" + (" over the file that was there" if replaced else "")
    lines = [str(found), *map(str, objections), wrote]
    value = found.to_dict() | {"findings": [one.to_dict() for one in objections], "out": str(out), "replaced": replaced}
    emit(value, "\n".join(lines), as_json)


def _by_run(values: list[str] | None, option: str) -> dict[str, float]:
    """N for every run under the key "", RUN=N for one."""
    by_run: dict[str, float] = {}
    for value in values or []:
        run, _, text = value.rpartition("=")
        if run in by_run:
            raise ValueError(f"{option}: {run or 'the number of every run'} is given twice ({', '.join(values or [])})")
        by_run[run] = number(text, f"{option} {run} =" if run else option)
        if not by_run[run] > 0:
            raise ValueError(f"{option} {value}: not a positive number")
    return by_run
