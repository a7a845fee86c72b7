"""From text to a corpus: isoflop prepare."""

import typer

from isoflop.commands.options import HYDRA, Json

app = typer.Typer()


@app.command(context_settings=HYDRA)
def prepare(context: typer.Context, as_json: Json = False) -> None:
    """Make the corpora of a configuration, or find them: isoflop prepare data=text 'data.files=[/x/*.txt]'"""
    import json
    from pathlib import Path

    from isoflop.experiments.compose import compose_all
    from isoflop.experiments.data.corpus import Corpora, manifest_text
    from isoflop.experiments.study.arms import variants

    for spec in compose_all(context.args):
        corpora = Corpora(Path(spec.where.corpora).resolve())
        for corpus in {(made := corpora(variant.data)).folder: made for variant in variants(spec)}.values():
            typer.echo(json.dumps(corpus.manifest, indent=2) if as_json else manifest_text(corpus))
