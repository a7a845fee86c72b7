"""A study at real scale in a quarter of an hour of one large GPU, from tuning to a scored forecast.

`python -m tests.bench.gpu_quarter [--out build/gpu_quarter] [--runs FOLDER] [--until tuned|trained|scored] [--dry]`

    tuned      the corpus, the learning rate of the smallest sizes (experiment=gpu_rates), the plan
    trained    five budgets (experiment=gpu_quarter), then the forecast of 3.3 times the largest, registered
    scored     that budget (experiment=gpu_quarter_holdout), and the forecast against it

What is done is not done again: killed, or stopped with --until, it goes on where it was when it is typed again.
`--dry` does all of it on a CPU with a study that takes seconds.
"""

import argparse
from pathlib import Path

from tests.support.training.quarter import IN_SECONDS, REAL, STAGES, Quarter


def main() -> None:
    """Do what is left, then print what is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/gpu_quarter"))
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--until", choices=STAGES, default="scored")
    parser.add_argument("--dry", action="store_true")
    given = parser.parse_args()
    quarter = Quarter(IN_SECONDS if given.dry else REAL, given.out, given.runs or given.out / "runs")
    quarter.until(given.until)
    print("\n".join(quarter.report()))


if __name__ == "__main__":
    main()
