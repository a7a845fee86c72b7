"""Speed of fits as ratios, measured side by side: `make bench`, or `python -m tests.bench.fits [rounds]`.

Everything runs in this one process on one thread in interleaved rounds, because timings on a shared machine drift by a
factor between minutes while their ratios do not; the medians of the rounds are compared. The rival is what a careful
SciPy user writes: Hoffmann's 4,500 starts through L-BFGS-B with finite differences, and one BFGS per bootstrap
resample. Both are sampled and scaled, since whole they take minutes. Data: Besiroglu's 240 points when they are there,
otherwise 240 simulated ones.
"""

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import logsumexp

from isoflop.scaling.fitting.fit import Fit, Huber, LeastSquares, fit
from isoflop.scaling.fitting.refit import refit
from isoflop.scaling.fitting.search.search import search
from isoflop.scaling.fitting.uncertainty import bootstrap, jackknife
from tests.support.fits.hard_fits import SURFACE, isoflop
from tests.support.root import ROOT

DELTA = 1e-3
AMPLITUDES, FLOORS, EXPONENTS = range(0, 30, 5), np.arange(-1, 1.5, 0.5), np.arange(0, 2.5, 0.5)
GRID = list(product(AMPLITUDES, AMPLITUDES, FLOORS, EXPONENTS, EXPONENTS))
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
STARTS_SAMPLED = 12
RESAMPLES_SAMPLED = 8
RESAMPLES = 1000


def load() -> tuple[str, pd.DataFrame]:
    """Besiroglu's 240 rows, or as many simulated ones."""
    default = ROOT.parent / "shared" / "data"
    path = Path(os.environ.get("ISOFLOP_PUBLIC_DATA", default)) / "chinchilla_epoch" / "runs.csv"
    if path.is_file():
        table = pd.read_csv(path)
        return "Besiroglu et al., 240 points", table[~table["excluded_top5_loss"]]
    frame = isoflop(240)
    noise = np.exp(np.random.default_rng(0).normal(0, 0.005, 240))
    return "240 simulated points", frame.assign(loss=SURFACE(frame["n_params"], frame["tokens"]) * noise)


class SciPyUser:
    """Sum of Huber over ln loss by log-sum-exp in (a, b, e, alpha, beta), as Hoffmann et al. write it."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.N, self.D, self.L = (np.log(table[c].to_numpy(float)) for c in ("n_params", "tokens", "loss"))
        self.rng = np.random.default_rng(0)

    def objective(self, theta: np.ndarray, weights: np.ndarray | float = 1.0) -> float:
        """Sum of Huber of ln loss, rows weighted, at (a, b, e, alpha, beta)."""
        a, b, e, alpha, beta = theta
        predicted = logsumexp(np.stack([a - alpha * self.N, b - beta * self.D, np.full_like(self.N, e)]), axis=0)
        psi = np.clip(predicted - self.L, -DELTA, DELTA)
        return float(np.sum(weights * psi * (predicted - self.L - psi / 2)))

    def grid(self) -> list[float]:
        """Ends of a random sample of the 4,500 starts."""
        chosen = self.rng.choice(len(GRID), STARTS_SAMPLED, replace=False)
        return [float(minimize(self.objective, GRID[i], method="L-BFGS-B").fun) for i in chosen]

    def resamples(self, optimum: np.ndarray) -> list[float]:
        """Ends of one BFGS per resample, started at the optimum of the full data."""
        ends = []
        for _ in range(RESAMPLES_SAMPLED):
            counts = self.rng.multinomial(len(self.N), np.full(len(self.N), 1 / len(self.N))).astype(float)
            ends.append(float(minimize(self.objective, optimum, args=(counts,), method="BFGS").fun))
        return ends


def timed(job: Callable[[], object]) -> tuple[float, object]:
    """Seconds that a job took, and its result."""
    begin = time.perf_counter()
    result = job()
    return time.perf_counter() - begin, result


def jobs(table: pd.DataFrame, full: Fit, user: SciPyUser) -> dict[str, tuple[Callable[[], object], float]]:
    """Each job with the factor that scales its sample to the whole."""
    law = full.law
    optimum = np.array([np.log(law.A), np.log(law.B), np.log(law.E), law.alpha, law.beta])
    return {
        "fit": (lambda: fit("chinchilla", table, objective=Huber(DELTA)), 1.0),
        "fit, least squares": (lambda: fit("chinchilla", table, objective=LeastSquares()), 1.0),
        "jackknife, 240": (lambda: (full.__dict__.pop("_jackknife", None), jackknife(full)), 1.0),  # a fit keeps it
        "bootstrap, 1,000": (lambda: bootstrap(full, RESAMPLES), 1.0),
        "SciPy, 4,500 L-BFGS-B": (user.grid, len(GRID) / STARTS_SAMPLED),
        "SciPy, 1,000 BFGS": (lambda: user.resamples(optimum), RESAMPLES / RESAMPLES_SAMPLED),
        **rivals(table),
    }


def rivals(table: pd.DataFrame) -> dict[str, tuple[Callable[[], object], float]]:
    """simple-scaling-laws (least squares of the loss with 1,000 draws) when it is installed."""
    if importlib.util.find_spec("simple_scaling_laws") is None:
        return {}
    import polars
    import simple_scaling_laws

    runs = polars.DataFrame(
        {
            "training_run_id": [f"r{i}" for i in range(len(table))],
            "test_set_id": ["held out"] * len(table),
            "model_size__n_params": table["n_params"].to_numpy(),
            "dataset_size__n_tokens": table["tokens"].to_numpy(),
            "test_loss__ce": table["loss"].to_numpy(),
        }
    )
    squares = fit("chinchilla", table, objective=LeastSquares())
    return {
        "bootstrap, 1,000, squares": (lambda: bootstrap(squares, RESAMPLES), 1.0),
        "simple-scaling-laws, 1,000": (
            lambda: simple_scaling_laws.fit(runs, law="separable-power", n_draws=RESAMPLES, seed=0),
            1.0,
        ),
    }


def measure(rounds: int) -> tuple[pd.DataFrame, Fit, list[float]]:
    """Median seconds of every job over interleaved rounds, the fit, and where SciPy's sampled starts ended."""
    _, table = load()
    full = fit("chinchilla", table, objective=Huber(DELTA))
    work = jobs(table, full, SciPyUser(table))
    seconds: dict[str, list[float]] = {name: [] for name in work}
    ends: list[float] = []
    for _ in range(rounds):
        for name, (job, scale) in work.items():
            took, result = timed(job)
            seconds[name].append(took * scale)
            if name.startswith("SciPy, 4,500"):
                ends += result  # type: ignore[operator]
    rows = [{"job": name, "seconds": float(np.median(taken))} for name, taken in seconds.items()]
    return pd.DataFrame(rows).set_index("job"), full, ends


def refit_quality(full: Fit, count: int = RESAMPLES) -> tuple[float, float]:
    """Share of warm refits within 1e-9 of the best of 8 fresh starts on the same resample, and the worst gap."""
    n = len(full.points)
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=count).astype(float)
    warm = refit(full, counts).value
    fresh = np.array([search(full.problem, weights, full.objective)[0].value.min() for weights in counts])
    gaps = warm / fresh - 1
    return float(np.mean(gaps <= 1e-9)), float(gaps.max())


def main() -> None:
    """Print the seconds of every job and their ratios."""
    if any(os.environ.get(name) != "1" for name in ONE_THREAD):
        # The thread pools read their size when numpy is imported, which has happened: start again with it set.
        os.execve(sys.executable, [sys.executable, "-m", "tests.bench.fits", *sys.argv[1:]], os.environ | ONE_THREAD)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    name, _ = load()
    print(f"{name}; sum of Huber on ln loss, delta {DELTA}; {rounds} interleaved rounds, one thread, medians")
    table, full, ends = measure(rounds)
    seconds = table["seconds"]
    print(table.to_string(float_format=lambda v: f"{v:.4g}"))
    print(f"full fit: {seconds['SciPy, 4,500 L-BFGS-B'] / seconds['fit']:,.0f}x the 4,500-start grid")
    print(f"1,000 refits: {seconds['SciPy, 1,000 BFGS'] / seconds['bootstrap, 1,000']:,.0f}x one BFGS each")
    if "simple-scaling-laws, 1,000" in seconds:
        ratio = seconds["simple-scaling-laws, 1,000"] / seconds["bootstrap, 1,000, squares"]
        print(f"1,000 least-squares refits: {ratio:,.0f}x simple-scaling-laws")
    share, worst = refit_quality(full)
    print(f"{share:.2%} of 1,000 refits within 1e-9 of the best of 8 fresh starts, worst gap {worst:.1e}")
    gaps = np.array(ends) / full.value - 1
    print(f"objective {full.value:.16g}, {full.status}")
    print(f"SciPy's {len(gaps)} sampled starts: best {gaps.min():+.1e} from it, median {np.median(gaps):+.1e}")
    print(f"within 1e-6 of it {np.mean(gaps < 1e-6):.1%}, below it {np.sum(gaps < -1e-12)}")


if __name__ == "__main__":
    main()
