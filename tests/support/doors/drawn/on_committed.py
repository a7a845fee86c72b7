"""Command lines on the committed tables: any command that reads one, with options drawn from those that it has."""

from functools import cache
from pathlib import Path

import numpy as np

from isoflop.analysis.figures import FIGURES
from isoflop.scaling.laws import PRESETS
from tests.support.root import ROOT

LAWS = ("chinchilla", "chinchilla-kappa", "kaplan", "saturating", "bnsl", "farseer", "power", "power-n", "power-d",
        "data-constrained", *PRESETS)  # fmt: skip
COLUMNS = ("arm", "family", "d_model", "seed", "peak_learning_rate", "batch_tokens", "vocab_size", "precision")
WHERE = ("seed == 0", "tokens > 1e6", "n_params < 1e5", "flops > 1e11", "loss < 2", "final")
COMMANDS = ("fit", "compare", "predict", "suggest", "approaches", "multiplier", "gate", "batch", "accuracy", "mix",
            "report", "plot")  # fmt: skip


@cache
def tables() -> tuple[Path, ...]:
    """Every committed table that a sweep wrote, in the order of their paths: of others a line says what was guessed."""
    return tuple(sorted(p for p in (ROOT / "experiments" / "results").rglob("*.parquet") if p.parent.name != "gates"))


def on_committed(seed: int, folder: Path) -> list[str]:
    """The command line of this number; what it writes goes into `folder`."""
    rng = np.random.default_rng(seed)

    def one(of: object) -> str:
        return str(rng.choice(list(of)))  # type: ignore[call-overload]

    def power(low: float, high: float) -> str:
        return f"{10 ** rng.uniform(low, high):.3g}"

    command, table = one(COMMANDS), tables()[int(rng.integers(len(tables())))]
    options = {
        "fit": ["--law", one(LAWS), "--bootstrap", "20"],
        "compare": ["--laws", ",".join({one(LAWS): 0, one(LAWS): 0})],
        "predict": ["--flops", power(8, 24)]
        if rng.random() < 0.6
        else ["--n-params", power(3, 12), "--tokens", power(4, 13)],
        "suggest": ["--budget", power(10, 14), "--target", power(12, 20), "--goal", one(("loss", "n_opt"))],
        "approaches": [],
        "multiplier": ["--by", one(COLUMNS)],
        "gate": ["--by", one(COLUMNS), "--target", power(10, 16)],
        "batch": [],
        "accuracy": ["--flops", power(10, 16)],
        "mix": [],
        "report": ["--out", str(folder / "report")],
        "plot": ["--figure", one(FIGURES), "--out", str(folder / f"figure.{one(('png', 'svg', 'pdf'))}")],
    }[command]
    if rng.random() < 0.3:
        options += ["--where", one(WHERE)]
    if rng.random() < 0.3:
        options += ["--params", one(("active", "total", "no-embedding"))]
    if rng.random() < 0.3 and command not in ("report", "plot"):
        options += ["--json"]
    return [command, str(table), *options]
