"""The best mixture of experts that fits in memory: `isoflop predict TABLE --flops C --memory BYTES`.

Experts take memory and no compute: a token meets few of them. With C FLOPs and room for so many weights there is a best
number of experts, of parameters that a token meets, and of tokens (Ludziejewski et al. 2025, arXiv 2502.05172).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from isoflop.answer import Answer
from isoflop.arguments import POSITIVE, check
from isoflop.printable import loss_text
from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.findings.settings import table_findings
from isoflop.scaling.findings.units import unit_findings
from isoflop.scaling.fitting.fit import Fit, Huber
from isoflop.scaling.fitting.uncertainty import jackknife
from isoflop.scaling.laws import Laws, columns_read, get_law, law_names
from isoflop.scaling.laws.axes.experts import EXPERTS
from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.laws.law import Law, minimise_scalar
from isoflop.scaling.prediction.forecast import FAR, PredictError
from isoflop.scaling.selection.rolling_origins import fit_at
from isoflop.scaling.table.conventions import Points, points
from isoflop.scaling.table.formats.data_frame import as_frame
from isoflop.scaling.table.json_plain import plain
from isoflop.scaling.table.runs import is_runs

TOTAL = Column("n_params_total", "parameters")
COLUMNS = (EXPERTS, TOTAL)
BYTES = 2.0  # of a weight in bfloat16
MLP_SHARE = 2 / 3  # of a Transformer's weights are in its MLPs, where no column of total parameters says more
LEVEL = 0.9
FULL = 0.999  # of the memory: a run this near is bound by it


@dataclass(frozen=True, repr=False, eq=False)
class MemoryCap(Answer):
    """The best run of `flops` FLOPs whose weights fit into `memory` bytes, for every number of experts tried.

    `runs` has a row per number of experts: experts, n_params (those that a token meets), n_params_total, tokens, loss,
    and whether memory binds. `gain` is ln of the loss of the best run of the fewest experts over that of the best run,
    `interval` its jackknife interval at 90%. `open_ended` is the best run without a limit on memory.
    """

    law: str
    flops: float
    memory: float
    bytes_per_parameter: float
    runs: pd.DataFrame
    open_ended: dict[str, float]
    gain: float
    interval: tuple[float, float]
    points: Points
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def best(self) -> dict[str, Any]:
        """The row of the lowest loss."""
        return dict(self.runs.loc[self.runs["loss"].idxmin()])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, numbers in full precision."""
        return plain({
            "law": self.law, "flops": self.flops, "memory": self.memory,
            "bytes_per_parameter": self.bytes_per_parameter, "best": self.best, "runs": self.runs.to_dict("records"),
            "open_ended": self.open_ended, "gain": self.gain, "interval": list(self.interval), "level": LEVEL,
            "conventions": self.points.conventions, "findings": [f.to_dict() for f in self.findings],
            "notes": list(self.notes),
        })  # fmt: skip

    def __str__(self) -> str:
        most, best = self.memory / self.bytes_per_parameter, self.best
        lines = [
            f"best runs of {self.flops:.4g} FLOPs with weights in {self.memory:.4g} bytes ({most:.4g} parameters of "
            f"{self.bytes_per_parameter:g} bytes), by {self.law}",
            f"{'experts':>9} {'active':>10} {'total':>10} {'tokens':>10} {'loss':>8}",
        ]
        for row in self.runs.to_dict("records"):
            mark = "*" if row["experts"] == best["experts"] else " "
            lines.append(
                f"{mark}{row['experts']:>8g} {row['n_params']:>10.4g} {row['n_params_total']:>10.4g} "
                f"{row['tokens']:>10.4g} {loss_text(row['loss']):>8}" + "  memory binds" * row["binds"]
            )
        lower, lo, hi = -np.expm1([-self.gain, -self.interval[0], -self.interval[1]])
        if self.gain:
            lines.append(
                f"{best['experts']:g} experts lower the loss of {self.runs['experts'].iloc[0]:g} by {lower:.2%}, "
                f"{LEVEL:.0%} {lo:.2%} to {hi:.2%}"
            )
        free = self.open_ended
        lines.append(
            f"without a limit: {free['experts']:g} experts, {free['n_params']:.4g} active of "
            f"{free['n_params_total']:.4g} parameters, loss {loss_text(free['loss'])}"
        )
        return "\n".join([*lines, *map(str, self.findings), *(f"note: {note}" for note in self.notes)])


def predict_memory(
    table: pd.DataFrame,
    flops: float,
    memory: float,
    *,
    bytes_per_parameter: float = BYTES,
    laws: Laws = (),
    params: str = "active",
    compute: str = "exact",
) -> MemoryCap:
    """The best mixture of experts that `flops` train and whose weights fit into `memory` bytes.

    The law is the first of `laws` that reads experts; without any, experts-joint where the table has runs of several
    numbers of tokens, else experts-floor at the tokens of the table. No more experts are considered than a run has.
    Raises ValueError for amounts that mean nothing and conventions that count experts which a token does not meet,
    PredictError where nothing fits.

    >>> import isoflop, itertools, pandas as pd
    >>> true = isoflop.laws.LAWS["experts-joint"](1.4, 40, 40, 0.19, 0.18, -0.2, 0.1, 0.005, -0.005)
    >>> grid = itertools.product((1e7, 3e7, 1e8, 3e8), (1e9, 4e9, 16e9), (1, 2, 4, 8))
    >>> runs = pd.DataFrame(grid, columns=["n_params", "tokens", "experts"])
    >>> runs["loss"] = true(runs["n_params"], runs["tokens"], runs["experts"])
    >>> found = isoflop.predict_memory(runs, flops=1e20, memory=4e9)
    >>> float(found.best["experts"]), bool(found.best["n_params_total"] <= 2e9 * 1.001)
    (8.0, True)
    """
    check(POSITIVE, flops=flops, memory=memory, bytes_per_parameter=bytes_per_parameter)
    table = as_frame(table)
    if is_runs(table) and params != "active":
        raise ValueError(
            f"--memory tells parameters that a token meets from those in memory: --params active, not {params}"
        )
    if EXPERTS.name in table and pd.to_numeric(table[EXPERTS.name], errors="coerce").fillna(0).le(0).all():
        raise ValueError(
            f"{table.attrs.get('source', 'table')}: {EXPERTS.name} is 0 in every row, as of dense models; how many "
            "experts fit into a memory takes runs of several numbers of them"
        )
    # A plain table has one count of parameters, which is taken for the active ones.
    convention = params if is_runs(table) else "matrices"
    data = points(table, params=convention, compute=compute, inputs=COLUMNS)
    if EXPERTS.name in data.lacking:
        raise ValueError(data.lacking[EXPERTS.name])
    as_given, data = data, data.in_order()
    name, tokens, notes = _law(data, law_names(laws) if laws else ())
    base, each, of_weights = _weights(data)
    notes += of_weights
    tried, most = _tried(data.frame[EXPERTS.name].to_numpy(float)), memory / bytes_per_parameter
    tried = tried[most > base + each * (tried - 1)]  # at least one active parameter fits
    if not len(tried):
        raise PredictError(f"--memory {memory:g}: it holds {most:.3g} parameters, no model")
    fitted = fit_at(name, data, Huber("auto"))
    rows = [_best(fitted, flops, m, tokens, most / (base + each * (m - 1))) for m in tried]
    free = [_best(fitted, flops, m, tokens, np.inf) for m in tried]
    runs, unbound = (pd.DataFrame(found).assign(experts=tried) for found in (rows, free))
    for frame in (runs, unbound):
        frame["n_params_total"] = frame["n_params"] * (base + each * (frame["experts"] - 1))
    runs["binds"] = runs["n_params_total"] > FULL * most
    best, first = (runs.iloc[int(i)] for i in (np.argmin(runs["loss"].to_numpy()), 0))

    def gain(law: Law) -> float:
        return float(np.log(_loss(law, first) / _loss(law, best)))

    same = best["experts"] == first["experts"]
    interval = (0.0, 0.0) if same else jackknife(fitted).interval(gain, LEVEL, positive=False)
    found = (*unit_findings(data), *table_findings(table, as_given, columns_read([name])))
    return MemoryCap(
        law=name, flops=flops, memory=memory, bytes_per_parameter=bytes_per_parameter,
        runs=runs[["experts", "n_params", "n_params_total", "tokens", "loss", "binds"]],
        open_ended=dict(unbound.loc[unbound["loss"].idxmin()]), gain=gain(fitted.law), interval=interval,
        points=data, findings=(*found, *_findings(data, flops, runs)), notes=(*data.notes, *notes),
    )  # fmt: skip


def _law(data: Points, laws: Sequence[str]) -> tuple[str, float | None, list[str]]:
    """The law, the tokens of a run where it reads none, and what to say of them."""
    reading = [name for name in laws if EXPERTS in columns_read([name])]
    if laws and not reading:
        raise ValueError(f"--memory needs a law of experts: none of {', '.join(laws)} reads the column experts")
    known = data.frame["tokens"].dropna()
    if not len(known) or data.frame["flops"].isna().any():
        raise PredictError("--memory spends FLOPs on parameters and tokens: the table lacks tokens")
    name = reading[0] if reading else "experts-joint" if known.nunique() > 1 else "experts-floor"
    if "D" in get_law(name)[0].inputs:
        return name, None, []
    tokens = float(known.median())
    return name, tokens, [f"{name} reads no tokens: every run is given {tokens:.4g} of them, as those of the table"]


def _weights(data: Points) -> tuple[float, float, list[str]]:
    """All weights of a model of one expert, and those of a further one, over its active weights; what to say."""
    frame = data.frame
    if TOTAL.name not in frame:
        note = f"no column {TOTAL.name}: a further expert is taken to add {MLP_SHARE:.3g} of the active parameters"
        return 1.0, MLP_SHARE, [note]
    largest = frame[frame["n_params"] > 0.5 * frame["n_params"].max()]
    ratio = (largest[TOTAL.name] / largest["n_params"]).to_numpy(float)
    more = largest[EXPERTS.name].to_numpy(float) - 1
    if not np.ptp(more):
        raise PredictError("--memory: the largest models of the table have one number of experts: add others")
    each, base = np.polyfit(more, ratio, 1)
    note = (
        f"weights are {base:.3g} times the active ones with one expert, and {each:.3g} times more with each further "
        f"expert, as in the largest models of the table"
    )
    return float(base), float(each), [note]


def _tried(experts: np.ndarray) -> np.ndarray:
    """Numbers of experts to choose from: those of the runs, and the doubles of the fewest between them."""
    fewest, most = experts.min(), experts.max()
    doubles = fewest * 2.0 ** np.arange(int(np.log2(most / fewest)) + 1)
    return np.unique(np.concatenate([experts, doubles]))


def _best(fitted: Fit, flops: float, experts: float, tokens: float | None, most: float) -> dict[str, float]:
    """The run of the lowest loss with at most so many active parameters."""
    law, cost = fitted.law, fitted.cost
    if tokens is not None:
        n = min(float(cost.size(flops, tokens=tokens)), most)
        return {"n_params": n, "tokens": tokens, "loss": float(law(n, experts))}

    def loss(log_n: Any) -> Any:
        return law(np.exp(log_n), cost.tokens(flops, np.exp(log_n)), experts)

    highest = float(np.log(min(most, flops)))
    inner = float(minimise_scalar(loss, np.array(0.0), np.array(highest)))
    log_n = min(0.0, highest, key=loss) if np.isnan(inner) else inner
    n = float(np.exp(log_n))
    return {"n_params": n, "tokens": float(cost.tokens(flops, n)), "loss": float(loss(log_n))}


def _loss(law: Law, run: pd.Series) -> float:
    columns = {"N": run["n_params"], "D": run["tokens"], "M": run["experts"], "E": run["experts"]}
    return float(law(*(columns[symbol] for symbol in law.inputs)))


def _findings(data: Points, flops: float, runs: pd.DataFrame) -> list[Finding]:
    found, reach = [], flops / float(data.frame["flops"].max())
    if reach > FAR:
        found.append(
            Finding(
                "extrapolates", "warn", f"{flops:.4g} FLOPs are {reach:.3g} times the largest run of the table",
                "trust the interval, not the point: add larger runs",
            )
        )  # fmt: skip
    if len(runs) > 1 and runs["loss"].idxmin() == len(runs) - 1:
        found.append(
            Finding(
                "experts_at_edge", "info",
                f"{runs['experts'].iloc[-1]:g} experts, the most of the table, are the best: more may be better",
                "train models of more experts",
            )
        )  # fmt: skip
    return found
