"""How the table behind a forecast was read, so that its runs can be found again when the forecast is scored."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from isoflop.scaling.imports.read_table import read_table
from isoflop.scaling.laws import columns_read, law_names
from isoflop.scaling.selection.best_of import best_of


@dataclass(frozen=True)
class Reading:
    """The options a table was read with, as `isoflop predict` takes them: `mapping` (ours -> yours), `where`, `study`,
    `sheet`, the columns `best_of` and the `laws` whose columns the mapping may name."""

    mapping: dict[str, str] = field(default_factory=dict)
    where: str | None = None
    study: str | None = None
    sheet: str | None = None
    best_of: tuple[str, ...] = ()
    laws: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values of the options that were given."""
        return {name: value for name, value in vars(self).items() if value}

    @classmethod
    def of(cls, value: dict[str, Any]) -> "Reading":
        """The reading whose `to_dict` is `value`."""
        return cls(**value | {"best_of": tuple(value.get("best_of", ()))})

    def again(self, source: Path, run_ids: list[str] | None) -> pd.DataFrame:
        """The runs of the table at `source`, read with the same options: those of `run_ids`, where they have names.

        Runs that have names are known by them, and need not be the best of a table that has grown.
        """
        inputs = columns_read(law_names(self.laws)) if self.laws else ()
        table = read_table(
            source, mapping=self.mapping, where=self.where, study=self.study, sheet=self.sheet, inputs=inputs
        )
        if run_ids is not None and "run_id" in table:
            return table[table["run_id"].isin(run_ids)]
        return best_of(table, self.best_of) if self.best_of else table


AS_IS = Reading()
