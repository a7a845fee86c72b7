"""Tokens per second on a CUDA device: a plain loop, the same through torch.compile, ours eager, ours.

`python -m tests.bench.cuda [seconds]`. The plain loop is nanoGPT's written plainly (`plain_loop`) as it runs on
CUDA: eager, fused AdamW, pinned copies. Ours once eager, with all else that it does, and once as it runs by itself.
A row per size, batch and precision; all contenders train the same architecture on the same number of tokens a step.
"""

import gc
import sys

import pandas as pd
import torch

from isoflop.experiments.training.process import configure_process
from tests.support.training.cuda_contenders import CONTENDERS, SECONDS, cell_of, pace

# size, sequences, tokens of each, precision: where launches decide, to where products do
ROWS = (
    ("g128", 8, 64, "float32"),
    ("g128", 64, 512, "float32"),
    ("g128", 64, 512, "bfloat16"),
    ("g256", 64, 512, "bfloat16"),
    ("g512", 64, 512, "bfloat16"),
)


def measure(device: str, seconds: float) -> pd.DataFrame:
    """Tokens per second and seconds until the first, a row per cell, columns by contender."""
    rows = {}
    for size, batch, length, precision in ROWS:
        cell, row = cell_of(size, batch, length, precision), {}
        for name in CONTENDERS:
            row[name], row[f"{name}, ready"] = pace(name, cell, device, seconds)
            gc.collect()
            torch.cuda.empty_cache()
        rows[f"{size} {batch} x {length} {precision}"] = row
    return pd.DataFrame(rows).T


def main() -> None:
    """Print the table, and every contender as a ratio to the plain loop."""
    if not torch.cuda.is_available():
        print("no CUDA device")
        raise SystemExit(1)
    configure_process(1)
    table = measure("cuda", float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
    speeds = table[list(CONTENDERS)]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: tokens per second, seconds until ready")
    print(
        pd.concat([speeds.map("{:,.0f}".format), table.drop(columns=speeds).map("{:.1f}".format)], axis=1).to_string()
    )
    for peer in ("plain", "compiled"):
        print(f"against the {peer} loop")
        print(speeds.div(speeds[peer], axis=0).map("{:.2f}x".format).to_string())


if __name__ == "__main__":
    main()
