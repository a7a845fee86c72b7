"""The one rule that chooses a law: the fewest free parameters within one standard error of the best law's error.

`compare`, `predict`, `suggest`, `hold_out` and the report all name the law that `rank` prefers. A law is never
preferred to one with as few free parameters or fewer and a smaller error. Errors at an origin count by the square of
the runs known there: a law is wanted that does well fitted to all runs, and at an origin with a quarter of them one
with six parameters errs by what they are uncertain there, whether it holds or not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from isoflop.scaling.laws import get_law, with_role
from isoflop.scaling.table.conventions import Points

CANDIDATES = with_role("choose")  # laws to choose among where the user names none


def candidates(data: Points) -> tuple[str, ...]:
    """The laws to choose among on these points: CANDIDATES, those that read unique tokens only where data repeat."""
    return tuple(law for law in CANDIDATES if "U" not in get_law(law)[0].inputs or repeats(data.frame))


def repeats(frame: pd.DataFrame) -> bool:
    """Whether unique tokens are known in every row and some run saw its own more than once."""
    if "unique_tokens" not in frame or frame["unique_tokens"].isna().any():
        return False
    return bool((frame["tokens"] > 1.01 * frame["unique_tokens"]).any())


@dataclass(frozen=True)
class Ranking:
    """Laws by their errors on runs not seen, best first, and the one that the rule prefers.

    `frame` is indexed by law: error (weighted mean |ln loss error|) with error_se, behind (error less that of the best
    law, on the same runs) with behind_se, free, origins, runs.
    """

    frame: pd.DataFrame
    preferred: str


def rank(cells: pd.DataFrame, free: Mapping[str, int], *, among: Sequence[str]) -> Ranking:
    """Rank laws by `cells`: law, origin, n_known, cluster and error of ln loss, a row per law and run predicted.

    `free` counts parameters by law. The best law is that of `among` with the smallest mean |error|; those of `among`
    within one standard error of it are close, and of these the fewest free parameters win, then the smaller error.
    """
    sizes = cells.assign(size=cells["error"].abs())
    groups = {str(law): group.reset_index(drop=True) for law, group in sizes.groupby("law", sort=False)}
    best = min(among, key=lambda law: weighted_mean(groups[law]["size"], groups[law]))
    rows = []
    for law, group in groups.items():
        rival = groups[best][groups[best]["origin"].isin(group["origin"].unique())]
        group = group[group["origin"].isin(rival["origin"].unique())]
        behind = group["size"].to_numpy() - rival["size"].to_numpy()
        rows.append({
            "law": law, "error": weighted_mean(group["size"], group), "error_se": standard_error(group["size"], group),
            "behind": weighted_mean(behind, group), "behind_se": standard_error(behind, group),
            "free": free.get(law, np.nan), "origins": group["origin"].nunique(), "runs": len(group),
        })  # fmt: skip
    frame = pd.DataFrame(rows).sort_values("behind", kind="stable").set_index("law")
    close = frame[frame.index.isin(among) & (frame["behind"] <= frame.loc[best, "error_se"])]
    return Ranking(frame, str(close.sort_values(["free", "error"], kind="stable").index[0]))


def run_weights(cells: pd.DataFrame) -> np.ndarray:
    """The share (n,) of each run in a mean over runs: n_known squared of its origin, which its runs share evenly."""
    _, origin, runs = np.unique(cells["origin"].to_numpy(), return_inverse=True, return_counts=True)
    weights = cells["n_known"].to_numpy(float) ** 2 / runs[origin]
    return weights / weights.sum()


def weighted_mean(values: pd.Series | np.ndarray, cells: pd.DataFrame) -> float:
    """The mean of a value a run, origins weighted as in `run_weights`."""
    return float(run_weights(cells) @ np.asarray(values, dtype=float))


def standard_error(values: pd.Series | np.ndarray, cells: pd.DataFrame) -> float:
    """Standard error of `weighted_mean` by clusters; 0 with one cluster alone."""
    values, weights = np.asarray(values, dtype=float), run_weights(cells)
    off = weights * (values - weights @ values)
    sums = pd.Series(off).groupby(cells["cluster"].to_numpy()).sum().to_numpy()
    k = len(sums)
    return float(np.sqrt(k / (k - 1) * (sums @ sums))) if k > 1 else 0.0


def refused_at(reasons: Sequence[str]) -> int | None:
    """The origin for whose sake a law is refused, None for a law that stays; `reasons` are "" where it has a forecast.

    A law is refused without a forecast at the last origin, or at more than half of them.
    """
    if not (reasons[-1] or sum(map(bool, reasons)) > len(reasons) / 2):
        return None
    return max(k for k, why in enumerate(reasons) if why)
