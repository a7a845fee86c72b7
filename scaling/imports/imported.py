"""What `isoflop import` made of a source: the table, what is not in it, and how it is written."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from isoflop.scaling.imports.source import LeftOut, SourceError
from isoflop.scaling.table.runs import write_parquet, write_table


@dataclass(frozen=True)
class Imported:
    """The imported table, the rows that are not in it with the reason, notes on what was assumed, and what was read."""

    table: pd.DataFrame
    kind: str  # run table | curves | one row per run
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    sources: tuple[Path, ...] = ()

    @property
    def runs(self) -> int:
        """How many runs there are: rows, where these have no names."""
        return self.table["run_id"].nunique() if "run_id" in self.table else len(self.table)

    @property
    def ends(self) -> pd.DataFrame:
        """The last row of each run."""
        return self.table[self.table["final"]] if "final" in self.table else self.table

    def write(self, target: Path) -> bool:
        """Write the table to a .parquet or a .csv as a whole; whether it replaces a file.

        Raises SourceError for another suffix, and for a file that was read.
        """
        if target.suffix not in (".parquet", ".csv"):
            raise SourceError(f"--out {target}: write to a .parquet or a .csv")
        replaces = target.exists()
        if replaces and any(source.exists() and source.samefile(target) for source in self.sources):
            raise SourceError(f"--out {target}: one of the files that are read; write to another, or move it away")
        if self.kind == "run table" and target.suffix == ".parquet":
            write_table(self.table, target)
        elif target.suffix == ".parquet":
            write_parquet(target, pa.Table.from_pandas(self.table))
        else:
            _write_csv(self.table, target)
        return replaces

    def to_dict(self) -> dict[str, object]:
        """JSON-ready values; the table itself is left out."""
        return {
            "kind": self.kind, "runs": self.runs, "rows": len(self.table),
            "columns": list(self.table), "left_out": [asdict(one) for one in self.left_out], "notes": list(self.notes),
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [f"{self.runs} runs, {len(self.table)} rows ({self.kind})", *(f"note: {note}" for note in self.notes)]
        whole = [one for one in self.left_out if one.whole]
        rows = sum(one.rows for one in self.left_out)
        if self.left_out:
            lines.append(f"left out: {len(whole)} runs, {rows} rows in all")
        return "\n".join([*lines, *(f"  {one}" for one in self.left_out)])


def _write_csv(table: pd.DataFrame, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        table.to_csv(temporary, index=False)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
