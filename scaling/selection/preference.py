"""The one rule that chooses a law: the fewest free parameters within one standard error of the best law's error.

`compare`, `predict`, `suggest`, `hold_out` and the report all name the law that `rank` prefers. A law is never
preferred to one with as few free parameters or fewer and a smaller error.
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

    `frame` is indexed by law: error (mean |ln loss error|) with error_se, behind (error less that of the best law, on
    the same runs) with behind_se, free, origins, runs.
    """

    frame: pd.DataFrame
    preferred: str


def rank(cells: pd.DataFrame, free: Mapping[str, int], *, among: Sequence[str]) -> Ranking:
    """Rank laws by `cells`: law, origin, cluster and error of ln loss, a row per law and run predicted.

    `free` counts parameters by law. The best law is that of `among` with the smallest mean |error|; those of `among`
    within one standard error of it are close, and of these the fewest free parameters win, then the smaller error.
    """
    sizes = cells.assign(size=cells["error"].abs())
    groups = {str(law): group.reset_index(drop=True) for law, group in sizes.groupby("law", sort=False)}
    best = min(among, key=lambda law: groups[law]["size"].mean())
    rows = []
    for law, group in groups.items():
        rival = groups[best][groups[best]["origin"].isin(group["origin"].unique())]
        group = group[group["origin"].isin(rival["origin"].unique())]
        behind = group["size"].to_numpy() - rival["size"].to_numpy()
        rows.append({
            "law": law, "error": group["size"].mean(), "error_se": standard_error(group["size"], group),
            "behind": behind.mean(), "behind_se": standard_error(behind, group), "free": free.get(law, np.nan),
            "origins": group["origin"].nunique(), "runs": len(group),
        })  # fmt: skip
    frame = pd.DataFrame(rows).sort_values("behind", kind="stable").set_index("law")
    close = frame[frame.index.isin(among) & (frame["behind"] <= frame.loc[best, "error_se"])]
    return Ranking(frame, str(close.sort_values(["free", "error"], kind="stable").index[0]))


def standard_error(values: pd.Series | np.ndarray, cells: pd.DataFrame) -> float:
    """Standard error of a mean over runs: the larger of that by clusters and that by origins (one fit each)."""
    values = np.asarray(values, dtype=float)
    off = values - values.mean()
    return max(_grouped(off, cells["cluster"]), _grouped(off, cells["origin"]))


def _grouped(off: np.ndarray, labels: pd.Series) -> float:
    sums = pd.Series(off).groupby(labels.to_numpy()).sum().to_numpy()
    k = len(sums)
    return float(np.sqrt(k / (k - 1) * (sums @ sums)) / len(off)) if k > 1 else 0.0


def refused_at(reasons: Sequence[str]) -> int | None:
    """The origin for whose sake a law is refused, None for a law that stays; `reasons` are "" where it has a forecast.

    A law is refused without a forecast at the last origin, or at more than half of them.
    """
    if not (reasons[-1] or sum(map(bool, reasons)) > len(reasons) / 2):
        return None
    return max(k for k, why in enumerate(reasons) if why)
