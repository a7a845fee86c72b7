"""What one table supports: every fit, interval and test behind the report, each computed once, when first used.

A part that the table cannot support raises UnsupportedError with the reason, each time it is used.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from isoflop.analysis.background import BackgroundCall
from isoflop.analysis.style import LEVEL
from isoflop.scaling.approaches.approaches import Approaches, approaches
from isoflop.scaling.approaches.envelope import Envelope, envelope
from isoflop.scaling.approaches.isoflop_profiles import IsoflopProfile, isoflop_profiles
from isoflop.scaling.findings.diagnose import Finding, diagnose, diagnose_approaches, refused
from isoflop.scaling.findings.finding import Case
from isoflop.scaling.findings.fit_checks import conditioning
from isoflop.scaling.findings.sensitivity import exponent_sensitivity
from isoflop.scaling.findings.settings import setting_findings
from isoflop.scaling.findings.verdict import CONVENTIONS
from isoflop.scaling.fitting.draws import Draws
from isoflop.scaling.fitting.fit import Fit, Huber, fit, search_for_fits
from isoflop.scaling.fitting.objective import Objective
from isoflop.scaling.fitting.uncertainty import bootstrap, jackknife, jackknife_together
from isoflop.scaling.laws import PRESETS, columns_read, get_law, law_name
from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.mixtures.table import FEWEST_DOMAINS, domains_in
from isoflop.scaling.prediction.curves.bands import curve_bands
from isoflop.scaling.prediction.curves.collapse import collapse_findings, collapses
from isoflop.scaling.selection.holdout import HoldOut, hold_out
from isoflop.scaling.selection.preference import candidates
from isoflop.scaling.selection.scoreboard import Scoreboard, compare
from isoflop.scaling.table.conventions import COMPUTE, PARAMS, Points, points
from isoflop.scaling.table.formats.data_frame import as_frame
from isoflop.scaling.table.meaning import NATS_PER_TOKEN
from isoflop.scaling.table.runs import final_rows, is_runs, replicate_columns
from isoflop.scaling.table.schedules.read_curves import CurveTable, read_curves
from isoflop.scaling.table.studies.listing import without_held_out

if TYPE_CHECKING:  # loaded for a table with arms or mixtures
    from isoflop.scaling.arms.multiplier import Multipliers
    from isoflop.scaling.gate.gate import Gate
    from isoflop.scaling.mixtures.mix import Mix

FALLBACK = "chinchilla"
BEGUN = "scoreboard in the background"  # where `done` keeps its process
WORTH_A_PROCESS = 150  # points: below, a process takes longer to start than the scoreboard takes
HELD_OUT_SIZES = 3  # a budget with fewer sizes has no optimum to predict
MOST_LOST = 0.05


class UnsupportedError(ValueError):
    """The table cannot support this part; the message says why."""

    exit_code = 1


class part:  # noqa: N801 (a decorator)
    """A property computed once. Its error is kept as well, as UnsupportedError, whatever raised it."""

    def __init__(self, compute: Callable[[Any], Any]):
        self.compute, self.__doc__ = compute, compute.__doc__

    def __get__(self, owner: Any, _: type) -> Any:
        if owner is None:
            return self
        name = self.compute.__name__
        if name not in owner.done:
            try:
                owner.done[name] = self.compute(owner)
            except Exception as error:  # a failing fit must not stop the report: it becomes a line in it
                owner.done[name] = error if isinstance(error, UnsupportedError) else UnsupportedError(reason(error))
        if isinstance(owner.done[name], UnsupportedError):
            raise owner.done[name]
        return owner.done[name]


def reason(error: Exception) -> str:
    """One line; the type is named where the message was not written for a user. A KeyError names an absent column."""
    if isinstance(error, KeyError):
        return f"the table has no column {error}"
    first = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
    return first if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {first}"


def _ends(table: pd.DataFrame) -> pd.DataFrame:
    """The last row of each run, the final one if it finished; any other table as it is."""
    if not is_runs(table):
        return table
    finished = (table["final"] & (table["state"] == "done")).to_numpy()
    others = ~table["run_id"].isin(table.loc[finished, "run_id"])
    last = others & ~table["run_id"].duplicated(keep="last")
    return table[finished | last].reset_index(drop=True)


@dataclass(frozen=True, eq=False)
class Evidence:
    """A table, the conventions it is read by, and the law; None: the one that the scoreboard prefers.

    `runs` are those whose curves are drawn beside one another, all by default; `against` is their axis. `done` holds
    what has been found: another table, law or convention takes another Evidence (`dataclasses.replace`).
    """

    table: pd.DataFrame
    law: str | None = None
    params: str = "matrices"
    compute: str = "exact"
    objective: Objective = field(default_factory=lambda: Huber("auto"))
    n_draws: int = 1000
    seed: int = 0
    runs: tuple[str, ...] = ()
    against: str = "flops"
    done: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _whole: pd.DataFrame = field(init=False, repr=False)  # with the runs at the budgets of study.hold_out

    def __post_init__(self) -> None:
        """Raise ValueError for a name that no table could make right."""
        object.__setattr__(self, "_whole", as_frame(self.table))
        object.__setattr__(self, "table", without_held_out(self._whole))
        if self.law is not None:
            object.__setattr__(self, "law", law_name(self.law))
            get_law(self.law)
        for what, value, known in (("params", self.params, PARAMS), ("compute", self.compute, COMPUTE)):
            if value not in known:
                raise ValueError(f"--{what} {value}: not one of {', '.join(known)}")

    @part
    def ends(self) -> pd.DataFrame:
        """The table without the evaluations along the way."""
        return _ends(self.table)

    @part
    def points(self) -> Points:
        """The data points under the conventions chosen."""
        return points(self.ends, params=self.params, compute=self.compute, inputs=self._inputs())

    @property
    def notes(self) -> tuple[str, ...]:
        """What was renamed, assumed and left out, from the file to the points."""
        try:
            return self.points.notes
        except ValueError:
            return tuple(self.table.attrs.get("notes", ()))

    def _inputs(self) -> tuple[Column, ...]:
        return columns_read([self.law]) if self.law else ()

    @property
    def loss_unit(self) -> str:
        """The unit of the loss, for every axis and sentence."""
        try:
            return self.points.loss_unit
        except UnsupportedError:
            return str(self.table.attrs.get("loss_unit", NATS_PER_TOKEN))

    @part
    def profiles(self) -> Sequence[IsoflopProfile]:
        """Budgets with enough sizes to have a minimum."""
        found = [p for p in isoflop_profiles(self.points) if p.frame["n_params"].nunique() >= HELD_OUT_SIZES]
        if not found:
            raise UnsupportedError(f"no compute budget with {HELD_OUT_SIZES} sizes: an isoFLOP profile needs them")
        return found

    @part
    def curves(self) -> CurveTable:
        """The runs with the rates along them, as a law of whole curves reads them."""
        return read_curves(self.table, params=self.params)

    @part
    def envelope(self) -> Envelope:
        """The lower envelope of the training curves: that of the approaches, where they have been requested."""
        known = self.done.get("approaches")
        if isinstance(known, Approaches) and known.envelope is not None:
            return known.envelope
        return envelope(self.table, params=self.params, compute=self.compute)

    @part
    def approaches(self) -> Approaches:
        """Approaches 1, 2 and 3 side by side."""
        return approaches(self.table, params=self.params, compute=self.compute, objective=self.objective)

    @part
    def held_out(self) -> HoldOut:
        """Every candidate law fitted without the largest compute and tested on it, or on the budgets above all others
        that study.hold_out names."""
        data, threshold = self.points, None
        if self._whole is not self.table:
            ends = _ends(self._whole)
            kept, above = ends["run_id"].isin(self.ends["run_id"]), ends["flops"] > self.ends["flops"].max()
            if above.any():
                threshold = float(data.frame["flops"].max())
                data = points(ends[kept | above], params=self.params, compute=self.compute, inputs=self._inputs())
        return hold_out(data, threshold, self._laws(), objective=self.objective)

    @part
    def scoreboard(self) -> Scoreboard:
        """The candidates at rolling origins, with a baseline and the forecast average."""
        begun = self.done.get(BEGUN)
        return begun.value if begun else compare(self.points, **self._scored())

    def begin(self) -> None:
        """Set out on the scoreboard in a process of its own, where that pays: only the law's name waits for it.

        A law of the user's own is known to this process alone.
        """
        with suppress(UnsupportedError):
            if len(self.points) >= WORTH_A_PROCESS and all(name in PRESETS for name in self._laws()):
                self.done[BEGUN] = BackgroundCall(
                    "isoflop.scaling.selection.scoreboard", "compare", self.points, **self._scored()
                )

    def _scored(self) -> dict[str, Any]:
        return {"laws": self._laws(), "objective": self.objective, "findings": False}

    @part
    def unread(self) -> tuple[Finding, ...]:
        """What tells losses of one size and tokens apart, and no candidate reads; arms are compared elsewhere."""
        if "arm" in self.ends and self.ends["arm"].nunique() > 1:
            return ()
        return setting_findings(self.ends, self.points)

    def _laws(self) -> tuple[str, ...]:
        """The candidates, unless losses follow what none of them reads, and the law requested."""
        laws = tuple(dict.fromkeys([*(() if self.unread else candidates(self.points)), *filter(None, [self.law])]))
        if not laws:
            raise UnsupportedError(
                f"{self.unread[0].message}; report one of them (--where), or name a law that reads them (--law)"
            )
        return laws

    @part
    def law_name(self) -> str:
        """The law requested, else the one that the scoreboard prefers, else FALLBACK."""
        if self.law:
            return self.law
        try:
            return self.scoreboard.preferred
        except UnsupportedError:
            return FALLBACK

    @property
    def law_was_read(self) -> bool:
        """Whether what was taken from the evidence so far depends on which law it is."""
        return any(key in ("law_name", "scoreboard", "held_out") or key.startswith("fit of ") for key in self.done)

    def fit_of(self, law: str, data: Points | None = None) -> Fit:
        """A candidate or catalogue law fitted once to all points, or to `data`: the same under another convention."""
        data = self.points if data is None else data
        key = f"fit of {law} to {id(data)}"  # of these points, which are kept with it
        if key not in self.done:
            self.done[key] = data, fit(law, data, objective=self.objective)
        return self.done[key][1]

    @part
    def conventions_known(self) -> list[Points]:
        """The data points under every convention that this table can be read by, the one chosen first."""
        choices = CONVENTIONS if is_runs(self.table) else (("matrices", "exact"), ("matrices", "6nd"))
        known = [self.points]
        for params, compute in choices:
            data = points(self.ends, params=params, compute=compute, inputs=self._inputs())
            if all((data.params, data.compute) != (k.params, k.compute) for k in known):
                known.append(data)
        return known

    @part
    def fit(self) -> Fit:
        """The law of the report, fitted to all points."""
        return self.fit_of(self.law_name)

    @part
    def draws(self) -> Draws:
        """Its jackknife: behind every interval and band."""
        return jackknife(self.fit)

    @part
    def identified(self) -> Draws:
        """The same where its refits know the parameters: behind the calculator."""
        if "alpha" in refused(self.findings):
            raise UnsupportedError("size and tokens were not varied apart (collinear): no refit knows the exponents")
        lost = 1 - self.draws.share_converged
        if lost > MOST_LOST:
            raise UnsupportedError(
                f"{lost:.0%} of the leave-one-out refits did not converge: the parameters are not identified, "
                "and resampling would add nothing"
            )
        return self.draws

    @part
    def resamples(self) -> Draws:
        """Its cluster bootstrap: the cross-check, and the joint region of the exponents."""
        if not self.n_draws:
            raise UnsupportedError("--bootstrap 0 leaves no draws to show")
        return bootstrap(self.identified.fit, self.n_draws, seed=self.seed)

    @part
    def findings(self) -> list[Finding]:
        """What a reviewer would object to, worst first."""
        found = [*diagnose(self.fit, self.draws, self.ends), *self._of_curves()]
        try:
            return [*found, *(f for f in diagnose_approaches(self.approaches) if f not in found)]
        except UnsupportedError:
            return found

    def _of_curves(self) -> list[Finding]:
        """What the whole curves of the table say of its hyper-parameters; nothing where it has none with rates."""
        if is_runs(self.table) and self.table["final"].all():
            return []
        try:
            return collapse_findings(collapses(self.curves.runs))
        except ValueError:
            return []

    @part
    def optimum(self) -> Fit:
        """The fit, where its data determine how to split compute between size and tokens."""
        if why := self.no_optimum(self.fit):
            raise UnsupportedError(why)
        return self.fit

    @staticmethod
    def no_optimum(of: Fit) -> str:
        """Why a fit does not say how to split compute; "" where it does."""
        if "a" in refused(conditioning(Case(of, None, None, None, LEVEL))):
            return "size and tokens were not varied apart (collinear): these runs have no optimal split"
        lost = [p for p in of.bounds_hit if p != of.law.floor_name]
        if lost or not of.converged:
            what = f"{', '.join(lost)} at the bound of the search box" if lost else of.message
            return f"the fit has no optimum ({what})"
        return ""

    @part
    def candidates(self) -> pd.DataFrame:
        """Every candidate law fitted to all points: parameters, exponent a, their 90% intervals, noise."""
        rows = [row for law in self._laws() if (row := self.candidate(law)) is not None]
        if not rows:
            raise UnsupportedError(f"no law can be fitted to these {len(self.points)} points")
        return pd.DataFrame(rows)

    def candidate(self, law: str) -> dict | None:
        """A law fitted to all points as a row of `candidates`; None where it or its jackknife cannot be made."""
        try:
            fitted = self.fit_of(law)
            draws = jackknife(fitted)
        except ValueError:
            return None
        row: dict[str, Any] = {
            "law": law,
            "status": fitted.status,
            "noise": fitted.noise,
            "at_bound": fitted.bounds_hit,
            "no_optimum": self.no_optimum(fitted),
        }
        for name in (*fitted.law.parameters(), *fitted.exponents()):
            row[name] = float(draws.estimate(name))
            row[f"{name}_low"], row[f"{name}_high"] = draws.interval(name)
        return row | {"free": fitted.free}

    @part
    def conventions(self) -> pd.DataFrame:
        """The exponents a and b of the law refitted under each way to count parameters and compute."""
        exponents = self.optimum.exponents()
        if "a" not in exponents:
            raise UnsupportedError(f"{self.law_name} has no exponent a")
        rows = []
        search_for_fits(((self.law_name, data) for data in self.conventions_known), self.objective)
        fits = [self.fit_of(self.law_name, data) for data in self.conventions_known]
        jackknife_together(fits)
        for data, fitted in zip(self.conventions_known, fits, strict=True):
            draws = jackknife(fitted)
            row: dict[str, Any] = {"params": data.params, "compute": data.compute}
            for name in ("a", "b"):
                row[name] = fitted.exponents()[name]
                row[f"{name}_low"], row[f"{name}_high"] = draws.interval(name)
            rows.append(row)
        return pd.DataFrame(rows)

    @part
    def sensitivity(self) -> pd.DataFrame:
        """The exponent a under other objectives, without some budgets, and under other conventions."""

        def refit(data: Points, objective: Objective) -> Fit:
            return fit(self.law_name, data, objective=objective)

        return exponent_sensitivity(self.fit, refit, self.conventions)

    @part
    def multipliers(self) -> "Multipliers":
        """Every arm against the first."""
        if "arm" not in self.table or self.table["arm"].nunique() < 2:
            raise UnsupportedError("the table has one arm: a compute multiplier compares two")
        from isoflop.scaling.arms.multiplier import multiplier

        return multiplier(self.table, params=self.params, compute=self.compute)

    @part
    def gate(self) -> "Gate":
        """Every arm against the first, judged at the largest compute of the table."""
        if "arm" not in self.table or self.table["arm"].nunique() < 2:
            raise UnsupportedError("the table has one arm: a gate compares two")
        from isoflop.scaling.gate.gate import gate

        target = float(self.points.frame["flops"].max())
        return gate(self.table, target=target, params=self.params, compute=self.compute)

    def bands(self) -> pd.DataFrame:
        """Curves of runs with the bands of a law of whole curves, found once; raises as `curve_bands` does."""
        if "bands" not in self.done:
            self.done["bands"] = curve_bands(self.curves, runs=self.runs)
        return self.done["bands"]

    @part
    def mix(self) -> "Mix":
        """The best mixture of domains for the loss, at the scale of the largest run."""
        if len(domains_in(map(str, self.table))) < FEWEST_DOMAINS:
            raise UnsupportedError("the table has no mixtures: columns weight_NAME of two domains or more")
        from isoflop.scaling.mixtures.mix import mix

        return mix(self.table, params=self.params)

    @part
    def seed_noise(self) -> pd.DataFrame:
        """Cells of runs that differ in their seeds alone: n_params, tokens, flops, seeds, mean loss, sd of ln loss."""
        if not is_runs(self.table):
            raise UnsupportedError("needs a run table of isoflop: seeds of another may differ in more")
        runs = final_rows(self.ends)
        runs = runs.assign(
            log_loss=np.log(runs["loss"]), cell=runs.groupby(replicate_columns(runs), dropna=False).ngroup()
        )
        runs["n_params"] = runs["run_id"].map(self.points.frame.set_index("run_id")["n_params"])
        cells = runs.groupby("cell").agg(
            n_params=("n_params", "first"), flops=("flops", "mean"), tokens=("tokens", "first"),
            seeds=("seed", "nunique"), runs=("seed", "size"), loss=("loss", "mean"), sd=("log_loss", "std"),
        )  # fmt: skip
        # Runs of equal seeds differ in something that no column holds, and so may those of unequal ones.
        noise = cells[(cells["seeds"] > 1) & (cells["seeds"] == cells["runs"])].drop(columns="runs")
        if noise.empty:
            raise UnsupportedError("no cell was trained with more than one seed")
        return noise.sort_values(["n_params", "tokens"], kind="stable", ignore_index=True)

    @part
    def loss_floor(self) -> float:
        """The exact irreducible loss of the corpus, where it is known."""
        known = self.table["loss_floor"].dropna().unique() if "loss_floor" in self.table else []
        if len(known) != 1:
            raise UnsupportedError("the irreducible loss of this corpus is not known")
        return float(known[0])
