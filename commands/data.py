"""From text to a corpus: isoflop prepare."""

from typing import Annotated

import typer

app = typer.Typer()


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def prepare(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="print the manifest")] = False,
) -> None:
    """Make the corpus of a configuration, or find it: isoflop prepare data=text 'data.files=[/texts/**/*.txt]' ..."""
    import json
    from pathlib import Path

    from experiments.compose import compose_all
    from experiments.corpus import prepare
    from experiments.manifest import manifest_text

    for spec in compose_all(context.args):
        corpus = prepare(spec.data, Path(spec.where.corpora).resolve())
        typer.echo(json.dumps(corpus.manifest, indent=2) if as_json else manifest_text(corpus))
