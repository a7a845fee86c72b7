"""Tokens per second of a cell of about a million parameters on a CUDA device: a plain loop, ours, ours packed.

`python -m tests.bench.cuda [seconds]`. The plain loop is nanoGPT's written plainly (`plain_loop`) as it runs on
CUDA: eager, fused AdamW, pinned copies. Ours once eager, with all else that it does, and once as it runs by itself.
A row per batch and precision; all contenders train the same architecture on the same number of tokens a step and cell.
"""

import sys

import pandas as pd
import torch

from isoflop.experiments.training.process import configure_process
from isoflop.models.config import n_total
from tests.support.training.cuda_contenders import CONTENDERS, PRECISIONS, SECONDS, cell_of, tokens_per_second

BATCHES = ((8, 64), (16, 256), (64, 512))  # sequences x tokens: where launches decide, to where products do


def measure(device: str, seconds: float) -> pd.DataFrame:
    """Tokens per second, a row per batch and precision, a column per contender."""
    rows = {}
    for batch, length in BATCHES:
        for precision in PRECISIONS:
            cell = cell_of(batch, length, precision)
            speeds = {name: tokens_per_second(name, cell, device, seconds) for name in CONTENDERS}
            rows[f"{batch} x {length} {precision}"] = speeds
    return pd.DataFrame(rows).T


def main() -> None:
    """Print the table, and every contender as a ratio to the plain loop."""
    if not torch.cuda.is_available():
        print("no CUDA device")
        raise SystemExit(1)
    configure_process(1)
    table = measure("cuda", float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
    parameters = n_total(cell_of(*BATCHES[0], PRECISIONS[0]).model)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: {parameters:,} parameters, tokens per second")
    print(table.map("{:,.0f}".format).to_string())
    print("against the plain loop")
    print(table.div(table["plain"], axis=0).map("{:.2f}x".format).to_string())


if __name__ == "__main__":
    main()
