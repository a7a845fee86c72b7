"""The whole answer to "what will this run reach": the outlook, sizes off the optimum, and allocations for serving."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from isoflop.scaling.prediction.forecast import STACK_FROM, Outlook, Target, outlook
from isoflop.scaling.prediction.serving import Serving, missing, wishes
from isoflop.scaling.selection.rolling_origins import names_of
from isoflop.scaling.table.conventions import points


@dataclass(frozen=True)
class Answer:
    """An outlook with the allocations asked for at its compute; `failed` says of a law or option why there is none."""

    outlook: Outlook
    servings: tuple[Serving, ...]
    failed: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return self.outlook.to_dict() | {"servings": [s.to_dict() for s in self.servings], "failed": self.failed}

    def __str__(self) -> str:
        lines = [str(self.outlook), missing(self.outlook), *(f"  {s}" for s in self.servings)]
        return "\n".join(line for line in lines if line)


def answer(
    table: pd.DataFrame,
    target: tuple[float | None, float | None, float | None],
    laws: Sequence[str] | str | None = None,
    *,
    params: str = "matrices",
    compute: str = "exact",
    serving: tuple[float | None, float | None, float | None] = (None, None, None),
) -> Answer:
    """Predict at (flops, n_params, tokens), of which flops or the other two are given.

    `serving` asks for allocations with tokens to be served, a cap on tokens, a cap on unique tokens.
    """
    data = points(table, params=params, compute=compute)
    said = outlook(data, Target.of(data, *target), names_of(laws) if laws else STACK_FROM)
    made, failed = wishes(said, *serving)
    return Answer(said, tuple(made), (said.refused if laws else {}) | failed)
