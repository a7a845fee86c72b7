"""What sets architectures apart beside their loss: isoflop positions."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def positions(
    runs: Annotated[Path, typer.Argument(help="a runs folder")] = Path("runs"),
    study: Annotated[str | None, typer.Option("--study", help="only the runs that this study asked for")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="write every position to this .parquet or .csv")] = None,
    corpora: Annotated[Path, typer.Option("--corpora", help="folder of prepared corpora")] = Path("corpora"),
) -> None:
    """Loss by position in the window, of each arm's best run at each budget."""
    from isoflop.experiments.finished.positions import positions, positions_text
    from isoflop.experiments.store.store import open_store
    from isoflop.scaling.table.read import read_table

    found = positions(read_table(runs, study=study), open_store(runs), corpora)
    if out:
        found.to_parquet(out) if out.suffix == ".parquet" else found.to_csv(out, index=False)
    typer.echo(positions_text(found))
