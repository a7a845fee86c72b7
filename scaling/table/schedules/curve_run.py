"""One training curve with the learning rate of every step: what laws of whole curves are fitted to."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CurveRun:
    """A run's losses (n,) at `steps` (n,), the indices of their last updates, and its `rates` (T,) to its planned end.

    `done` is whether it got there, `schedule` what its rates are in words.
    """

    run_id: str
    n_params: float
    steps: np.ndarray
    loss: np.ndarray
    rates: np.ndarray
    done: bool = True
    schedule: str = ""
    trunk_id: str = ""
    ends: np.ndarray | None = None  # (n,) whether a row is of the evaluation at the end, where that is another one
    tokens: float = float("nan")  # of the whole run, where it is done and the table says
    arm: str = ""

    @property
    def horizon(self) -> int:
        """Updates to its planned end."""
        return len(self.rates)
