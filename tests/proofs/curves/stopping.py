"""Studies whose runs are stopped by what their remaining FLOPs tell, against the same studies trained to their ends.

    python -m tests.proofs.curves.stopping [REPEATS [FIRST]]

The runs of `overnight_cpu`, its hold-out among them, are simulated: under the law of whole curves that is fitted to
the committed table of `quick` with its shared misfit, deviations of trunks, noise of rows and of ends.
Prints of each repeat the share of the FLOPs that is spent and the exponent a of the frontier by both, with 90%
intervals; then the committed tables of `quick` and `known_answer`, of which a stopped study sees what it pays for.
Passes where a lies within .02 of that of the full study in the root of the mean square over the repeats, for at most
half of the FLOPs.
"""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd

from isoflop.experiments.compose.compose import compose_all
from isoflop.experiments.followup.decided import plan_of
from isoflop.experiments.study.study import expand
from isoflop.scaling.fitting.fit import fit
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.prediction.curves.curve_model import CurveModel, curve_model
from isoflop.scaling.stopping.decide import STAGES, decide
from isoflop.scaling.stopping.forecasts import forecast_ends
from isoflop.scaling.stopping.planned_run import Plan, ended
from isoflop.scaling.stopping.saved import plan_of_table
from isoflop.scaling.table.runs import read_runs
from isoflop.scaling.table.schedules.curve_run import CurveRun
from isoflop.scaling.table.schedules.read_curves import read_curves
from tests.support.root import RESULTS

BAR, MOST = 0.02, 0.5
OURS = ("quick", "known_answer")
ROWS = ["run_id", "step", "loss", "final"]


def overnight() -> Plan:
    """The plan of `overnight_cpu`, on any text."""
    (spec,) = compose_all(["experiment=overnight_cpu", "study.hold_out=[]", "data.files=['/texts/*.txt']"])
    text = SimpleNamespace(corpus_id="text", vocab_size=256, train_tokens=10**12, domains=[], warnings=())
    return plan_of(expand(spec, lambda _: text))


def simulated(plan: Plan, model: CurveModel, draw: np.random.Generator) -> pd.DataFrame:
    """The rows of every run of a plan, trained to its end."""
    parts = []
    for group in plan.trunks.values():
        on_trunk = sorted({step for one in group for step in one.measured})
        at = np.array([*on_trunk, *(one.steps for one in group)]) - 1
        final = np.arange(len(at)) >= len(on_trunk)
        requested = [_rows(group[-1].run, at[~final], ends=False)]
        requested += [_rows(one.run, np.array([one.steps - 1]), ends=True) for one in group]
        mean, covariance, _ = model.scatter(*requested)
        loss = np.exp(draw.multivariate_normal(mean, covariance))
        for i, one in enumerate(group):
            kept = [*(j for j, step in enumerate(on_trunk) if step in one.measured), len(on_trunk) + i]
            parts.append(
                pd.DataFrame({"run_id": one.run_id, "step": at[kept] + 1, "loss": loss[kept], "final": final[kept]})
            )
    return pd.concat(parts, ignore_index=True)


def _rows(run: CurveRun, steps: np.ndarray, ends: bool) -> CurveRun:
    """A run with rows without a loss at these steps."""
    return replace(run, steps=steps, loss=np.ones(len(steps)), ends=np.full(len(steps), ends))


def points_of(plan: Plan, rows: pd.DataFrame, extents: dict[str, int]) -> pd.DataFrame:
    """What a law is fitted to at these extents: ends that were measured, and forecasts with their errors."""
    loss = rows[rows["final"]].set_index("run_id")["loss"]
    reported = forecast_ends(plan, rows, (), extents) if any(not ended(one, extents) for one in plan.runs) else {}
    found = []
    for one in plan.runs:
        about = {
            "run_id": one.run_id, "trunk_id": one.run.trunk_id, "n_params": one.run.n_params, "tokens": one.tokens,
            "flops": one.flops, "forecast_error": 0.0,
        }  # fmt: skip
        if ended(one, extents):
            found.append(about | {"loss": float(loss[one.run_id])})
        elif one.run_id in reported:
            end = reported[one.run_id]
            found.append(about | {"loss": end.loss, "forecast_error": end.error / end.loss})
    return pd.DataFrame(found)


def compared(name: str, plan: Plan, rows: pd.DataFrame) -> tuple[float, float]:
    """Share of the FLOPs, and a of the stopped study less that of the full one. Prints a line."""
    extents: dict[str, int] = {}
    for stage in range(len(STAGES)):
        made = decide(plan, rows, (), extents, stage)
        extents = made.extents
    both = [fit(Chinchilla, points_of(plan, rows, e)) for e in (plan.whole, extents)]
    a, b = (one.exponents()["a"] for one in both)
    wide = [np.ptp(jackknife(one).interval("a")) / 2 for one in both]
    left, share = sum(not ended(one, extents) for one in plan.runs), made.flops / made.whole
    print(
        f"{name:>12} {share:6.3f} {left:4d} of {len(plan.runs)}   {a:.4f} +- {wide[0]:.3f}   {b:.4f} +- {wide[1]:.3f}"
        f"   {b - a:+.4f}  (expected sd {made.moves:.4f})", flush=True,
    )  # fmt: skip
    return share, b - a


def main(repeats: int = 20, first: int = 0) -> int:
    """Print the table; 1 where a bar is missed."""
    plan, model = overnight(), curve_model(read_curves(read_runs(RESULTS / "quick.parquet")).runs)
    print("       study  FLOPs   stopped   a, all trained    a, stopped        difference")
    found = [
        compared(str(i), plan, simulated(plan, model, np.random.default_rng(i))) for i in range(first, first + repeats)
    ]
    for name in OURS:
        table = read_runs(RESULTS / f"{name}.parquet")
        compared(name, plan_of_table(table), table[ROWS])
    shares, differences = np.array(found).T
    rms = float(np.sqrt(np.mean(differences**2)))
    print(
        f"simulated: difference of a {rms:.4f} rms, {differences.mean():+.4f} in the mean, at most "
        f"{np.abs(differences).max():.4f}, within {BAR:g} in {np.mean(np.abs(differences) <= BAR):.2f} of {repeats}; "
        f"FLOPs at most {shares.max():.3f}"
    )
    return 0 if rms <= BAR and shares.max() <= MOST else 1


if __name__ == "__main__":
    raise SystemExit(main(*map(int, sys.argv[1:])))
