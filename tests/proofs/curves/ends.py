"""The end of a run from a half and a quarter of its steps, each size of the committed quick study left out in turn.

    python -m tests.proofs.curves.ends

Prints the rms error of the final loss, its bias, the share of 90% intervals that hold it, and the same of the run's own
slope carried on. Passes where the errors are at most 1.5% and 2.7%, and intervals hold .86 to .96.
"""

import sys
from dataclasses import replace

import numpy as np

from isoflop.scaling.prediction.curves.curve_model import CurveModel, curve_model
from isoflop.scaling.table.runs import read_runs
from isoflop.scaling.table.schedules.curve_run import CurveRun
from isoflop.scaling.table.schedules.read_curves import read_curves
from tests.support.root import ROOT

TABLE = ROOT / "experiments/results/quick.parquet"
SHARES = {0.5: 0.015, 0.25: 0.027}
COVERAGE = (0.86, 0.96)


def begun(run: CurveRun, share: float) -> CurveRun:
    """The run when that share of its steps was taken."""
    kept = run.steps + 1 <= share * run.horizon
    return replace(run, steps=run.steps[kept], loss=run.loss[kept], done=False, ends=np.zeros(kept.sum(), bool))


def carried_on(run: CurveRun) -> float:
    """ln of the final loss by a line through the last three rows in ln loss and ln step."""
    if len(run.loss) < 2:
        return float("nan")
    line = np.polyfit(np.log(run.steps[-3:] + 1.0), np.log(run.loss[-3:]), 1)
    return float(np.polyval(line, np.log(run.horizon)))


def errors(runs: tuple[CurveRun, ...], share: float, models: dict[float, CurveModel]) -> np.ndarray:
    """ln forecast - ln measured, whether the 90% interval holds it, its half-width, and the error of the slope."""
    out = []
    for run in runs:
        part = begun(run, share)
        model = models[run.n_params].with_run(part)
        reported = model.forecast(part, np.array([run.horizon - 1]), ends=np.array([True]))
        lo, hi = reported.interval(0.9)
        truth = float(run.loss[-1])
        out.append((
            reported.log_loss[0] - np.log(truth), float(lo[0] <= truth <= hi[0]), np.log(hi[0] / lo[0]) / 2,
            carried_on(part) - np.log(truth),
        ))  # fmt: skip
    return np.array(out)


def main() -> int:
    """Print the table; 1 where a bar is missed."""
    runs = read_curves(read_runs(TABLE)).runs
    sizes = sorted({run.n_params for run in runs})
    models = {size: curve_model([run for run in runs if run.n_params != size]) for size in sizes}
    for size in sizes:
        print(f"  {size:8.0f} {models[size].deviation}", file=sys.stderr)
    good = True
    print("share  runs   rms   bias  worst  90% holds  half-width  slope rms (runs)")
    for share, bar in SHARES.items():
        found = errors(runs, share, models)
        rms = float(np.sqrt(np.mean(found[:, 0] ** 2)))
        held, own = found[:, 1].mean(), found[np.isfinite(found[:, 3]), 3]
        print(
            f"{share:5.2f} {len(found):5d} {rms:6.2%} {found[:, 0].mean():+6.2%} {np.abs(found[:, 0]).max():6.2%} "
            f"{held:9.2f} {found[:, 2].mean():11.2%} {np.sqrt((own**2).mean()):9.2%} ({len(own)})"
        )
        good &= rms <= bar and COVERAGE[0] <= held <= COVERAGE[1]
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
