"""Which settings tell the cells of a study apart: those that a label does not name, and those that do nothing, between
cells that were written differently and are one run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from isoflop.experiments.study.cell import Cell

Apart = dict[str, dict[str, Any]]
SHOWN = 4  # values of a setting, or arms, that a line names
_LABELS = ("arm", "size", "budget_flops", "data.name")  # say which cell it is
_FOLLOW = ("steps", "corpus_id", "initial.folder", "initial.parent")  # from the others


def same_runs(cells: Iterable[Cell]) -> tuple[tuple[Cell, ...], ...]:
    """Of cells with repeats those that are one run under different settings, a group for each run."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.run_id, []).append(cell)
    several = ({repr(one): one for one in group} for group in groups.values() if len(group) > 1)
    return tuple(tuple(group.values()) for group in several if len(group) > 1)


def same_runs_warning(groups: Sequence[Sequence[Cell]]) -> str:
    """How many cells are the runs of others, under which names they stand, and the settings that do nothing there."""
    more = sum(len(group) - 1 for group in groups)
    which = ""
    if arms := {cell.arm: None for group in groups for cell in group if len({one.arm for one in group}) > 1}:
        which = f" (of arms {_some(arms)}, each under the last that has it)"
    return f"{more} cells are the same runs as others{which}: {idle_settings(groups)}"


def idle_settings(groups: Sequence[Sequence[Cell]]) -> str:
    """The settings in which cells of one run differ, with their values, in words."""
    values: dict[str, dict[str, None]] = {}
    for group in groups:
        flat = [_flat(asdict(cell)) for cell in group]
        for key in flat[0].keys() | set().union(*flat[1:]):
            if len(found := dict.fromkeys(repr(one.get(key)) for one in flat)) > 1:
                values.setdefault(key, {}).update(found)
    settings = sorted(set(values) - set(_LABELS))
    named = settings or sorted(set(values) - {"arm"})
    if not named:
        return "no setting differs in them"
    said = ", ".join(f"{key} ({_some(values[key])})" for key in named)
    return f"{said} {'make' if len(named) > 1 else 'makes'} no difference in them"


def told_apart(cells: Iterable[Cell]) -> Apart:
    """By run id the settings, as they are typed, in which a cell differs from the others of its label."""
    groups: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.label, {})[cell.run_id] = cell
    apart: Apart = {}
    for alike in (group for group in groups.values() if len(group) > 1):
        flats = {run_id: _flat(asdict(cell)) for run_id, cell in alike.items()}
        keys = dict.fromkeys(key for flat in flats.values() for key in flat if key not in (*_LABELS, *_FOLLOW))
        differ = [key for key in keys if len({repr(flat.get(key)) for flat in flats.values()}) > 1]
        apart |= {run_id: {key: flat.get(key) for key in differ} for run_id, flat in flats.items()}
    return apart


def in_words(settings: Mapping[str, Any]) -> str:
    """Settings as a line for a reader: learning_rate=0.001 beta2=0.9."""
    shown = {key: f"{value:g}" if isinstance(value, float) else value for key, value in settings.items()}
    return " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in shown.items())


def _flat(plain: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{above}{key}.")
        else:
            found[above + key] = value
    return found


def _some(names: Iterable[str]) -> str:
    names = [name or "''" for name in names]
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
