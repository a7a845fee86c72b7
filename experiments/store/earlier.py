"""What a launch changes of what the store lists: arms that finished runs have elsewhere, runs that leave a study.

A run file keeps the arm that its run was trained under; a table of one study has the arms of its listing.
"""

from collections import Counter
from collections.abc import Mapping

from isoflop.experiments.store.store import SETTLED, Store


def changes(store: Store, name: str, arms: Mapping[str, str]) -> list[str]:
    """Lines on a launch of the study `name`, whose runs, by id, have these arms."""
    known = {study: {cell["run_id"]: cell for cell in file.get("cells", [])} for study, file in store.studies().items()}
    before = known.get(name, {}) if name else {}  # cells without a study are added to those before
    gone = [run_id for run_id in before if run_id not in arms]
    renamed = {
        (study, run_id): cell.get("arm", "")
        for study, cells in known.items()
        for run_id, cell in cells.items()
        if run_id in arms and arms[run_id] != cell.get("arm", "")
    }
    states = store.states(dict.fromkeys([*gone, *(run_id for _, run_id in renamed)]))
    over = set(states.loc[states["state"].isin(SETTLED), "run_id"])
    counts = Counter((study, arm, arms[run_id]) for (study, run_id), arm in renamed.items() if run_id in over)
    lines = [_renamed(name or "single", *change, count) for change, count in counts.items()]
    if gone:
        lines.append(
            f"study {name} listed {len(before)} runs at its last launch and lists {len(arms)} now: {len(gone)} leave "
            f"it ({len(over & set(gone))} finished) and are in no table of --study {name}; study.name=OTHER keeps both"
        )
    return lines


def _renamed(name: str, study: str, before: str, now: str, count: int) -> str:
    where = "at its last launch" if study == name else f"in study {study}"
    return (
        f"{count} finished runs, {_arm(before)} {where}, are {_arm(now)} in study {name} and tables of --study {name}"
    )


def _arm(name: str) -> str:
    return f"arm {name!r}" if name else "of no arm"
