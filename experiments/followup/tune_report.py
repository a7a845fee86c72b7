"""What `isoflop tune` answers: train what the study lacks, then bowls and transfers as a dict and as a text."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from isoflop.experiments.compose import compose_all
from isoflop.experiments.followup.tune import Bowl, Transfer, bowls, transfers
from isoflop.experiments.followup.tune_checks import tune_findings
from isoflop.experiments.sweep.train_job import launch, load
from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.table.runs import read_runs


def train_and_read(overrides: Sequence[str]) -> pd.DataFrame:
    """The runs of the studies that these overrides describe, trained where they are missing."""
    specs = compose_all(overrides)
    ids = {cell.run_id for spec in specs for cell in load(spec)[0].cells}
    with suppress(SystemExit):  # not 0 where a run diverged or failed: a bowl can do without it
        launch(overrides)
    table = read_runs(Path(specs[0].runs))
    return table[table["run_id"].isin(ids)]


def tune(table: pd.DataFrame, axis: str, limit: float) -> dict:
    """Every bowl with its optimum or the reason for none, every transfer with its verdict, and what to object to."""
    found = bowls(table, axis)
    moved = transfers(found, limit=limit)
    return {
        "axis": axis,
        "limit": limit,
        "bowls": [_bowl(bowl) for bowl in found],
        "transfers": [_transfer(transfer) for transfer in moved],
        "findings": [finding.to_dict() for finding in tune_findings(found, moved)],
    }


def _bowl(bowl: Bowl) -> dict:
    means = bowl.runs.groupby("value")["loss"].mean()
    return {
        "setting": bowl.setting,
        "d_model": bowl.width,
        "values": [float(v) for v in means.index],
        "losses": [float(v) if v < float("inf") else None for v in means],
        "runs": len(bowl.runs),
        "optimum": None if bowl.refused else bowl.optimum,
        "error_decades": None if bowl.refused or bowl.error != bowl.error else bowl.error,
        "loss": None if bowl.refused else bowl.loss,
        "refused": bowl.refused,
    }


def _transfer(transfer: Transfer) -> dict:
    known = transfer.slope_error == transfer.slope_error
    return {
        "setting": transfer.setting,
        "widths": [bowl.width for bowl in transfer.bowls],
        "drift_per_decade": transfer.slope,
        "drift_per_decade_error": transfer.slope_error if known else None,
        "drift": transfer.drift,
        "drift_error": transfer.drift_error if known else None,
        "cost": transfer.cost,
        "verdict": transfer.verdict,
    }


def tune_text(value: dict) -> str:
    lines = []
    for setting in {tuple(bowl["setting"].items()): bowl["setting"] for bowl in value["bowls"]}.values():
        lines += ["", _name(setting)]
        lines += [_bowl_line(bowl) for bowl in value["bowls"] if bowl["setting"] == setting]
        told = [_transfer_line(t, value["limit"]) for t in value["transfers"] if t["setting"] == setting]
        lines += told or ["  transfer not tested: it takes accepted optima at two widths"]
    lines += ["", *(str(Finding(**finding)) for finding in value["findings"])] if value["findings"] else []
    return "\n".join(lines[1:])


def _name(setting: dict) -> str:
    rule = f"{setting['family']} {setting['optimizer']} {setting['parametrization']} {setting['schedule']}"
    return f"{setting['arm']}: {rule}" if setting["arm"] else rule


def _bowl_line(bowl: dict) -> str:
    tried = " ".join(
        f"{value:g}:{'diverged' if loss is None else format(loss, '.4f')}"
        for value, loss in zip(bowl["values"], bowl["losses"], strict=True)
    )
    error = "error unknown" if bowl["error_decades"] is None else f"+-{bowl['error_decades']:.2f} decades"
    answer = f"refused: {bowl['refused']}" if bowl["refused"] else f"optimum {bowl['optimum']:.3g} {error}"
    return f"  width {bowl['d_model']:>4}  {answer}  ({tried})"


def _transfer_line(transfer: dict, limit: float) -> str:
    error = transfer["drift_per_decade_error"]
    told = "error unknown: add seeds or widths" if error is None else f"+-{error:.2f}"
    return (
        f"  {transfer['verdict']}: the optimum moves {transfer['drift_per_decade']:+.2f} decades per decade of width "
        f"({told}), {transfer['drift']:+.2f} over widths {transfer['widths'][0]} to {transfer['widths'][-1]} "
        f"(limit {limit:g}); training all at the narrowest one's optimum costs up to {transfer['cost']:.4f} nats/token"
    )
