"""Candidate runs: the cells that a design can choose from, and what each costs given what is trained already.

Cells of one size share a trunk: a cell that branches off beyond the trunk's end costs only the tokens from there and
its own cooldown; one that branches off before it trains its trunk from the start. Without trunks (`cooldown` 1) every
cell costs all its tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from isoflop.scaling.laws.cost import Cost
from isoflop.scaling.laws.law import Array

STEP = 10.0**0.125  # factor between neighbouring budgets
SAME_TOKENS = 0.15  # in ln: a cell this close in tokens to one of the same size already run is not offered
RATIOS = (2.0, 300.0)  # tokens per parameter of candidates, at least and at most


class DesignError(ValueError):
    """No runs can be suggested; the message says why and what to change."""

    exit_code = 1


@dataclass(frozen=True)
class CandidateRuns:
    """Cells to choose from: a row of `frame` each, with size, budget (nominal FLOPs), n_params, tokens, flops.

    `per_token` holds the FLOPs per token of each size, `trained` the tokens that its trunk has seen where a checkpoint
    exists; `cooldown` is the share of a cell's tokens after its branch point.
    """

    frame: pd.DataFrame
    per_token: Mapping[str, float]
    trained: Mapping[str, float]
    cooldown: float

    def __len__(self) -> int:
        return len(self.frame)

    @cached_property
    def _prices(self) -> tuple[Array, Array, Array, int]:
        """Of each cell: FLOPs of its cooldown, FLOPs of its trunk up to its branch point, and which trunk that is; and
        the number of trunks.

        A trunk is one size from the start or from the end of what is trained; it is numbered from 0.
        """
        cooldown, advance, trunk = [], [], []
        for size, tokens in self.frame[["size", "tokens"]].itertuples(index=False):
            end, branch = self.trained.get(size, 0.0), (1 - self.cooldown) * tokens
            start = end if end <= branch * (1 + 1e-9) else 0.0  # equivalent: at the very bound no cell lies
            cooldown.append(self.per_token[size] * self.cooldown * tokens)
            advance.append(self.per_token[size] * max(branch - start, 0.0))
            trunk.append((size, start))
        numbers, trunks = pd.factorize(pd.Series(trunk, dtype=object))
        return np.array(cooldown), np.array(advance), numbers, len(trunks)

    def _reached(self, chosen: Sequence[int]) -> Array:
        """FLOPs of each trunk that the chosen cells train, up to their last branch point."""
        _, advance, trunk, trunks = self._prices
        reached = np.zeros(trunks)
        np.maximum.at(reached, trunk[list(chosen)], advance[list(chosen)])
        return reached

    def cost(self, chosen: Sequence[int]) -> float:
        """FLOPs of training the chosen cells (row numbers) together: each cooldown, and every trunk once."""
        return float(self._prices[0][list(chosen)].sum() + self._reached(chosen).sum())

    def trunks_with(self, known: pd.DataFrame | None) -> tuple[Array, Array]:
        """Numbers of the trunks of the known runs (n_params, `cluster` and perhaps seed), and of the cells.

        Cells go on the trunk that known runs of their size have, of the lowest seed. Without trunks, or names of them,
        every run and cell is alone.
        """
        runs = known if known is not None and "cluster" in known else pd.DataFrame({"cluster": [], "n_params": []})
        alone = [("run", i) for i in range(len(known) - len(runs))] if known is not None else []
        ordered = runs.sort_values("seed", kind="stable") if "seed" in runs else runs
        first = dict(ordered.drop_duplicates("n_params")[["n_params", "cluster"]].itertuples(index=False))
        cells = [
            first.get(n, ("size", size)) if self.cooldown < 1 else ("cell", i)
            for i, (size, n) in enumerate(self.frame[["size", "n_params"]].itertuples(index=False))
        ]
        numbers = pd.factorize(pd.Series([*alone, *runs["cluster"], *cells], dtype=object))[0]
        return numbers[: -len(cells)], numbers[-len(cells) :]

    def marginal(self, chosen: Sequence[int]) -> Array:
        """FLOPs that each cell would add to those of the chosen ones, (n,)."""
        cooldown, advance, trunk, _ = self._prices
        return cooldown + np.maximum(advance - self._reached(chosen)[trunk], 0.0)


def candidate_runs(
    sizes: pd.DataFrame,
    budget: float,
    *,
    runs: pd.DataFrame | None = None,
    cooldown: float = 1.0,
    trained: Mapping[str, float] | None = None,
    min_steps: int,
    max_tokens: float = np.inf,
    ratios: tuple[float, float] = RATIOS,
) -> CandidateRuns:
    """Cells of the sizes (size, n_params, flops_token, batch_tokens) at budgets a factor 1.33 apart up to `budget`.

    No cell is offered close to one of `runs` (size, tokens), which are done. `cooldown` and `trained` are those of
    CandidateRuns. A cell has at least `min_steps` steps, at most `max_tokens` tokens, and tokens per parameter within
    `ratios`. Raises DesignError naming the cheapest cell when the budget affords none.
    """
    offered = []
    for s in sizes.itertuples():
        least = max(min_steps * s.batch_tokens, ratios[0] * s.n_params) * s.flops_token
        most = min(ratios[1] * s.n_params, max_tokens) * s.flops_token
        for level in range(int(np.ceil(np.log(least) / np.log(STEP))), int(np.log(most) / np.log(STEP)) + 1):
            flops = STEP**level
            tokens = max(round(flops / s.flops_token / s.batch_tokens), 1) * s.batch_tokens
            offered.append({
                "size": str(s.size), "budget": float(f"{flops:.3g}"), "n_params": float(s.n_params),
                "tokens": float(tokens), "flops": float(tokens * s.flops_token),
            })  # fmt: skip
    frame = pd.DataFrame(offered, columns=["size", "budget", "n_params", "tokens", "flops"])
    done = {size: g["tokens"].to_numpy(float) for size, g in runs.groupby("size")} if runs is not None else {}
    near = [_close(tokens, done.get(size)) for size, tokens in frame[["size", "tokens"]].itertuples(index=False)]
    frame = frame[~np.array(near, dtype=bool)].reset_index(drop=True)
    per_token = {str(s.size): float(s.flops_token) for s in sizes.itertuples()}
    ends = dict(trained or {})
    every = CandidateRuns(frame, per_token, ends, cooldown)
    cost = every.marginal([])
    if not len(frame) or cost.min() > budget:
        cheapest = f"the cheapest cell costs {cost.min():.3g}" if len(frame) else "no cell is left to run"
        raise DesignError(
            f"a budget of {budget:.3g} FLOPs affords no cell: {cheapest}; raise --budget or add smaller sizes"
        )
    return CandidateRuns(frame[cost <= budget].reset_index(drop=True), per_token, ends, cooldown)


def _close(tokens: float, done: Array | None) -> bool:
    if done is None:
        return False
    return bool(np.any(np.abs(np.log(done / tokens)) < SAME_TOKENS))  # equivalent: at the very bound no cell lies


def any_sizes(cost: Cost, centre: float, *, decades: float = 2.5, per_decade: int = 8) -> pd.DataFrame:
    """Sizes to plan with when no models are given: a geometric grid around `centre` parameters, under a cost law.

    `decades` is its extent to either side. The columns are those that `candidate_runs` takes.
    """
    n = centre * 10.0 ** np.linspace(-decades, decades, int(2 * decades * per_decade) + 1)
    return pd.DataFrame({
        "size": [f"{x:.3g}" for x in n], "n_params": n, "flops_token": cost.flops(n, 1.0), "batch_tokens": 1,
    })  # fmt: skip
