"""The unit of the losses of a table: what the name of their column says, or a column loss_unit states."""

import pandas as pd

from isoflop.scaling.table.columns import Resolved, TableError
from isoflop.scaling.table.meaning import NATS_PER_TOKEN, measured_in
from isoflop.scaling.table.where import keeping


def with_unit(found: Resolved, frame: pd.DataFrame, notes: list[str], *, source: str) -> tuple[pd.DataFrame, str]:
    """Rows of a resolved table with their losses in nats, and the unit of these.

    A unit that is stated is that of the column `loss`, or of the one that was taken in its place; a note says where it
    converts the losses. Raises TableError where rows state several, or another than the column's name says.
    """
    column, named = found.columns.get("loss", "loss"), found.meanings.get("loss")
    if named is None or "loss_unit" not in frame or (column != "loss" and "loss" in found.written):
        return frame, found.loss_unit
    stated = [str(value) for value in frame["loss_unit"].dropna().unique()]
    if len(stated) > 1:
        raise TableError(
            f"{source}: the losses are in several units ({', '.join(stated)}); keep one with "
            f"{keeping({'loss_unit': stated[0]})}"
        )
    if not stated:
        return frame, found.loss_unit
    meant, says = measured_in(stated[0]), named.transform or found.loss_unit
    if says != NATS_PER_TOKEN or "nats" in column.lower():
        if meant != named:
            raise TableError(
                f"{source}: column {column} holds {says} by its name, and column loss_unit says {stated[0]}: correct "
                "one of them, or drop loss_unit"
            )
        return frame, found.loss_unit
    if meant is None:
        return frame, stated[0]
    if meant.transform:
        notes.append(f"loss: {meant.note} (column loss_unit: {stated[0]})")
    return frame.assign(loss=meant.convert(frame["loss"])), meant.loss_unit
