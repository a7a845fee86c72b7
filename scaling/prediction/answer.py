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


def predict(
    table: pd.DataFrame,
    *,
    flops: float | None = None,
    n_params: float | None = None,
    tokens: float | None = None,
    laws: Sequence[str] | str | None = None,
    inference_tokens: float | None = None,
    token_cap: float | None = None,
    unique_tokens: float | None = None,
    params: str = "matrices",
    compute: str = "exact",
) -> Answer:
    """The loss of a run that was not made yet, by the laws that the table supports, with intervals.

    Either `flops` (the best run of that compute) or `n_params` and `tokens` (one run) are given. `inference_tokens` to
    be served, a `token_cap` on training tokens, or `unique_tokens` that may be repeated add the best allocation under
    each. Raises PredictError for a target that the table cannot answer.

    >>> import isoflop
    >>> answer = isoflop.predict(isoflop.example("quick"), flops=3e12)
    >>> round(answer.to_dict()["loss"], 1)
    1.2
    """
    data = points(table, params=params, compute=compute)
    target = Target.of(data, flops, n_params, tokens)
    said = outlook(data, target, names_of(laws) if laws else STACK_FROM)
    made, failed = wishes(said, inference_tokens, token_cap, unique_tokens)
    return Answer(said, tuple(made), (said.refused if laws else {}) | failed)
