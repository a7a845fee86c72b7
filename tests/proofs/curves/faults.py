"""Planted faults in curves of simulated runs: how many are noticed before the run ends, and false alarms in sound runs.

    python -m tests.proofs.curves.faults [REPEATS]

Faults, in 40 runs: the rate x 4 from a step on, 50 steps of shuffled tokens, a constant rate for a declared cooldown.
Passes where 90% are noticed and named as what they are, and at most 5% of 100 sound runs are noticed.
"""

import sys
from dataclasses import replace

import numpy as np

from isoflop.scaling.prediction.curves.curve_model import CurveModel, curve_model
from isoflop.scaling.prediction.curves.watch import watch_run
from isoflop.scaling.table.schedules.curve_run import CurveRun
from isoflop.scaling.table.schedules.schedule import Schedule
from tests.support.fits.simulated_curves import PEAK, simulate, study

SIZES = (5e3, 1e4, 2e4, 4e4)
FAULTS, SOUND = 40, 100
SHUFFLED = 50  # steps
CAUSES = {"rate x 4": "about 4 times", "shuffled tokens": "bad data for a while", "no cooldown": "lowered as declared?"}


def planted(kind: str, size: float, draw: np.random.Generator) -> CurveRun:
    """A run with a fault; its declared rates are those of a sound one."""
    steps = int(draw.choice([1000, 2000, 3000]))
    declared = Schedule("wsd", 100).rates(steps, PEAK)
    at = int(draw.uniform(0.2, 0.7) * steps)
    if kind == "rate x 4":
        rates = np.where(np.arange(steps) >= at, 4 * declared, declared)
        return simulate(kind, size, draw, steps=steps, rates=rates)
    if kind == "no cooldown":
        return simulate(kind, size, draw, steps=steps, rates=Schedule("constant", 100).rates(steps, PEAK))
    run = simulate(kind, size, draw, steps=steps)
    # While tokens are shuffled the model unlearns their order, towards the loss of their frequencies; then it learns
    # it again, in about as many steps.
    lost = np.clip((run.steps - at) / SHUFFLED, 0, 1) * np.exp(-np.maximum(run.steps - at - SHUFFLED, 0) / SHUFFLED)
    return replace(run, loss=run.loss * np.exp(0.15 * np.where(run.steps >= at, lost, 0.0)))


def noticed(model: CurveModel, run: CurveRun) -> tuple[bool, str]:
    """Whether a run is noticed before its last row, and the cause that is said."""
    seen = watch_run(model, replace(run, steps=run.steps[:-1], loss=run.loss[:-1], done=False))
    return seen.left_at is not None, seen.cause


def main(repeats: int = 1) -> int:
    """Print the table; 1 where a bar is missed."""
    kinds = tuple(CAUSES)
    hits: dict[str, list[bool]] = {kind: [] for kind in kinds}
    causes: dict[str, dict[str, int]] = {kind: {} for kind in kinds}
    alarms = []
    for seed in range(repeats):
        draw = np.random.default_rng(seed)
        model = curve_model(study(draw, SIZES))
        print(model.deviation, file=sys.stderr)
        for i in range(FAULTS):
            kind = kinds[i % 3]
            hit, cause = noticed(model, planted(kind, SIZES[i % 4], draw))
            hits[kind].append(hit)
            causes[kind][cause] = causes[kind].get(cause, 0) + 1
        for i in range(SOUND):
            run = simulate(f"sound {i}", SIZES[i % 4], draw, steps=int(draw.choice([1000, 2000, 3000])))
            alarms.append(watch_run(model, run).left_at is not None)
    for kind in kinds:
        print(f"{kind:16} {np.mean(hits[kind]):.2f} of {len(hits[kind])} noticed before the end; {causes[kind]}")
    every = np.concatenate([hits[kind] for kind in kinds])
    named = sum(n for kind in kinds for cause, n in causes[kind].items() if CAUSES[kind] in cause.split("; or: ")[0])
    print(
        f"all faults       {every.mean():.2f} of {len(every)}, {named / len(every):.2f} named as what they are; "
        f"false alarms {np.mean(alarms):.3f} of {len(alarms)}"
    )
    return 0 if min(every.mean(), named / len(every)) >= 0.9 and np.mean(alarms) <= 0.05 else 1


if __name__ == "__main__":
    raise SystemExit(main(*map(int, sys.argv[1:])))
