"""Conventions: which parameters count as N and which operations as C. A run table stores all counts; a fit chooses.

The convention moves the exponent of the optimal size (Porian et al. 2024, Pearce and Song 2024): every result names it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from isoflop.scaling.laws.cost import Cost, fitted_cost
from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.table.columns import (
    OPTIONAL,
    TableError,
    absent,
    hint,
    is_numbers,
    like,
    map_option,
    near_match,
    refuse_words,
    resolve,
    row_names,
    some_numbers,
    texts,
)
from isoflop.scaling.table.curves import curves, not_positive
from isoflop.scaling.table.ended.unfinished import leave_out_unfinished
from isoflop.scaling.table.formats.data_frame import as_frame
from isoflop.scaling.table.formats.loss_unit import with_unit
from isoflop.scaling.table.formats.run_columns import PARAM_GROUPS
from isoflop.scaling.table.law_inputs import add_inputs, components, sizeless, unlike
from isoflop.scaling.table.meaning import NATS_PER_TOKEN, QUANTITIES, VAGUE
from isoflop.scaling.table.read import THIRD, check_values, require
from isoflop.scaling.table.runs import final_rows, forecast_rows, is_forecast, is_runs

PARAMS = {
    "matrices": "weights of matrix products: attention, recurrent, MLP and unembedding, without the input embedding",
    "active": "of the matrices, those that a token meets: with experts, the ones it is sent to; else all",
    "total": "every trainable parameter",
    "no-embedding": "the blocks alone: total less embedding, position and unembedding",
}
COMPUTE = {
    "exact": "forward and backward of every matrix product, causal attention, with the head",
    "6nd": "6 x parameters (by the convention chosen) x tokens",
    "full-attention": "exact, but counting the masked half of the attention square",
}
ASPECT = 16.0  # width per layer of the sizes in conf/model
LARGEST = 1e11  # parameters: how far a family is continued
REACH = 3.0  # times the range of sizes in a table: beyond, its cost of training is extrapolated
FORECAST_ERROR = "forecast_error"  # column: standard error of ln loss of a row that is forecast, 0 of one measured
POSITIVE_IF_KNOWN = ("unique_tokens", "vocab_size")  # columns that may be empty
AS_GIVEN = "as given"  # the convention of a column that a plain table brings


class NoCostError(TableError):
    """A table does not tell what training costs: it lacks two of size, tokens and compute."""

    exit_code = 1


@dataclass(frozen=True)
class LargerModels:
    """Models (n,) that continue a family: parameters, FLOPs per parameter and token, and the limit that those tend to.

    Depth stays that of the largest model of the table until the width per layer reaches ASPECT, or is what it is in
    that model if more; then both grow together.
    """

    n_params: np.ndarray
    rate: np.ndarray
    limit: float


@dataclass(frozen=True)
class Points:
    """The data points that a law is fitted to, a row each, and the conventions of their columns.

    `frame` has n_params, tokens, flops, loss (NaN where the table lacks one) and cluster, those of OPTIONAL that the
    table has, and the further inputs that were requested; `lacking` says why one is absent, by its name. `cluster`
    names the column whose values are the units of resampling, `notes` say what was left out or assumed, `loss_unit` is
    the unit of the loss. `larger` are models of the family beyond those of a run table. `orders_differ` says that no
    two sizes of a seed read the same order of the data.
    """

    frame: pd.DataFrame
    params: str
    compute: str
    cluster: str
    notes: tuple[str, ...] = ()
    loss_unit: str = NATS_PER_TOKEN
    larger: "LargerModels | None" = None
    orders_differ: bool = False
    lacking: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def cost(self) -> Cost:
        """The cost of training as a function of size (`fitted_cost`). Raises NoCostError where a value is missing."""
        n = self.frame["n_params"].to_numpy(float)
        rate = (self.frame["flops"] / self.frame["n_params"] / self.frame["tokens"]).to_numpy(float)
        if not (np.isfinite(n) & np.isfinite(rate)).all():
            without = [
                c for c in ("n_params", "tokens", "flops") if not np.isfinite(self.frame[c].to_numpy(float)).all()
            ]
            raise NoCostError(
                "the cost of training needs n_params, tokens and flops in every row, two of which give the third: "
                f"add {' or '.join(without) or 'values whose ratio is finite'}"
                + (f", or name the column with --map {without[0]}=COLUMN" if without else "")
            )
        if self.larger is None:
            return fitted_cost(n, rate)
        further = (self.larger.n_params, self.larger.rate)
        other = self.params not in ("matrices", "active")
        return fitted_cost(n, rate, limit=self.larger.limit, further=further, other_weights=other)

    def cost_notes(self, n_params: float) -> list[str]:
        """What to say of the cost of training where it is extrapolated to another size."""
        sizes, cost = self.frame["n_params"].to_numpy(float), self.cost
        if (cost == cost.power and not cost.slope) or sizes.min() / REACH <= n_params <= sizes.max() * REACH:
            return []
        known = (self.frame["flops"] / self.frame["n_params"] / self.frame["tokens"]).to_numpy(float)
        how = "constant beyond the sizes of the table"
        if cost.limit is not None:
            how = f"tending to {cost.limit:.3g} as in models whose width per layer stays the same"
        return [
            f"FLOPs per parameter and token are extrapolated: {known.min():.3g} to {known.max():.3g} in the table, "
            f"{float(cost.rate(n_params)):.3g} at {n_params:.3g} parameters, {how}"
        ]

    @property
    def conventions(self) -> dict[str, str]:
        """What counts as parameters and as compute, and the unit of the loss: what every answer states."""
        return {"params": self.params, "compute": self.compute, "loss_unit": self.loss_unit}

    @property
    def order(self) -> np.ndarray:
        """The rows in one order, wherever they were: by run where names tell runs apart, else by value."""
        frame = self.frame
        if "run_id" in frame and (names := texts(frame["run_id"])).is_unique:
            return np.argsort(names.to_numpy(), kind="stable")
        keys = [name for name in frame if not (name == "cluster" and self.cluster == "row")]
        columns = [frame[c] if is_numbers(frame[c]) else texts(frame[c]) for c in keys]
        return np.lexsort([column.to_numpy() for column in reversed(columns)])

    def in_order(self) -> "Points":
        """The same points in their `order`.

        A search ends at other digits where rows change places; what is said of a table does not depend on them.
        """
        order = self.order
        if (order == np.arange(len(self))).all():
            return self
        ordered = self.frame.iloc[order].reset_index(drop=True)
        if self.cluster == "row":
            ordered["cluster"] = np.arange(len(ordered))
        return replace(self, frame=ordered)

    @property
    def measured(self) -> "Points":
        """The points whose loss was measured: without the forecasts of runs that stopped."""
        if FORECAST_ERROR not in self.frame:
            return self
        frame = self.frame[is_measured(self.frame)].drop(columns=FORECAST_ERROR).reset_index(drop=True)
        return replace(self, frame=frame)

    def __len__(self) -> int:
        return len(self.frame)


def is_measured(frame: pd.DataFrame) -> np.ndarray:
    """Which rows (bool) of the frame of points have a measured loss, not the forecast of a run that stopped."""
    return (frame[FORECAST_ERROR] == 0).to_numpy() if FORECAST_ERROR in frame else np.ones(len(frame), dtype=bool)


def points(
    table: "pd.DataFrame | Points",
    *,
    params: str | None = None,
    compute: str | None = None,
    cluster: str | None = None,
    inputs: Sequence[Column] = (),
) -> Points:
    """The data points of a run table (final rows of finished runs) or of a plain table, under the named conventions.

    `params` is one of PARAMS (None: matrices), `compute` of COMPUTE (None: exact); `cluster` is a column, "row", or
    "auto" (None): trunk_id, else run_id, else row. Points have their own, and are given back. In a plain table n_params
    is taken as given and missing flops are 6 x n_params x tokens; `notes` says so. `inputs` are the columns that the
    laws to be fitted read: those that a run has besides size, tokens and compute are kept, and where a law reads none
    of these three the table may lack them.
    Raises TableError for an unknown convention, for another than Points have, for a missing column, or for a value that
    is not finite and positive.
    """
    if isinstance(table, Points):
        _check_own(table, params=params, compute=compute, cluster=cluster)
        return table
    table = as_frame(table)
    params, compute, cluster = (
        default if value is None else value
        for value, default in ((params, "matrices"), (compute, "exact"), (cluster, "auto"))
    )
    _check_convention("params", params, PARAMS)
    _check_convention("compute", compute, COMPUTE)
    notes, unit = list(table.attrs.get("notes", ())), str(table.attrs.get("loss_unit", NATS_PER_TOKEN))
    larger, orders_differ = None, False
    source = str(table.attrs.get("source", "table"))
    if is_runs(table):
        frame = _finished(_bare(table), notes, source)
        frame["n_params"] = count_params(frame, params)
        frame["flops"] = run_flops(frame, compute)
        used, larger = (params, compute), _larger_models(frame, params, compute)
        orders_differ = "engine" in frame and bool((frame["engine"].fillna("") != "").all())  # of version 2
    else:
        table = _resolved(table, notes)
        unit = table.attrs["loss_unit"]
        frame, used = _plain(table, params, compute, notes, sized=not sizeless(inputs))
        source = str(table.attrs.get("source", "table"))
    names = [str(name) for name in frame]
    lacking = {name: f"{absent(name, names)} (columns: {', '.join(names)})" for name in QUANTITIES if name not in frame}
    if further := unlike(inputs):
        frame, unread = add_inputs(frame, further, notes, source=source)
        lacking |= unread
    frame = _weighed(frame, notes)
    check_values(frame, [c for c in (*QUANTITIES, "weight") if c in frame], source=source)
    for name in (c for c in POSITIVE_IF_KNOWN if c in frame):
        check_values(frame[frame[name].notna()], (name,), source=source)
    frame["cluster"], cluster = _clusters(frame, cluster)
    kept = [*QUANTITIES, "cluster", *(c for c in (*OPTIONAL, FORECAST_ERROR) if c in frame and c != "trunk_id")]
    kept += [name for column in further for name in components(list(map(str, frame.columns)), column)]
    kept = list(dict.fromkeys(kept))
    columns = {name: frame[name] if name in frame else np.full(len(frame), np.nan) for name in kept}
    columns |= {name: np.asarray(columns[name], dtype=float) for name in QUANTITIES}
    tidy = pd.DataFrame(columns, index=frame.index).reset_index(drop=True)
    return Points(tidy, used[0], used[1], cluster, tuple(notes), unit, larger, orders_differ, lacking)


def counted_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table that `points` makes points of, in their order, with every column.

    Of training curves without what changes on the way, but for the quantities.
    """
    notes: list[str] = []
    source = str(table.attrs.get("source", "table"))
    if is_runs(table):
        return _finished(_bare(table), notes, source)
    table = _resolved(table, notes)
    if found := curves(table, source=source):
        table = found.ends.drop(columns=[name for name in found.changing if name not in QUANTITIES])
    return _weighed(_without_empty(table, notes, source=source), notes)


def counted_by(data: Points, table: pd.DataFrame) -> pd.DataFrame:
    """A table with size, tokens and compute in every row as the points have them, whether it has a loss or not.

    Raises TableError for a run table where the points are of a plain one, which says of no row what counts as its size.
    """
    if not is_runs(table):
        known = {*QUANTITIES} & {str(name) for name in table}
        return resolve(table, {name: name for name in known}, [], source=str(table.attrs.get("source", "table"))).frame
    if data.params == AS_GIVEN:
        raise TableError(
            "a run table counts its parameters in several ways, and the fit took the sizes of its table as given: give "
            "columns n_params and tokens"
        )
    sized = table.assign(n_params=count_params(table, data.params))
    return sized.assign(flops=run_flops(sized, data.compute))


def _bare(table: pd.DataFrame) -> pd.DataFrame:
    """The table without its attrs, which pandas would copy at every operation."""
    return pd.DataFrame(table, copy=False)


def _weighed(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The rows that count: those of weight 0 are left out, with a note, unless all are."""
    if "weight" not in frame:
        return frame
    out = (pd.to_numeric(frame["weight"], errors="coerce") == 0).to_numpy()
    if not out.any() or out.all():
        return frame
    notes.append(f"{out.sum()} rows of weight 0 are left out")
    return frame[~out].copy()


def count_params(table: pd.DataFrame, params: str) -> pd.Series:
    """Parameters of each row of a run table by the convention `params`."""
    group = {g: table[f"n_params_{g}"] for g in PARAM_GROUPS}
    if params == "total":
        return table["n_params_total"]
    if params == "no-embedding":
        return table["n_params_total"] - group["embedding"] - group["position"] - group["unembedding"]
    # A tied head multiplies the embedding's weights, which are stored once, in the embedding's group.
    head = group["unembedding"].where(~table["tied"] | (group["unembedding"] > 0), group["embedding"])
    if params == "active":
        require(table, ("flops_token_blocks",))
        return table["flops_token_blocks"] // 2 + head
    return group["attention"] + group["recurrent"] + group["mlp"] + head


def run_flops(frame: pd.DataFrame, compute: str) -> pd.Series:
    """Training compute of each row of a run table with its `n_params`, by the convention `compute`."""
    if compute == "6nd":
        return 6.0 * frame["n_params"] * frame["tokens"]
    if compute == "full-attention":
        require(frame, ("flops_token_attention_scores_full", "flops_token_attention_scores"))
        masked = frame["flops_token_attention_scores_full"] - frame["flops_token_attention_scores"]
        return frame["flops"] + 3.0 * masked * frame["tokens"]
    return frame["flops"]


def _larger_models(frame: pd.DataFrame, params: str, compute: str) -> LargerModels | None:
    """How the family of a run table goes on; None where it has several, or its shapes are not known."""
    shape = ["n_layer", "d_model", "flops_token_blocks", "flops_token_unembedding", "flops_token_attention_scores",
             "flops_token_attention_scores_full"]  # fmt: skip
    one = ["family", "vocab_size", "context_length", "tied"]
    if compute == "6nd" or not {*shape, *one} <= set(frame) or any(frame[column].hasnans for column in shape):
        return None
    if any(frame[column].nunique() != 1 for column in one):
        return None
    largest = np.lexsort([frame[column].to_numpy() for column in ("n_layer", "n_params_total")])[-1]

    def last(column: str) -> float:
        return float(frame[column].to_numpy()[largest])

    full = "_full" if compute == "full-attention" else ""
    part = {g: last(f"n_params_{g}") for g in PARAM_GROUPS}
    depth, width = last("n_layer"), last("d_model")
    active, head = (last(f"flops_token_{g}") / 2 for g in ("blocks", "unembedding"))
    scores = last(f"flops_token_attention_scores{full}")
    blocks = active if params == "active" else part["attention"] + part["recurrent"] + part["mlp"]
    thin = {"matrices": head, "active": head, "no-embedding": 0.0}
    thin["total"] = part["embedding"] + part["position"] + part["unembedding"]
    vectors = part["norm"] if params in ("total", "no-embedding") else 0.0
    wider = np.geomspace(1.25, max((LARGEST / max(blocks, 1.0)) ** (1 / 3), 2.0), 16)
    deeper = np.maximum(1.0, width * wider / max(ASPECT, width / depth) / depth)
    counted = blocks * deeper * wider**2 + vectors * deeper * wider + thin[params] * wider
    flops = 6 * (active * deeper * wider**2 + head * wider) + 3 * scores * deeper * wider
    return LargerModels(counted, flops / counted, 6 * active / blocks)


def _finished(table: pd.DataFrame, notes: list[str], source: str) -> pd.DataFrame:
    frame = final_rows(table)
    if is_forecast(table).any():
        stopped = forecast_rows(table)
        frame = pd.concat([frame, stopped], ignore_index=True)
        frame[FORECAST_ERROR] = (frame["loss_se"] / frame["loss"]).where(frame["state"] == "stopped", 0.0)
        notes.append(
            f"{len(stopped)} runs were stopped before their ends: they count by the forecasts of their losses, with "
            "the errors of these"
        )
    unfinished = sorted(set(table["run_id"].unique()) - set(frame["run_id"].unique()))
    if unfinished:
        notes.append(f"{len(unfinished)} runs without a finished final row are left out: {', '.join(unfinished)}")
    if frame.empty:
        raise TableError(f"{source}: no run has finished; isoflop status shows what its runs are doing")
    return frame


def _resolved(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """A plain table with every quantity that it has under another name, as `read_table` makes it."""
    source, attrs = str(table.attrs.get("source", "table")), table.attrs
    read, said = "loss_unit" in attrs, list[str]()  # by read_table, which said so; its values may have changed since
    known = {name: name for name in QUANTITIES if read and name in table}
    found = resolve(table, known, said, source=source)
    frame = found.frame
    notes += [] if read else said
    if not attrs.get("states_chosen"):
        said = []
        frame = leave_out_unfinished(frame, said, source=source)
        notes += [note for note in said if note not in notes]
    refuse_words(found, frame, source=source)
    unit = attrs["loss_unit"] if read else ""
    if not read:
        frame, unit = with_unit(found, frame, notes, source=source)
    frame.attrs = attrs | {"loss_unit": unit}
    return frame


def _plain(
    table: pd.DataFrame, params: str, compute: str, notes: list[str], *, sized: bool = True
) -> tuple[pd.DataFrame, tuple[str, str]]:
    source = table.attrs.get("source", "table")
    require(table, ("loss",), source=source)
    if found := curves(table, source=source):
        notes.append(found.note(len(table)))
        table = found.ends
    if params != "matrices" and "n_params" in table:
        raise TableError(
            f"{source}: --params {params} needs a run table with parameters by group; "
            "here n_params is taken as given: choose another column with --map n_params=COLUMN"
        )
    for column in ("params_convention", "compute_convention", "loss_unit"):  # what isoflop import recorded
        if column in table and table[column].notna().any():
            notes.append(f"{column}: {', '.join(sorted(table[column].dropna().astype(str).unique()))}")
    if compute == "full-attention":
        raise TableError(f"{source}: --compute full-attention needs a run table; use exact (as given) or 6nd")
    if "flops" not in table and sized:
        require(table, ("n_params",), source=source)
    frame = _without_empty(table, notes, source=source)
    known = "flops" in frame
    frame = with_third(frame, notes, source=source)
    if not {"n_params", "tokens"} <= set(frame):
        for lacking in sorted({"tokens", "n_params"} - set(frame)) if sized else ():
            if near_match(lacking, set(map(str, frame)) - {*QUANTITIES, *OPTIONAL}):
                require(frame, (lacking,), source=source)  # a misspelt column, not a table without it
        return frame, (AS_GIVEN, AS_GIVEN)
    if known and compute == "exact":
        return frame, (AS_GIVEN, AS_GIVEN)
    check_values(frame, ("n_params", "tokens"), source=source)
    return frame.assign(flops=6.0 * frame["n_params"].astype(float) * frame["tokens"]), (AS_GIVEN, "6nd")


def _without_empty(table: pd.DataFrame, notes: list[str], *, source: str) -> pd.DataFrame:
    """The rows whose quantities are known, and whose loss is one: a note counts the others, as `isoflop import` does.

    Where flops alone are empty in some rows they are taken as 6 x n_params x tokens in all, for one convention. Raises
    TableError where no row is left.
    """
    held = [name for name in QUANTITIES if name in table and table[name].notna().any()]
    spare = {"n_params", "tokens", "flops"} <= set(held)
    empty = {f"{name} is empty": table[name].isna().to_numpy() for name in held if not (spare and name == "flops")}
    diverged = not_positive(table["loss"])
    empty |= {f"loss is not a positive number ({_shown(table['loss'][diverged])})": diverged} if diverged.any() else {}
    out = np.any(list(empty.values()), axis=0) if empty else np.zeros(len(table), dtype=bool)
    if out.any():
        counts = "; ".join(f"{why} in {row_names(table, rows)}" for why, rows in empty.items() if rows.any())
        if out.all():
            raise TableError(f"{source}: no row has {' and '.join(held)} ({counts})")
        notes.append(f"{out.sum()} of {len(table)} rows are left out: {counts}")
    frame = table[~out].copy()
    if spare and (absent := frame["flops"].isna().to_numpy()).any():
        notes.append(f"flops are empty in {absent.sum()} of {len(frame)} rows: the column is not used")
        frame = frame.drop(columns="flops")
    return frame


def _shown(values: pd.Series) -> str:
    return ", ".join(f"{value:g}" for value in values.astype(float).unique()[:3])


def with_third(frame: pd.DataFrame, notes: list[str], *, source: str) -> pd.DataFrame:
    """The table with the one of n_params, tokens and flops that it lacks (or that is empty) by C = 6 N D, noted.

    Unchanged where it has all three, or fewer than two. Raises TableError for a column that may be the third, which
    only the user knows, and for values of the other two that are not finite and positive.
    """
    held = {name for name in THIRD if name in frame and frame[name].notna().any()}
    if len(held) != 2:
        return frame
    (absent,) = set(THIRD) - held
    vague = [str(name) for name in frame if str(name).lower() in VAGUE.get(absent, ()) and some_numbers(frame[name])]
    others = like(frame, absent)
    if absent != "flops":
        vague += others
    if vague:
        raise TableError(
            f"{source}: no column {absent!r}; {vague[0]!r} may be it: use {map_option(absent, vague[0])}, or drop it"
        )
    check_values(frame, sorted(held), source=source)
    unread = f" ({', '.join(others)}: not read as {absent}, take one with --map)" if others else ""
    notes.append(f"{absent} {'are' if absent != 'n_params' else 'is'} missing: taken as {THIRD[absent]}{unread}")
    if absent == "flops":
        return frame.assign(flops=6.0 * frame["n_params"].astype(float) * frame["tokens"])
    (other,) = held - {"flops"}
    return frame.assign(**{absent: frame["flops"].astype(float) / (6.0 * frame[other])})


def _clusters(frame: pd.DataFrame, cluster: str) -> tuple[pd.Series, str]:
    if cluster == "auto":
        cluster = next((c for c in ("trunk_id", "run_id") if c in frame), "row")
    if cluster == "row":
        return pd.Series(np.arange(len(frame)), index=frame.index), "row"
    require(frame, (cluster,))
    empty = frame[cluster].isna().to_numpy()
    if empty.any():
        raise TableError(
            f"the cluster column {cluster!r} is empty in {empty.sum()} of {len(frame)} rows "
            f"({row_names(frame, empty)}); fill it, or leave these out with --where 'notna({cluster})'"
        )
    return frame[cluster], cluster


def _check_own(data: Points, **requested: str | None) -> None:
    """Raise TableError for a convention that is requested of Points and not theirs: they were made by one already."""
    for what, value in requested.items():
        if value not in (None, own := getattr(data, what)):
            raise TableError(f"{what}={value!r}: these Points are of {what}={own!r}; give their table in their place")


def _check_convention(what: str, value: str, allowed: dict[str, str]) -> None:
    if value not in allowed:
        raise TableError(f"--{what} {value}: not one of {', '.join(allowed)}{hint(value, allowed)}")
