"""`isoflop tune`: train the runs that a study lacks, then bowls, transfers and findings, as a dict and as text."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from isoflop.experiments.app import run_study
from isoflop.experiments.compose.compose import compose_all
from isoflop.experiments.followup.tune import FIRST, FURTHER, Bowl, Transfer, bowls, transfers
from isoflop.experiments.sweep.launch import load
from isoflop.printable import loss_text
from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.findings.tuning_checks import SAME_RANGE
from isoflop.scaling.table.runs import of_study, read_runs

COSTLY = 0.01  # nats/token that a learning rate may give away without a finding
ENOUGH = 2  # sizes with an optimum inside the grid, for a setting


def train_and_read(overrides: Sequence[str]) -> pd.DataFrame:
    """The runs of the studies that these overrides describe, trained where they are missing."""
    specs = compose_all(overrides)
    cells = {cell.run_id: cell for spec in specs for cell in load(spec)[0].cells}
    run_study(overrides)  # not 0 where a run diverged or failed: a bowl can do without it
    return of_study(read_runs(Path(specs[0].runs)), cells)


def tune(table: pd.DataFrame, axis: str, limit: float, along: str = "width") -> dict[str, Any]:
    """Every bowl with its optimum or why it is refused, every transfer with its verdict, the findings; JSON-ready.

    `limit` is the drift, in decades, up to which an optimum counts as staying where it is `along` width, depth or
    horizon.
    """
    found = bowls(table, axis)
    without = table[table["weight_decay"] == 0] if axis == "weight-decay" else table[:0]
    moved = transfers(found, limit=limit, along=along)
    return {
        "axis": axis,
        "along": along,
        "limit": limit,
        "bowls": [_bowl(bowl) for bowl in found],
        "transfers": [_transfer(transfer) for transfer in moved],
        "findings": [finding.to_dict() for finding in (*tune_findings(found, moved), *_without_decay(without))],
    }


def tune_findings(found: Sequence[Bowl], moved: Sequence[Transfer]) -> Iterator[Finding]:
    """Findings on these bowls and transfers: optima at an edge or too few, unequal searches, costly rates."""
    edges = [bowl for bowl in found if bowl.at_edge]
    if edges:
        listed = ", ".join(f"{_short_name(bowl.setting)} width {bowl.width}" for bowl in edges[:4])
        yield Finding(
            "rate_at_edge", "warn",
            f"the best value is at an edge of the grid in {len(edges)} of {len(found)} bowls ({listed})",
            "widen the grid: an optimum outside it is not measured",
        )  # fmt: skip
    for setting in {tuple(b.setting.items()): b.setting for b in found}.values():
        widths = {(b.width, b.place["n_layer"]) for b in found if b.setting == setting and not b.refused}
        if len(widths) < ENOUGH:
            yield Finding(
                "few_optima", "warn",
                f"{_short_name(setting)}: an optimum inside the grid at {len(widths)} sizes, fewer than {ENOUGH}",
                "tune at a second size: one optimum says nothing about another size",
            )  # fmt: skip
    yield from _unequal(found)
    for transfer in moved:
        if transfer.cost > COSTLY:
            yield Finding(
                "costly_rate", "warn",
                f"{_short_name(transfer.setting)}: the {FIRST[transfer.along]} model's optimum costs the others up to "
                f"{transfer.cost:.3f} nats/token",
                "tune each size, or use a parametrization that transfers",
            )  # fmt: skip


def _without_decay(runs: pd.DataFrame) -> Iterator[Finding]:
    """A finding on runs without weight decay, which no logarithmic axis has a place for."""
    if count := runs["run_id"].nunique():
        yield Finding(
            "no_decay", "info", f"{count} runs have no weight decay: they are in no bowl",
            "compare the lowest loss of the bowls with theirs",
        )  # fmt: skip


def _unequal(found: Sequence[Bowl]) -> Iterator[Finding]:
    """A finding if the settings were not searched over as many values and the same range."""
    by_setting: dict[str, pd.Series] = {}
    for bowl in found:
        by_setting.setdefault(_short_name(bowl.setting), bowl.runs["value"].drop_duplicates())
    counts = {name: len(values) for name, values in by_setting.items()}
    ranges = {name: float(values.max() / values.min()) for name, values in by_setting.items()}
    if len(set(counts.values())) > 1 or max(ranges.values()) > SAME_RANGE * min(ranges.values()):
        searched = ", ".join(f"{counts[name]} over a factor {ranges[name]:.3g} for {name}" for name in by_setting)
        yield Finding(
            "unequal_tuning", "info", f"values tried: {searched}",
            "to compare the lowest losses, give every setting the same number of values and the same range",
        )  # fmt: skip


def _bowl(bowl: Bowl) -> dict[str, Any]:
    means = bowl.runs.groupby("value")["loss"].mean()
    return {
        "setting": bowl.setting,
        **{column: int(value) for column, value in bowl.place.items()},
        "values": [float(v) for v in means.index],
        "losses": [float(v) if v < float("inf") else None for v in means],
        "runs": len(bowl.runs),
        "optimum": None if bowl.refused else bowl.optimum,
        "error_decades": None if bowl.refused or bowl.error != bowl.error else bowl.error,
        "loss": None if bowl.refused else bowl.loss,
        "refused": bowl.refused,
    }


def _transfer(transfer: Transfer) -> dict[str, Any]:
    known = transfer.slope_error == transfer.slope_error
    return {
        "setting": transfer.setting,
        "widths": [bowl.width for bowl in transfer.bowls],
        "places": transfer.places,
        "drift_per_decade": transfer.slope,
        "drift_per_decade_error": transfer.slope_error if known else None,
        "drift": transfer.drift,
        "drift_error": transfer.drift_error if known else None,
        "cost": transfer.cost,
        "verdict": transfer.verdict,
    }


def tune_text(value: dict[str, Any]) -> str:
    """The dict of `tune` as lines: the settings, with their bowls and transfers, then the findings."""
    lines: list[str] = []
    for setting in {tuple(bowl["setting"].items()): bowl["setting"] for bowl in value["bowls"]}.values():
        lines += ["", _name(setting)]
        lines += [_bowl_line(bowl) for bowl in value["bowls"] if bowl["setting"] == setting]
        moves = [_transfer_line(t, value) for t in value["transfers"] if setting.items() >= _shared(t).items()]
        untested = [] if moves else [f"  transfer not tested: it takes accepted optima at two {value['along']}s"]
        lines += untested or [line for line in moves if line not in lines]  # one along horizons is of several settings
    lines += ["", *(str(Finding(**finding)) for finding in value["findings"])] if value["findings"] else []
    return "\n".join(lines[1:])


def _name(setting: dict[str, Any]) -> str:
    rule = f"{setting['family']} {setting['optimizer']} {setting['parametrization']} {setting['schedule']}"
    rule += _further(setting)
    return f"{setting['arm']}: {rule}" if setting["arm"] else rule


def _bowl_line(bowl: dict[str, Any]) -> str:
    tried = " ".join(
        f"{value:g}:{'diverged' if loss is None else loss_text(loss)}"
        for value, loss in zip(bowl["values"], bowl["losses"], strict=True)
    )
    error = "error unknown" if bowl["error_decades"] is None else f"+-{bowl['error_decades']:.2f} decades"
    answer = f"refused: {bowl['refused']}" if bowl["refused"] else f"optimum {bowl['optimum']:.3g} {error}"
    return f"  width {bowl['d_model']:>4}  {answer}  ({tried})"


def _shared(transfer: dict[str, Any]) -> dict[str, Any]:
    """The setting of a transfer without the width and depth that its bowls share."""
    return {key: value for key, value in transfer["setting"].items() if key not in ("d_model", "n_layer")}


def _transfer_line(transfer: dict[str, Any], value: dict[str, Any]) -> str:
    error = transfer["drift_per_decade_error"]
    margin = f"error unknown: add seeds or {value['along']}s" if error is None else f"+-{error:.2f}"
    kept = {"d_model": "width", "n_layer": "depth"}
    of = ", ".join(f"{kept[key]} {held}" for key, held in transfer["setting"].items() if key in kept)
    along, (first, *_, last) = value["along"], transfer["places"]
    return (
        f"  {transfer['verdict']}: the optimum {f'of {of} ' * bool(of)}moves {transfer['drift_per_decade']:+.2f} "
        f"decades per decade of {along} ({margin}), {transfer['drift']:+.2f} over {along}s {first:.6g} to {last:.6g} "
        f"(limit {value['limit']:g}); training all at the {FIRST[along]} one's optimum costs up to "
        f"{transfer['cost']:.4f} nats/token"
    )


def _short_name(setting: dict[str, Any]) -> str:
    rule = f"{setting['family']} {setting['optimizer']} {setting['parametrization']}"
    return (setting["arm"] or rule) + _further(setting)


def _further(setting: dict[str, Any]) -> str:
    """What of a setting is shown only where it varies."""
    shown = [f"{key} {value}" for key, value in setting.items() if key in FURTHER]
    return f" ({', '.join(shown)})" if shown else ""
