"""Checks of the columns that a law reads beside size, tokens and compute: whether they vary, apart, in one unit."""

from collections.abc import Iterator

import numpy as np

from isoflop.scaling.findings.finding import Case, Check, Finding
from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.table.columns import row_names
from isoflop.scaling.table.law_inputs import components, unlike

EXPLAINED = 0.995  # of the variance of an input by the others: beyond, their effects are not identified
NARROW = 0.9
FEWEST_VALUES = 3  # of an input: two hold a slope and no shape


def varied(case: Case) -> Iterator[Finding]:
    """Inputs of which few values were tried, and components of a vector that never vary."""
    for column in _further(case):
        for name in _names(case, column):
            count = int(case.frame[name].nunique())
            if count == 1:
                yield Finding(
                    "input_never_varies", "warn",
                    f"{name} is {case.frame[name].iloc[0]:g} in every run: the law has no way to know what it does",
                    f"add runs at other values of {name}, or fix its parameter",
                )  # fmt: skip
            elif count < FEWEST_VALUES:
                yield Finding(
                    "few_values", "info", f"{name} has {count} values: a slope can be seen and no bend",
                    f"add runs at a third value of {name}",
                )  # fmt: skip


def apart(case: Case) -> Iterator[Finding]:
    """Inputs that follow from the others in these runs, so that their effects are not identified."""
    if not _further(case):
        return
    coordinates = dict(_coordinates(case))
    for name in coordinates if len(coordinates) > 1 else ():
        others = np.column_stack([np.ones(len(case.frame)), *(v for k, v in coordinates.items() if k != name)])
        y = coordinates[name] - coordinates[name].mean()
        left = y - others @ np.linalg.lstsq(others, y, rcond=None)[0]
        explained = 1 - float(left @ left) / max(float(y @ y), 1e-300)
        if np.ptp(y) > 0 and explained > NARROW:
            known = ", ".join(k for k in coordinates if k != name)
            yield Finding(
                "collinear_inputs", "fail" if explained > EXPLAINED else "warn",
                f"{name} follows from {known} in these runs ({explained:.1%} of its variance)",
                f"add runs in which {name} moves while the others stay",
            )  # fmt: skip
            return


def usual_units(case: Case) -> Iterator[Finding]:
    """Values outside the range that the input's unit is usual for."""
    for column in _further(case):
        if column.usual is None:
            continue
        values = case.frame[column.name].to_numpy(float)
        lo, hi = column.usual
        outside = (values < lo) | (values > hi)
        if outside.any():
            yield Finding(
                "unusual_unit", "warn",
                f"{column.name} is {values[outside][0]:g} in {outside.sum()} of {len(values)} runs "
                f"({row_names(case.frame, outside)}), and values in {column.unit} lie between {lo:g} and {hi:g}",
                f"give {column.name} in {column.unit}",
            )  # fmt: skip


def _further(case: Case) -> list[Column]:
    return unlike(case.fit.law.reads().values())


def _names(case: Case, column: Column) -> list[str]:
    return components(list(map(str, case.frame.columns)), column)


def _coordinates(case: Case) -> Iterator[tuple[str, np.ndarray]]:
    """Every input as the law reads it; of a vector all components but the last, which follows from them."""
    for column in case.fit.law.reads().values():
        names = _names(case, column)
        for name in names[: len(names) - column.vector]:
            values = case.frame[name].to_numpy(float)
            yield name, np.log(values) if column.transform == "log" else values


INPUT_CHECKS: tuple[Check, ...] = (varied, apart, usual_units)
