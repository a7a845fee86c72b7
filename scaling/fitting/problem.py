"""`FitProblem`: a form on data, as residuals in the coordinates that the solver moves in; `fit_problem` makes one.

Columns are centred (divided by their geometric means) where the form allows a change of unit, amplitudes enter as
logarithms, the floor linearly with its bound at 0. Parameters that are fixed or tied leave the coordinates.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from isoflop.scaling.fitting.objective import Objective
from isoflop.scaling.laws import columns_read, get_law, law_names
from isoflop.scaling.laws.law import AMPLITUDE, FLOOR, Array, Law
from isoflop.scaling.table.conventions import Points
from isoflop.scaling.table.curves import CURVES
from isoflop.scaling.table.law_inputs import input_values

ABOVE = 10.0  # times the highest loss: how high an amplitude may be
DIFFERENCE = 1e-5  # step of the differences that stand in for a curvature the form does not give


class FitError(ValueError):
    """The data determine no law of this form."""

    exit_code = 1


@dataclass(frozen=True)
class FitProblem:
    """Residuals of `form` on columns (each (n,), in the units of the data) and losses (n,).

    The column of a vector is (k, n), its components.

    `pinned` maps fixed parameters to their values; `tied` makes the two exponents of `form.ties` one. `log` chooses
    residuals of ln loss, otherwise of loss.
    """

    form: type[Law]
    columns: Mapping[str, Array]
    loss: Array
    pinned: Mapping[str, float]
    tied: bool = False
    log: bool = True

    @cached_property
    def units(self) -> dict[str, float]:
        """Geometric mean of each column whose unit the form can change; empty while an amplitude is fixed."""
        if any(self.form.box[name].log and name in self.form.amplitudes for name in self.pinned):
            return {}
        units = {k: float(np.exp(np.mean(np.log(self.columns[k])))) for k in self.form.scales}
        if "U" in self.columns and "D" in units:  # unique tokens are tokens: one unit for both
            units["U"] = units["D"]
        return units

    @cached_property
    def x(self) -> dict[str, Array]:
        """The columns as the form's `evaluate` takes them: logarithms (n,) in those units, or as they are."""
        logs = {k for k, read in self.form.reads().items() if read.transform == "log"}
        return {k: np.log(v / self.units.get(k, 1.0)) if k in logs else v for k, v in self.columns.items()}

    @cached_property
    def log_loss(self) -> Array:
        """ln of the losses (n,)."""
        return np.log(self.loss)

    @cached_property
    def follower(self) -> str | None:
        """The exponent that takes its partner's value in a tied fit."""
        return self.form.ties[1] if self.tied and self.form.ties else None

    @cached_property
    def free(self) -> tuple[str, ...]:
        """Names of the coordinates, one per free parameter."""
        return tuple(p for p in self.form.parameters() if p not in self.pinned and p != self.follower)

    @cached_property
    def index(self) -> Array:
        """Positions (P,) of the free parameters among all of the form's."""
        names = self.form.parameters()
        return np.array([names.index(p) for p in self.free])

    @cached_property
    def base(self) -> Array:
        """Internal coordinates (P',) of every parameter: the fixed ones at their values, the others at 1."""
        values = np.array([self.pinned.get(p, 1.0) for p in self.form.parameters()])
        return self.form.encode(values)

    @cached_property
    def box(self) -> tuple[Array, Array]:
        """Lower and upper bounds (P,) of the coordinates; floors and amplitudes may be as high as the losses."""
        lower, upper = self.form.limits()
        most = float(self.loss.max())
        for j, name in enumerate(self.form.parameters()):
            if self.form.box[name] == FLOOR:
                upper[j] = max(upper[j], most)
            elif self.form.box[name] == AMPLITUDE:
                upper[j] = max(upper[j], np.log(ABOVE * most))
        return lower[self.index], upper[self.index]

    @property
    def lower(self) -> Array:
        """Lower bounds (P,) of the coordinates."""
        return self.box[0]

    @property
    def upper(self) -> Array:
        """Upper bounds (P,) of the coordinates."""
        return self.box[1]

    @cached_property
    def one_basin(self) -> bool:
        """Whether no scattered starts are needed."""
        return self.form.one_basin(self.pinned)

    @cached_property
    def _plain(self) -> slice | None:
        """The free parameters as a slice of all, where they come first and none is tied: cheaper to gather."""
        plain = self.follower is None and np.array_equal(self.index, np.arange(len(self.index)))
        return slice(0, len(self.index)) if plain else None

    @cached_property
    def _tie(self) -> tuple[int, int, int]:
        """Positions of the tied pair: follower and leader among all parameters, leader among the free ones."""
        assert self.form.ties is not None
        names = self.form.parameters()
        leader, follower = self.form.ties
        return names.index(follower), names.index(leader), self.free.index(leader)

    def expand(self, theta: Array) -> Array:
        """Coordinates (B, P) to every parameter of the form, internal (B, P')."""
        if self._plain is not None and len(self.base) == theta.shape[1]:
            return theta
        full = np.empty((len(theta), len(self.base)))
        full[:] = self.base
        full[:, self.index if self._plain is None else self._plain] = theta
        if self.follower is not None:
            follower, leader, _ = self._tie
            full[:, follower] = full[:, leader]
        return full

    def reduce(self, full: Array) -> Array:
        """Internal parameters (B, P') to coordinates."""
        return full[:, self.index]

    def gathered(self, full: Array) -> Array:
        """Derivatives in every parameter (B, P', ...) to derivatives in the coordinates (B, P, ...)."""
        if self._plain is not None:
            return full if len(self.index) == full.shape[1] else full[:, self._plain]
        gathered = full[:, self.index]
        if self.follower is not None:
            follower, _, position = self._tie
            gathered[:, position] += full[:, follower]
        return gathered

    def residuals(self, theta: Array) -> tuple[Array, Array, Array]:
        """Residuals (B, n) at coordinates theta (B, P), their gradient (B, P, n), and the one in all parameters.

        The last is (B, P', n). A residual is ln predicted - ln loss, or predicted - loss without `log`.
        """
        loss, full = self.form.evaluate(self.expand(theta), self.x)
        if self.log:
            residual = np.log(loss) - self.log_loss
            full /= loss[:, None]
        else:
            residual = loss - self.loss
        return residual, self.gathered(full), full

    def curvature(self, theta: Array, full: Array, weight: Array) -> Array:
        """Sum of weight times the second derivative of the loss (relative to it when `log`), (B, P, P).

        By the form's own formula where it has one, else by differences of the Jacobian. `full` (B, P', n) is the
        gradient in every parameter that `residuals` gave, `weight` is (B, n).
        """
        second = self.form.curvature(self.expand(theta), self.x, full, weight)
        if second is not None:
            return self.gathered(self.gathered(second).swapaxes(1, 2)).swapaxes(1, 2)
        count = theta.shape[1]
        shift = DIFFERENCE * np.eye(count)
        both = np.concatenate([theta[:, None] + shift, theta[:, None] - shift], axis=1).reshape(-1, count)
        _, jacobian = self.form.evaluate(self.expand(both), self.x)
        jacobian = jacobian.reshape(len(theta), 2, count, *full.shape[1:])
        change = (jacobian[:, 0] - jacobian[:, 1]) / (2 * DIFFERENCE)
        if self.log:
            loss, _ = self.form.evaluate(self.expand(theta), self.x)
            weight = weight / loss
        rows = self.gathered(np.einsum("bkpn,bn->bpk", change, weight)).swapaxes(1, 2)
        return 0.5 * (rows + rows.swapaxes(1, 2))

    @cached_property
    def alike(self) -> Hashable:
        """Equal for problems that `beside` makes one of; None where the form is not worked out side by side."""
        if not self.form.side_by_side:
            return None
        how = (self.form.evaluate.__func__, self.form.curvature.__func__)  # type: ignore[attr-defined]
        return (how, len(self.loss), tuple(sorted(self.pinned.items())), self.tied, self.log)

    def beside(self, problems: Sequence["FitProblem"], counts: Sequence[int]) -> "FitProblem":
        """Problems that are `alike`, this one the first, as one in which so many rows of theta are of each in turn."""

        def rows(arrays: Iterable[Array]) -> Array:
            return np.repeat(np.stack(list(arrays)), counts, axis=0)

        x = {own: rows(p.x[p.form.inputs[k]] for p in problems) for k, own in enumerate(self.form.inputs)}
        return self._on_rows(x, rows(p.loss for p in problems), rows(p.log_loss for p in problems))

    def take(self, keep: Array) -> "FitProblem":
        """Of problems side by side those whose rows of theta are kept."""
        return self._on_rows({k: v[keep] for k, v in self.x.items()}, self.loss[keep], self.log_loss[keep])

    def _on_rows(self, x: dict[str, Array], loss: Array, log_loss: Array) -> "FitProblem":
        some = FitProblem(self.form, {}, loss, self.pinned, self.tied, self.log)
        known = {"x": x, "log_loss": log_loss, "base": self.base, "index": self.index, "_plain": self._plain}
        some.__dict__.update(known)
        return some

    def laws(self, theta: Array) -> list[Law]:
        """The law at every row of coordinates, in the units of the data."""
        return [self.form(*row) for row in self.values(theta).tolist()]

    def values(self, theta: Array) -> Array:
        """The parameters (B, P') of the law at every row of coordinates, in the units of the data."""
        moved = self.family(theta).values()
        return np.broadcast_to(moved.T, (len(np.atleast_2d(theta)), len(moved)))

    def family(self, theta: Array) -> Law:
        """The laws at all rows of coordinates as one whose parameters are arrays (B,), in the units of the data."""
        values = self.form.decode(self.expand(np.atleast_2d(theta)))
        return self.form(*values.T).rescaled({k: 1.0 / unit for k, unit in self.units.items()})

    def coordinates(self, law: Law) -> Array:
        """Coordinates (P,) of a law given in the units of the data."""
        return self.reduce(self.form.encode(law.rescaled(self.units).values())[None])[0]

    def on_rows(self, keep: Array) -> "FitProblem":
        """The same problem on some of the rows, in the same units."""
        part = FitProblem(
            self.form,
            {k: v[..., keep] for k, v in self.columns.items()},
            self.loss[keep],
            self.pinned,
            self.tied,
            self.log,
        )
        part.__dict__["units"] = self.units
        return part


def fit_problem(
    form: type[Law] | str,
    data: Points,
    weights: Array,
    objective: Objective,
    fixed: Mapping[str, float],
    tied: bool,
    free: tuple[str, ...],
) -> FitProblem:
    """What is to be fitted: a form, or the name of one, on points.

    Raises FitError where the data cannot determine it, ValueError on a wrong name.
    """
    name = form if isinstance(form, str) and ":" not in form else ""
    if isinstance(form, str):
        form, preset = get_law(form)
        free, tied, fixed = (*preset.free, *free), preset.tied or tied, {**preset.fixed, **fixed}
    pinned = _pinned(form, {**_ceiling(form, data.frame, free), **fixed}, free, tied)
    columns = law_inputs(form, data.frame, data.lacking, name)
    loss = data.frame["loss"].to_numpy(float)
    problem = FitProblem(form, columns, loss, pinned, tied, objective.residual == "log")
    _check_enough(problem, weights, data.notes)
    return problem


def law_inputs(
    form: type[Law], frame: pd.DataFrame, lacking: Mapping[str, str] | None = None, name: str = ""
) -> dict[str, Array]:
    """The columns (n,) that a form reads, by symbol; of a vector its components (k, n).

    Raises FitError naming one that is not in every row, with what `lacking` says of it, and the law by the `name` that
    it was requested.
    """
    columns = {}
    for symbol, read in form.reads().items():
        values = input_values(frame, read)
        if values is None:
            why = (lacking or {}).get(read.name, "add it or choose another law")
            raise FitError(f"law {name or form.name} needs the column {read.name!r} in every row; {why}")
        columns[symbol] = values
    return columns


def _pinned(form: type[Law], fixed: Mapping[str, float], free: tuple[str, ...], tied: bool) -> dict[str, float]:
    names = form.parameters()
    for option, name in (*(("--fix", name) for name in fixed), *(("free:", name) for name in free)):
        if name not in names:
            raise ValueError(f"{option} {name}: {form.name} has no parameter {name!r}; it has {', '.join(names)}")
    if tied and form.ties is None:
        raise ValueError(f"{form.name} has no exponents to tie")
    if tied and form.ties and set(form.ties) & set(fixed):
        raise ValueError(f"--fix: {' and '.join(form.ties)} are tied: neither can be fixed as well")
    for name, partner in form.coupled.items():
        if name in fixed and partner not in fixed:
            raise ValueError(f"--fix {name}: {form.name}'s {name} can be fixed only together with {partner}")
    for name, value in fixed.items():
        low = form.box[name].lo
        if not (math.isfinite(value) and (low < 0 or value > 0 or value == low == 0)):
            least = "" if low < 0 else " of at least 0" if low == 0 else " above 0"
            raise ValueError(f"--fix {name}={value:g}: {form.name} needs a finite {name}{least}")
    pinned = {p: v for p, v in form.defaults().items() if p not in free}
    if not set(names) - {*pinned, *fixed}:
        raise ValueError(f"--fix: every parameter of {form.name} is fixed ({', '.join(names)}): leave one free to fit")
    return pinned | {p: float(v) for p, v in fixed.items()}


def _ceiling(form: type[Law], frame: pd.DataFrame, free: tuple[str, ...]) -> dict[str, float]:
    """The form's ceiling, where it has one, at ln of the table's vocabulary: the loss of a uniform guess."""
    if form.ceiling_name is None or form.ceiling_name in free or "vocab_size" not in frame:
        return {}
    sizes = frame["vocab_size"].unique()
    return {form.ceiling_name: float(np.log(sizes[0]))} if len(sizes) == 1 and sizes[0] > 1 else {}


def _check_enough(problem: FitProblem, weights: Array, notes: Sequence[str]) -> None:
    used, needed = int(np.sum(weights > 0)), len(problem.free)
    if used < needed:
        curves = next((note for note in notes if CURVES in note), "")
        apart = f" ({curves}; rows that are runs of their own need a column run_id, with a name for each)"
        raise FitError(
            f"{used} data points cannot determine the {needed} free parameters of {problem.form.name} "
            f"({', '.join(problem.free)}): add runs or fix parameters{apart if curves else ''}"
        )
    if len(problem.loss) > 1 and np.ptp(problem.loss) == 0 and needed > 1:
        raise FitError(f"every data point has the same loss ({problem.loss[0]:g}): there is nothing to fit")
    for letter, read in problem.form.reads().items():
        column = problem.columns[letter]
        if letter != "U" and not np.ptp(column, axis=-1).any() and needed > 1:
            value = " ".join(f"{v:g}" for v in np.atleast_2d(column)[:, 0])
            why = f"every data point has the same {read.name} ({value}): {problem.form.name} needs it to vary"
            raise FitError(why + _of_rest(problem))


def _of_rest(problem: FitProblem) -> str:
    """The law of the inputs that do vary, as a message proposes it; empty where there is none."""
    columns = problem.columns
    rest = {read.name for k, read in problem.form.reads().items() if np.ptp(columns[k], axis=-1).any()}
    laws = [name for name in law_names() if rest and {column.name for column in columns_read([name])} == rest]
    return f"; a law of {' and '.join(sorted(rest))} alone fits these runs (--law {laws[0]})" if laws else ""
