"""Run tables, laws, fits, intervals, Findings, forecasts and designs. Needs numpy, scipy, pandas and pyarrow alone.

The rooms, each standing on those before it: `laws`, `table`, `fitting`, `approaches`, `findings`, `selection`, then
`prediction`, `arms` and `design`; `imports` stands on `table`. What a notebook needs is here by name, loaded when first
used:

>>> from isoflop import scaling
>>> from isoflop.scaling.design.simulate import simulate_points
>>> law = scaling.Chinchilla(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)
>>> table = simulate_points(law, [[1e6], [4e6], [16e6]], [[2e7, 8e7, 32e7]])
>>> fitted = scaling.fit("chinchilla", table)
>>> round(fitted.law.alpha, 3)
0.35
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isoflop.scaling.approaches.approaches import approaches as three_approaches
    from isoflop.scaling.arms.multiplier import multiplier
    from isoflop.scaling.design.planning import plan_from_law, plan_from_table
    from isoflop.scaling.findings.diagnose import diagnose
    from isoflop.scaling.fitting.fit import fit
    from isoflop.scaling.fitting.uncertainty import bootstrap, jackknife
    from isoflop.scaling.laws.chinchilla import Chinchilla
    from isoflop.scaling.prediction.predict import predict
    from isoflop.scaling.prediction.registered.register import register
    from isoflop.scaling.prediction.registered.score import score
    from isoflop.scaling.prediction.two_stage import two_stage
    from isoflop.scaling.selection.comparison import comparison as compare
    from isoflop.scaling.selection.holdout import hold_out
    from isoflop.scaling.table.conventions import points

    read_table: Any  # isoflop.read_table: no room imports the importers

_PLACES = {
    "Chinchilla": "laws.chinchilla:Chinchilla",
    "bootstrap": "fitting.uncertainty:bootstrap",
    "compare": "selection.comparison:comparison",
    "diagnose": "findings.diagnose:diagnose",
    "fit": "fitting.fit:fit",
    "hold_out": "selection.holdout:hold_out",
    "jackknife": "fitting.uncertainty:jackknife",
    "multiplier": "arms.multiplier:multiplier",
    "plan_from_law": "design.planning:plan_from_law",
    "plan_from_table": "design.planning:plan_from_table",
    "points": "table.conventions:points",
    "predict": "prediction.predict:predict",
    "read_table": "imports.read_table:read_table",
    "register": "prediction.registered.register:register",
    "score": "prediction.registered.score:score",
    "three_approaches": "approaches.approaches:approaches",  # `approaches` is the room
    "two_stage": "prediction.two_stage:two_stage",
}
__all__ = [
    "Chinchilla",
    "bootstrap",
    "compare",
    "diagnose",
    "fit",
    "hold_out",
    "jackknife",
    "multiplier",
    "plan_from_law",
    "plan_from_table",
    "points",
    "predict",
    "read_table",
    "register",
    "score",
    "three_approaches",
    "two_stage",
]


if not TYPE_CHECKING:  # a checker sees the imports above, and objects to any other name

    def __getattr__(name: str) -> object:
        """Load a name of `__all__` when it is first used."""
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there are {', '.join(__all__)}")
        module, _, attribute = _PLACES[name].partition(":")
        value = getattr(import_module(f"{__name__}.{module}"), attribute)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if __name__ == "scaling":
    raise ImportError("import isoflop.scaling: this folder is a part of the package isoflop")
