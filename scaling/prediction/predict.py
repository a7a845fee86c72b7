"""`isoflop predict`: the predicted loss of a run, the cost of sizes off the optimum, and allocations for serving."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from isoflop.scaling.laws import law_names
from isoflop.scaling.prediction.forecast import LossForecast, Target, forecast_loss
from isoflop.scaling.prediction.serving import Serving, allocations, off_optimum_line
from isoflop.scaling.table.conventions import Points, points


@dataclass(frozen=True)
class Prediction:
    """The forecast of a loss, with the allocations requested at its compute.

    `failed` names the requested laws and options without an answer, with the reason.
    """

    loss: LossForecast
    servings: tuple[Serving, ...]
    failed: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: those of the forecast, with keys servings and failed."""
        return self.loss.to_dict() | {"servings": [s.to_dict() for s in self.servings], "failed": self.failed}

    def __str__(self) -> str:
        lines = [str(self.loss), off_optimum_line(self.loss), *(f"  {s}" for s in self.servings)]
        return "\n".join(line for line in lines if line)


def predict(
    table: "pd.DataFrame | Points",
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
) -> Prediction:
    """Predict the loss of a run from a table of smaller runs.

    The run is the compute-optimal one of `flops`, or that of `n_params` and `tokens`. `laws` (None: the candidates of
    `selection.preference`) take part in the forecast average. Allocations at the same compute are added for tokens to
    be served (`inference_tokens`), a cap on training tokens (`token_cap`) and a cap on unique tokens (`unique_tokens`).
    Raises ValueError for an incomplete target, PredictError when the loss at it cannot be predicted.

    >>> import isoflop
    >>> found = isoflop.predict(isoflop.example("quick"), flops=3e12)
    >>> round(found.to_dict()["loss"], 1)
    1.2
    """
    data = points(table, params=params, compute=compute)
    target = Target.of(data, flops, n_params, tokens)
    loss = forecast_loss(data, target, law_names(laws) if laws else None)
    servings, failed = allocations(loss, inference_tokens, token_cap, unique_tokens)
    return Prediction(loss, tuple(servings), (loss.refused if laws else {}) | failed)
