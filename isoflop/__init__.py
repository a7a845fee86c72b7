"""Run scaling-law experiments, fit and compare power laws, draw the figures.

    import isoflop

    table = isoflop.read_table("runs.csv")          # or a runs folder, a parquet
    fitted = isoflop.fit("chinchilla", table)
    isoflop.jackknife(fitted).interval(lambda law: law.optimal(1e21, fitted.cost).N)
    isoflop.plot.isoflop(table).figure.savefig("isoflop.png")
    isoflop.run("quick")                            # trains a study; needs torch and hydra-core

Names are loaded when first used, so that a fit loads neither torch nor Hydra nor matplotlib. `help(isoflop.fit)`
shows what each does. The rooms behind them are `isoflop.scaling` (tables, laws, fits, forecasts, designs),
`isoflop.analysis` (figures, report), `isoflop.experiments` (studies) and `isoflop.models`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isoflop import laws as laws
    from isoflop import plot as plot
    from isoflop.analysis.report import write_report as report
    from isoflop.examples import example
    from isoflop.experiments.app import plan, run, status
    from isoflop.experiments.finished.bundle import write_bundle as share
    from isoflop.experiments.finished.bundle_check import check_bundle
    from isoflop.experiments.followup.next_study import next_runs as suggest
    from isoflop.scaling.approaches.approaches import approaches
    from isoflop.scaling.arms.multiplier import multiplier
    from isoflop.scaling.findings.diagnose import diagnose
    from isoflop.scaling.fitting.fit import fit
    from isoflop.scaling.fitting.objective import Huber, LeastSquares
    from isoflop.scaling.fitting.uncertainty import bootstrap, jackknife
    from isoflop.scaling.gate.gate import gate
    from isoflop.scaling.imports.read_table import read_table
    from isoflop.scaling.mixtures.mix import mix
    from isoflop.scaling.prediction.batch.critical_batch import critical_batch as batch
    from isoflop.scaling.prediction.curves.run_forecast import predict_run
    from isoflop.scaling.prediction.predict import predict
    from isoflop.scaling.prediction.registered.ledger import read_ledger as ledger
    from isoflop.scaling.prediction.spending.memory import predict_memory
    from isoflop.scaling.selection.comparison import comparison as compare
    from isoflop.scaling.selection.holdout import hold_out
    from isoflop.scaling.tuning.tune import tune

    __version__: str

_PLACES = {
    "Huber": "isoflop.scaling.fitting.objective:Huber",
    "LeastSquares": "isoflop.scaling.fitting.objective:LeastSquares",
    "approaches": "isoflop.scaling.approaches.approaches:approaches",
    "batch": "isoflop.scaling.prediction.batch.critical_batch:critical_batch",
    "bootstrap": "isoflop.scaling.fitting.uncertainty:bootstrap",
    "check_bundle": "isoflop.experiments.finished.bundle_check:check_bundle",
    "compare": "isoflop.scaling.selection.comparison:comparison",
    "diagnose": "isoflop.scaling.findings.diagnose:diagnose",
    "example": "isoflop.examples:example",
    "fit": "isoflop.scaling.fitting.fit:fit",
    "gate": "isoflop.scaling.gate.gate:gate",
    "hold_out": "isoflop.scaling.selection.holdout:hold_out",
    "jackknife": "isoflop.scaling.fitting.uncertainty:jackknife",
    "laws": "isoflop.laws",
    "ledger": "isoflop.scaling.prediction.registered.ledger:read_ledger",
    "mix": "isoflop.scaling.mixtures.mix:mix",
    "multiplier": "isoflop.scaling.arms.multiplier:multiplier",
    "plan": "isoflop.experiments.app:plan",
    "plot": "isoflop.plot",
    "predict": "isoflop.scaling.prediction.predict:predict",
    "predict_memory": "isoflop.scaling.prediction.spending.memory:predict_memory",
    "predict_run": "isoflop.scaling.prediction.curves.run_forecast:predict_run",
    "read_table": "isoflop.scaling.imports.read_table:read_table",
    "report": "isoflop.analysis.report:write_report",
    "run": "isoflop.experiments.app:run",
    "share": "isoflop.experiments.finished.bundle:write_bundle",
    "status": "isoflop.experiments.app:status",
    "suggest": "isoflop.experiments.followup.next_study:next_runs",
    "tune": "isoflop.scaling.tuning.tune:tune",
}
__all__ = [
    "Huber",
    "LeastSquares",
    "approaches",
    "batch",
    "bootstrap",
    "check_bundle",
    "compare",
    "diagnose",
    "example",
    "fit",
    "gate",
    "hold_out",
    "jackknife",
    "laws",
    "ledger",
    "mix",
    "multiplier",
    "plan",
    "plot",
    "predict",
    "predict_memory",
    "predict_run",
    "read_table",
    "report",
    "run",
    "share",
    "status",
    "suggest",
    "tune",
]


if not TYPE_CHECKING:  # a checker sees the imports above, and objects to any other name

    def __getattr__(name: str) -> object:
        """Load a public name when it is first used."""
        if name == "__version__":
            from isoflop.package_version import package_version

            return package_version()
        if name not in _PLACES:
            raise AttributeError(f"module 'isoflop' has no attribute {name!r}; there are {', '.join(__all__)}")
        module, _, attribute = _PLACES[name].partition(":")
        loaded = import_module(module)
        value = getattr(loaded, attribute) if attribute else loaded
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
