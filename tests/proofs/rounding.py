"""What rounding costs: python -m tests.proofs.rounding [SIZE] [TOKENS] [SEEDS]

One cell of the embedded corpus, trained with weights and activations in 2 to 16 bits and in float32, with the same
seeds. Printed is the mean loss of each, less that of float32 with the same seed, and its standard error over seeds. It
must not grow with the bits by more than two standard errors, and at 16 bits it must lie within the standard deviation
of float32 over seeds.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isoflop.experiments.compose.compose import compose_all
from isoflop.experiments.config import WhereSpec
from isoflop.experiments.data.corpus import Corpora
from isoflop.experiments.study.study import expand
from isoflop.experiments.training.trainer import train_trunk

BITS = (2, 3, 4, 6, 8, 16, 32)


def losses(bits: int, size: str, tokens: float, seeds: Sequence[int], corpora: Corpora) -> np.ndarray:
    """The final loss (seeds,) with weights and activations in so many bits, nats/token."""
    found = []
    for seed in seeds:
        (config,) = compose_all([
            f"model={size}", f"model.weight_bits={bits}", f"model.activation_bits={bits}", f"budget.tokens={tokens}",
            f"seed={seed}",
        ])  # fmt: skip
        (cell,) = expand(config, corpora).cells
        ((_, rows),) = train_trunk([cell], corpora(cell.data), folder=None, where=WhereSpec())
        found.append(rows[-1]["loss"])
    return np.array(found)


def main(size: str = "d12", tokens: str = "204800", count: str = "5") -> int:
    """Train and print; 1 where a bar is missed."""
    corpora, seeds = Corpora(Path(os.environ.get("CORPORA", "corpora"))), range(int(count))
    by_bits = {bits: losses(bits, size, float(tokens), seeds, corpora) for bits in BITS}
    full = by_bits[32]
    spread = float(full.std(ddof=1))
    print(f"{size}, {float(tokens):,.0f} tokens, {count} seeds: float32 {full.mean():.4f}, sd over seeds {spread:.4f}")
    rises = 0
    before: np.ndarray | None = None
    for bits, found in by_bits.items():
        lost = found - full
        error = lost.std(ddof=1) / len(lost) ** 0.5
        print(f"{bits:>3} bits {found.mean():.4f}, above float32 by {lost.mean():.4f} +- {error:.4f}")
        if before is not None:
            step = found - before
            rises += step.mean() > 2 * step.std(ddof=1) / len(step) ** 0.5
        before = found
    apart = abs(float((by_bits[16] - full).mean()))
    print(f"more bits and a higher loss by two standard errors: {rises} of {len(BITS) - 1} steps (bar 0)")
    print(f"16 bits and float32: {apart:.4f} apart (bar {spread:.4f}, the sd over seeds)")
    return int(rises > 0 or apart > spread)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
