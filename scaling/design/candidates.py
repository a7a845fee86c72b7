"""The cells that could be run next, and what each would cost given what is trained already.

With a shared trunk a longer branch costs only its extra tokens and its own cooldown; a shorter one than the trunk
went starts anew. Without trunks (`cooldown` 1) every cell costs all its tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from isoflop.scaling.laws.law import Array, Cost

STEP = 10.0**0.125  # between budgets of the lattice
SAME_TOKENS = 0.15  # in ln: a cell this close to one already run adds little but noise
RATIOS = (2.0, 300.0)  # tokens per parameter: beyond is another regime


class DesignError(ValueError):
    """No runs can be suggested."""

    exit_code = 1


@dataclass(frozen=True)
class Lattice:
    """Cells to choose from. `frame`: size, budget (FLOPs asked for), n_params, tokens, flops.

    `trained` holds for each size the tokens that its trunk has seen, where a checkpoint of it exists; `per_token` its
    FLOPs per token; `cooldown` the share of a cell's tokens after its branch point.
    """

    frame: pd.DataFrame
    per_token: Mapping[str, float]
    trained: Mapping[str, float]
    cooldown: float

    def __len__(self) -> int:
        return len(self.frame)

    @cached_property
    def _prices(self) -> tuple[Array, Array, Array]:
        """Of each cell: FLOPs of its cooldown, FLOPs from where its trunk is taken up to its branch point, and which
        stretch of which trunk that is."""
        cooldown, advance, stretch = [], [], []
        for size, tokens in zip(self.frame["size"], self.frame["tokens"], strict=True):
            end, branch = self.trained.get(size, 0.0), (1 - self.cooldown) * tokens
            start = end if end <= branch * (1 + 1e-9) else 0.0
            cooldown.append(self.per_token[size] * self.cooldown * tokens)
            advance.append(self.per_token[size] * max(branch - start, 0.0))
            stretch.append((size, start))
        return np.array(cooldown), np.array(advance), pd.factorize(pd.Series(stretch, dtype=object))[0]

    def _reached(self, chosen: Sequence[int]) -> Array:
        """FLOPs of each stretch that the chosen cells train, once for all of them."""
        _, advance, stretch = self._prices
        reached = np.zeros(stretch.max() + 1 if len(stretch) else 0)
        np.maximum.at(reached, stretch[list(chosen)], advance[list(chosen)])
        return reached

    def cost(self, chosen: Sequence[int]) -> float:
        """FLOPs of training the chosen cells together: each cooldown, and every stretch of trunk once."""
        return float(self._prices[0][list(chosen)].sum() + self._reached(chosen).sum()) if len(chosen) else 0.0

    def marginal(self, chosen: Sequence[int]) -> Array:
        """FLOPs that each cell would add to the chosen ones, (n,)."""
        cooldown, advance, stretch = self._prices
        reached = self._reached(chosen) if len(chosen) else np.zeros(len(advance) + 1)
        return cooldown + np.maximum(advance - reached[stretch], 0.0)


def lattice(
    sizes: pd.DataFrame,
    budget: float,
    *,
    runs: pd.DataFrame | None = None,
    cooldown: float = 1.0,
    trained: Mapping[str, float] | None = None,
    min_steps: int = 300,
    max_tokens: float = np.inf,
    ratios: tuple[float, float] = RATIOS,
) -> Lattice:
    """Cells of the sizes (size, n_params, flops_token, batch_tokens) at budgets a factor 1.33 apart up to `budget`.

    `runs` (size, tokens) are done: no cell close to one is offered. `trained` says of a size how many tokens its trunk
    has seen: a longer branch goes on from there.
    Raises DesignError naming the cheapest cell when the budget affords none.
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
    if len(frame):
        near = [_close(t, done.get(s)) for s, t in zip(frame["size"], frame["tokens"], strict=True)]
        frame = frame[~np.array(near)].reset_index(drop=True)
    per_token = {str(s.size): float(s.flops_token) for s in sizes.itertuples()}
    ends = dict(trained or {})
    every = Lattice(frame, per_token, ends, cooldown)
    cost = every.marginal([])
    if not len(frame) or cost.min() > budget:
        cheapest = f"the cheapest cell costs {cost.min():.3g}" if len(frame) else "no cell is left to run"
        raise DesignError(
            f"a budget of {budget:.3g} FLOPs affords no cell: {cheapest}; raise --budget or add smaller sizes"
        )
    return Lattice(frame[cost <= budget].reset_index(drop=True), per_token, ends, cooldown)


def _close(tokens: float, done: Array | None) -> bool:
    return done is not None and bool(np.any(np.abs(np.log(done / tokens)) < SAME_TOKENS))


def any_sizes(cost: Cost, centre: float, *, decades: float = 2.5, per_decade: int = 8) -> pd.DataFrame:
    """Sizes to plan with when no models are given: geometric around `centre` parameters, under a cost law."""
    n = centre * 10.0 ** np.linspace(-decades, decades, int(2 * decades * per_decade) + 1)
    return pd.DataFrame({
        "size": [f"{x:.3g}" for x in n], "n_params": n, "flops_token": cost.flops(n, 1.0), "batch_tokens": 1,
    })  # fmt: skip
