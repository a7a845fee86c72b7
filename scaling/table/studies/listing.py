"""What the studies of a runs folder list: their runs, each with its arm there, and the budgets that they hold out."""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict

import pandas as pd

from isoflop.read_json import read_json
from isoflop.scaling.table.columns import TableError, hint
from isoflop.scaling.table.runs import of_study

BUDGET = "budget_flops"


class _Cell(TypedDict):
    run_id: str
    arm: NotRequired[str]
    budget_flops: NotRequired[float | None]


class Entry(NamedTuple):
    """A run in a listing: its arm and its budget there, NaN for one of tokens; None in a listing without them."""

    arm: str | None = None
    budget_flops: float | None = None


class _Study(TypedDict):
    """What is read of a study's listing."""

    cells: list[_Cell]
    hold_out: NotRequired[list[float]]


@dataclass(frozen=True)
class Listing:
    """The runs that a study listed when it was launched, and those of them at the budgets of study.hold_out."""

    runs: Mapping[str, Entry]
    held_out: tuple[str, ...]


def chosen_runs(frame: pd.DataFrame, path: Path, study: str, notes: list[str], *, shared: str = "") -> pd.DataFrame:
    """The rows of a runs folder whose runs a study or one of its rounds lists, under their arms and budgets in it.

    `shared` names the study of a bundle. `attrs` carries "held_out", the runs at the budgets that it holds out. Raises
    TableError for a study that there is not, or of which no run has finished.
    """
    if not path.is_dir():
        raise TableError(f"{path}: --study {study} needs a runs folder; for a file use --where")
    known = listings(path)
    if study not in known:
        there = ", ".join(known) or shared or "none"
        raise TableError(f"{path}: --study {study}: no such study here (there are: {there}){hint(study, known)}")
    listing = read_study(path, study)
    kept = of_study(frame, listing.runs)
    if kept.empty:
        raise TableError(f"{path}: --study {study}: no run of it has finished")
    later = f", those of {', '.join(rounds)} among them" if (rounds := rounds_of(path, study)) else ""
    notes.append(f"study {study}: {kept['run_id'].nunique()} of {frame['run_id'].nunique()} runs in the store{later}")
    kept.attrs["held_out"] = listing.held_out
    return kept


def all_runs(frame: pd.DataFrame, path: Path, notes: list[str]) -> pd.DataFrame:
    """All rows of a runs folder; runs by tokens stand at the budget in FLOPs that a study has them by.

    Notes say where its studies have runs under other arms than their column says, or hold out budgets; `attrs` carries
    "held_out" where it has one study.
    """
    own = dict(zip(frame["run_id"], frame["arm"], strict=True))
    known: dict[str, Listing] = {}
    for study, file in listings(path).items():
        with contextlib.suppress(TableError):  # a listing that --study would refuse says nothing here
            known[study] = read_listing(file)
    apart = {
        study: sum(one.arm is not None and own.get(run_id, one.arm) != one.arm for run_id, one in listing.runs.items())
        for study, listing in known.items()
    }
    if there := ", ".join(f"{count} in study {study}" for study, count in apart.items() if count):
        notes.append(
            f"runs that studies share have the arm of the first one here, and another {there}: name one with --study"
        )
    entries = [(run_id, one.budget_flops) for listing in known.values() for run_id, one in listing.runs.items()]
    budgets = {run_id: flops for run_id, flops in entries if flops is not None and flops > 0}
    frame = frame.assign(**{BUDGET: frame[BUDGET].fillna(frame["run_id"].map(budgets).astype(float))})
    alone = known.keys() - {name for study in known for name in rounds_of(path, study)}
    if len(alone) == 1:
        frame.attrs["held_out"] = known[alone.pop()].held_out
    elif holding := [study for study, listing in known.items() if set(listing.held_out) & own.keys()]:
        notes.append(f"budgets that study.hold_out names are held out where --study names it ({', '.join(holding)})")
    return frame


def listings(path: Path) -> dict[str, Path]:
    """The files of the studies in a runs folder, by their names."""
    return {file.stem: file for file in sorted(path.glob("studies/*.json"))}


def read_study(path: Path, study: str) -> Listing:
    """The listing of a study of a runs folder with the runs of its rounds. Raises TableError as `read_listing` does."""
    known = listings(path)
    own = read_listing(known[study])
    rounds = {run_id: one for name in rounds_of(path, study) for run_id, one in read_listing(known[name]).runs.items()}
    return Listing(rounds | dict(own.runs), own.held_out)


def rounds_of(path: Path, study: str) -> list[str]:
    """The studies in a runs folder that are rounds of another, as `study.rounds` names them."""
    names = [name for name in listings(path) if re.fullmatch(rf"{re.escape(study)}-round\d+", name)]
    return sorted(
        (name for name in names if (path / "rounds" / f"{name}.json").exists()), key=lambda name: (len(name), name)
    )


def read_listing(file: Path) -> Listing:
    """The listing of a study. Raises TableError for a file that holds none."""
    remedy = "not a list of runs; launch the study again to write it anew"
    found = read_json(file, _Study, nan=True, error=TableError, remedy=remedy)
    held = set(found.get("hold_out", ()))
    return Listing(
        {cell["run_id"]: Entry(cell.get("arm"), cell.get(BUDGET)) for cell in found["cells"]},
        tuple(cell["run_id"] for cell in found["cells"] if cell.get(BUDGET) in held),
    )


def without_held_out(table: pd.DataFrame) -> pd.DataFrame:
    """The runs of a table that its study does not hold out, with a note that counts the others and says how to keep
    them. All of them where no other is left: such a study is there to be predicted."""
    held = table["run_id"].isin(table.attrs.get("held_out", ())) if "run_id" in table else pd.Series(False, table.index)
    if not held.any() or held.all():
        return table
    kept, budgets = table[~held], sorted(table.loc[held, BUDGET].dropna().unique())
    several, count = len(budgets) > 1, table.loc[held, "run_id"].nunique()
    note = (
        f"study.hold_out: {count} run{'s' if count > 1 else ''} of the budget{'s' if several else ''} "
        f"{', '.join(f'{flops:g}' for flops in budgets)} {'are' if count > 1 else 'is'} held out: no fit sees "
        f'{"them" if count > 1 else "it"}; --where "{BUDGET} > 0" keeps {"them" if count > 1 else "it"}'
    )
    attrs = {name: (*table.attrs.get(name, ()), note) for name in ("notes", "guessed")}
    kept.attrs = table.attrs | attrs | {"held_out": ()}
    return kept
