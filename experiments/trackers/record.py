"""What a tracker is given of a run: its names, its settings, and which columns of its rows are curves."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from isoflop.experiments.files import SINGLE
from isoflop.experiments.study.cell import Cell
from isoflop.models.config import n_matrices, n_total

CURVES = (
    "loss", "train_loss", "bits_per_byte", "accuracy", "learning_rate", "tokens", "flops", "epochs", "wall_seconds",
)  # fmt: skip


@dataclass(frozen=True)
class TrackedRun:
    """One cell as a tracker names it. `settings` are flat, keys in the words of the configuration."""

    run_id: str
    name: str
    study: str
    arm: str
    settings: dict[str, str | int | float | bool]


class Sink(Protocol):
    """A tracker: where the rows of runs are written to."""

    def write(self, run: TrackedRun, rows: Sequence[dict], *, ended: bool) -> None:
        """Write rows of a run in the order of their steps; `ended` with its last ones."""

    def close(self) -> None:
        """Finish what is still open; runs that have not ended will go on in another process."""


def describe(cell: Cell, study: str) -> TrackedRun:
    """The tracked run of a cell; `study` is empty for a cell that was launched alone."""
    parts = {
        "model": asdict(cell.model), "data": asdict(cell.data), "optim": asdict(cell.optim),
        "schedule": asdict(cell.schedule),
    }  # fmt: skip
    settings = {
        f"{group}.{key}": value
        for group, part in parts.items()
        for key, value in part.items()
        if isinstance(value, str | int | float | bool)
    }
    settings |= {
        "study": study, "arm": cell.arm, "size": cell.size, "seed": cell.seed, "steps": cell.steps,
        "n_params_matrices": n_matrices(cell.model), "n_params_total": n_total(cell.model),
        "tokens": cell.horizon_tokens, "flops": float(cell.training_flops), "corpus_id": cell.corpus_id,
    }  # fmt: skip
    arm = f"{cell.arm}-" if cell.arm else ""
    name = f"{arm}{cell.size}-{cell.training_flops:.2g}-seed{cell.seed}-{cell.run_id}"
    return TrackedRun(cell.run_id, name, study or SINGLE, cell.arm, settings)
