"""A table of runs on mixtures: its weights, losses, sizes and what is known of the corpora, checked."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from isoflop.scaling.findings.finding import Finding, rows_of
from isoflop.scaling.findings.settings import given_twice, unlike_runs
from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.laws.law import Array
from isoflop.scaling.laws.mixtures.means import SHARES
from isoflop.scaling.table.columns import TableError, hint
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.law_inputs import components
from isoflop.scaling.table.meaning import QUANTITIES, parse_percent

WEIGHT, UNIQUE = "weight_", "unique_tokens_"
FEWEST_DOMAINS = 2


class NoMixtureError(ValueError):
    """The table says nothing of the mixture that is requested."""

    exit_code = 1


@dataclass(frozen=True)
class Mixtures:
    """The runs of a table: `frame` has weight_NAME of every domain, `losses`, and n_params and tokens where known.

    `varies` names those of n_params and tokens that do; `unique` has the unique tokens (k,) of each domain, NaN where
    they are not known; `findings` are of runs that differ in more than their mixture and scale.
    """

    frame: pd.DataFrame
    domains: tuple[str, ...]
    losses: tuple[str, ...]
    varies: tuple[str, ...]
    unique: Array
    conventions: Mapping[str, str]
    notes: tuple[str, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def shares(self) -> Array:
        """The weights (k, n) of the runs."""
        return self.frame[[WEIGHT + name for name in self.domains]].to_numpy(float).T

    def of(self, loss: str) -> pd.DataFrame:
        """The rows for a law of one loss."""
        columns = [WEIGHT + name for name in self.domains]
        return self.frame[[*columns, *self.varies]].assign(loss=self.frame[loss].to_numpy(float))


def loss_column(name: str, columns: list[str]) -> str | None:
    """The column that a loss is: of that name, or of loss_NAME; None for neither."""
    return next((one for one in (name, f"loss_{name}") if one in columns), None)


def mixtures(table: pd.DataFrame, losses: list[str], *, normalise: bool = False, params: str = "matrices") -> Mixtures:
    """The runs of a table with the named losses. Raises TableError naming the column or the rows that will not do."""
    source = str(table.attrs.get("source", "table"))
    names = [str(c) for c in table.columns]
    domains = domains_in(names)
    if len(domains) < FEWEST_DOMAINS:
        raise NoMixtureError(
            f"{source}: {len(domains)} columns {WEIGHT}NAME, and a mixture has two or more{hint('weight_a', names)}; "
            "name yours with --map weight_NAME=COLUMN"
        )
    found = []
    for name in losses:
        column = loss_column(name, names)
        if column is None:
            known = [n for n in names if n.startswith("loss")]
            others = f"; losses there are: {', '.join(known)}" if known else ""
            raise TableError(f"{source}: --loss {name}: no such column{hint(name, names)}{others}")
        found.append(column)
    if len(set(found)) < len(found):
        raise TableError(f"{source}: --loss: {', '.join(losses)}: a column is named twice")
    weights = [WEIGHT + name for name in domains]
    of_weights: list[str] = []
    if normalise:
        table = _normalised(table, weights, of_weights)
    keep = pd.to_numeric(table[found[0]], errors="coerce")
    inputs = (SHARES, *(Column(name) for name in found if name != "loss"))
    inputs += tuple(Column(name) for name in ("n_params", "tokens") if name in names)
    taken = table.assign(loss=keep)
    data = points(taken, params=params, inputs=inputs)
    if unread := [why for name, why in data.lacking.items() if name not in QUANTITIES]:
        raise TableError("; ".join(unread))
    frame = data.frame
    cell = frame.groupby(["n_params", "tokens"], dropna=False).ngroup().to_numpy()
    unlike = (*given_twice(frame), *unlike_runs(rows_of(taken, frame), unit=data.loss_unit, cell=cell))
    sums = frame[weights].sum(axis=1).to_numpy()
    if np.abs(sums - 1).max() > 1e-9:
        of_weights.append(
            f"weights add up to {sums.min():.4g} to {sums.max():.4g}, as rounding leaves them: divided by it"
        )
        frame = frame.assign(**{name: frame[name] / sums for name in weights})
    if (frame[weights].max() - frame[weights].min()).max() == 0:
        raise NoMixtureError(f"{source}: every run has the same mixture: others need to be tried")
    domains, frame = _tried(domains, frame, of_weights, source)
    varies = tuple(n for n in ("n_params", "tokens") if n in frame and frame[n].notna().all() and _differs(frame[n]))
    unique = np.array([_only(table, UNIQUE + name, source) for name in domains])
    notes = (*data.notes, *of_weights)
    return Mixtures(frame, domains, tuple(found), varies, unique, data.conventions, notes, unlike)


def _tried(
    domains: tuple[str, ...], frame: pd.DataFrame, of_weights: list[str], source: str
) -> tuple[tuple[str, ...], pd.DataFrame]:
    """The domains whose shares differ between runs; those that no run contains are left out, and `of_weights` says so.

    Raises NoMixtureError for a share that is the same in every run and not 0: nothing tells what more of it would do.
    """
    shares = {name: frame[WEIGHT + name].to_numpy(float) for name in domains}
    same = {name: float(share[0]) for name, share in shares.items() if np.ptp(share) <= 1e-9}
    for name, value in same.items():
        if value > 0:
            raise NoMixtureError(
                f"{source}: {WEIGHT}{name} is {value:.4g} in every run, which do not tell what another share of it "
                "would do: add runs with another, or leave the column out and normalise the others (--normalise)"
            )
    if not same:
        return domains, frame
    of_weights.append(f"{', '.join(same)} {'is' if len(same) == 1 else 'are'} left out: no run contains any of it")
    return tuple(name for name in domains if name not in same), frame.drop(columns=[WEIGHT + name for name in same])


def domains_in(columns: Iterable[str]) -> tuple[str, ...]:
    """The domains whose shares are among these columns."""
    return tuple(name.removeprefix(WEIGHT) for name in components(columns, SHARES))


def named_values(values: Mapping[str, float], domains: tuple[str, ...], option: str) -> dict[str, float]:
    """Positive values by domain, also where they are named by its column. Raises ValueError for another name."""
    found = {}
    for name, value in values.items():
        short = name.removeprefix(WEIGHT)
        if short not in domains:
            raise ValueError(f"{option} {name}={value:g}: not one of {', '.join(domains)}{hint(short, domains)}")
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{option} {name}={value:g}: it must be a number from 0 on")
        found[short] = float(value)
    return found


def _normalised(table: pd.DataFrame, weights: list[str], of_weights: list[str]) -> pd.DataFrame:
    values = table[weights].apply(lambda column: parse_percent(column)[0])
    sums = values.sum(axis=1).to_numpy(float)
    if not (sums > 0).all():
        raise TableError(f"--normalise: {int((sums <= 0).sum())} rows have weights that add up to nothing")
    off = int((np.abs(sums - 1) > 1e-9).sum())
    of_weights.append(f"--normalise: the weights of {off} of {len(table)} rows are divided by their sum, which was "
                f"{sums.min():.4g} to {sums.max():.4g}")  # fmt: skip
    made = table.assign(**{name: values[name] / sums for name in weights})
    made.attrs = table.attrs
    return made


def _differs(values: pd.Series) -> bool:
    return bool(values.max() > values.min() * 1.02)


def _only(table: pd.DataFrame, column: str, source: str) -> float:
    """The one value of a column of unique tokens; NaN where the table has none."""
    if column not in table:
        return math.nan
    values = pd.to_numeric(table[column], errors="coerce").dropna().unique()
    if len(values) > 1:
        raise TableError(f"{source}: {column} differs between rows ({values[0]:g}, {values[1]:g}): a corpus has one")
    return float(values[0]) if len(values) else math.nan
