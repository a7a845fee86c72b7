"""Does the law that is chosen forecast as well as the best one would? python -m tests.proofs.verdicts.choice N [FIRST]

N studies a line, numbered from FIRST: simulated designs under laws inside and outside the catalogue, and the design of
the example `quick` under laws fitted to it. A line has the root mean square errors of ln of the best size and of its
loss at 10 times the largest compute, of the law that is chosen and of each candidate by itself; and how often each was
chosen. About 2 s of a core a study.
"""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from isoflop.scaling.fitting.fit import Huber
from isoflop.scaling.laws.law import Array
from isoflop.scaling.selection.holdout import choose
from isoflop.scaling.selection.preference import candidates
from isoflop.scaling.selection.rolling_origins import fit_at
from isoflop.scaling.table.conventions import Points, points
from tests.support.fits.calibrated import FAR, KAPPA
from tests.support.fits.simulated_studies import (
    DESIGNS,
    TRUTH,
    Surface,
    data_exponent_bends,
    data_exponent_drifts,
    optimum,
    outside_the_stack,
    studies_like_quick,
)

SMALL = 1e12  # FLOPs, the largest budget where the law is that of small models
SURFACES: dict[str, tuple[int, Surface, float]] = {
    "chinchilla": (3, TRUTH, DESIGNS[3].largest), "chinchilla, 8 trunks": (8, TRUTH, DESIGNS[8].largest),
    "kappa, 8 trunks": (8, KAPPA, SMALL), "size bends": (3, outside_the_stack, SMALL),
    "data bends": (3, data_exponent_bends, SMALL), "drifts": (3, data_exponent_drifts, SMALL),
}  # fmt: skip
LIKE_QUICK = (
    "chinchilla",
    "chinchilla-kappa",
    "chinchilla-tied",
    "chinchilla-no-floor",
    "kaplan",
    "saturating",
    "farseer",
)


def of_design(name: str) -> tuple[Callable[[int], Points], Array]:
    """The study of a number, of one of DESIGNS under one of SURFACES; and ln of the best size and of its loss."""
    number, law, largest = SURFACES[name]
    design = replace(DESIGNS[number], largest=largest)
    return lambda study: points(design.study(_rng(name, study), law)), np.log(optimum(law, FAR * largest))


def errors(data: Points, flops: float, truth: Array) -> tuple[str, dict[str, Array]]:
    """The law chosen, and every candidate's errors of ln of the best size and of the loss there."""
    found = {}
    for law in candidates(data):
        best = fit_at(law, data, Huber("auto")).optimal(flops)
        found[law] = np.log([float(best.N), float(best.loss)]) - truth
    return choose(data, spare_last=False)[0], found


def main() -> None:
    """Print a line a design and truth."""
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    lines = [(name, of_design(name)) for name in SURFACES]
    lines += [(f"quick: {law}", studies_like_quick(law, FAR)) for law in LIKE_QUICK]
    print(f"{'truth':<28} {'chosen':>13}   best single law             chosen so often; size and loss, rms of ln")
    for name, (study, truth) in lines:
        chosen: Counter[str] = Counter()
        missed, single = [], {}
        for number in range(first, first + count):
            data = study(number)
            law, found = errors(data, FAR * data.frame["flops"].max(), truth)
            chosen[law] += 1
            missed.append(found[law])
            for other, error in found.items():
                single.setdefault(other, []).append(error)
        best = min(single, key=lambda law: _rms(single[law])[1])
        often = ", ".join(f"{law} {n}" for law, n in chosen.most_common())
        print(f"{name:<28} {_both(missed)}   {best:<19} {_both(single[best])}   {often}", flush=True)


def _rng(name: str, study: int) -> np.random.Generator:
    return np.random.default_rng([study, *name.encode()])


def _rms(errors: list[Array]) -> Array:
    return np.sqrt(np.mean(np.square(errors), axis=0))


def _both(errors: list[Array]) -> str:
    size, loss = _rms(errors)
    return f"{size:6.3f} {loss:6.4f}"


if __name__ == "__main__":
    main()
