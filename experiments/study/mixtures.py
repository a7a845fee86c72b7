"""The mixtures of a study: those listed, a grid over the simplex, draws of a Dirichlet distribution."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, pairwise
from math import comb

import numpy as np

from isoflop.experiments.config import DataSpec, ExperimentConfig, MixturesSpec, StudySpec

MOST_MIXTURES = 10_000
UNIT = 10_000  # shares that are drawn are multiples of 1 / UNIT, and sum to 1


class DesignError(ValueError):
    """study.mixtures describes no mixtures."""


def mixed(config: ExperimentConfig) -> Iterator[ExperimentConfig]:
    """One configuration for each mixture of study.mixtures; the same one if it has none."""
    if not has_mixtures(config.study):
        yield config
        return
    study = replace(config.study, mixtures=MixturesSpec())
    for mixture in design(config.study.mixtures, config.data):
        yield replace(config, data=replace(config.data, mixture=mixture), study=study)


def has_mixtures(study: StudySpec) -> bool:
    """Whether study.mixtures names any."""
    return bool(study.mixtures.shares or study.mixtures.grid or study.mixtures.draws)


def design(spec: MixturesSpec, data: DataSpec) -> list[dict[str, float]]:
    """Shares by domain: those of `spec.shares`, then the grid, then the draws, each mixture once.

    The domains are those of data.domains, or of data.mixture. Raises DesignError.
    """
    names = sorted(data.domains or data.mixture or {name for one in spec.shares for name in one})
    if len(names) < 2:
        raise DesignError(f"study.mixtures: {len(names)} domains; name two or more in data.domains")
    for one in spec.shares:
        for name, share in one.items():
            if isinstance(share, bool) or not isinstance(share, int | float):
                raise DesignError(f"study.mixtures.shares: {name} must be a share from 0 to 1; not {share!r}")
            if name not in names:
                raise DesignError(f"study.mixtures.shares names {name}, which is none of {', '.join(names)}")
    count = comb(spec.grid + len(names) - 1, len(names) - 1) if spec.grid else 0
    if count + spec.draws > MOST_MIXTURES:
        raise DesignError(f"study.mixtures has {count + spec.draws:,} mixtures; at most {MOST_MIXTURES:,}")
    found = [{name: float(one.get(name, 0.0)) for name in names} for one in spec.shares]
    found += [dict(zip(names, shares, strict=True)) for shares in (*_grid(spec.grid, len(names)), *_draws(spec, names))]
    return list({tuple(one.values()): one for one in found}.values())


def _grid(steps: int, domains: int) -> Iterator[list[float]]:
    """All shares in multiples of 1 / steps."""
    for bars in combinations(range(steps + domains - 1), domains - 1) if steps else ():
        edges = (-1, *bars, steps + domains - 1)
        yield [(high - low - 1) / steps for low, high in pairwise(edges)]


def _draws(spec: MixturesSpec, names: list[str]) -> list[list[float]]:
    lots = np.random.default_rng(spec.seed)
    ends = np.cumsum(lots.dirichlet(np.full(len(names), spec.concentration), spec.draws), axis=1)
    whole = np.diff(np.rint(ends / ends[:, -1:] * UNIT), axis=1, prepend=0.0)
    return (whole / UNIT).tolist()
