"""The rounds after a study as a store keeps them, and the FLOPs that those still to come may take."""

from pathlib import Path
from typing import Any, NotRequired, TypedDict

from isoflop.experiments.config import ExperimentConfig, RoundsSpec
from isoflop.experiments.files import check_name, read_kept
from isoflop.experiments.store.store import SETTLED, Store, is_store, open_store


class RoundCell(TypedDict):
    """A cell that a round chose: a size of `conf/model`, a budget and its seeds."""

    size: str
    flops: float
    seeds: list[int]


class RoundFile(TypedDict):
    """What the file of a round holds: what was requested, of which runs, and the cells chosen."""

    requested: NotRequired[dict[str, Any]]
    wish: NotRequired[dict[str, Any]]  # what `requested` was called in files of before
    known: str
    cells: list[RoundCell]
    hold_out: list[float]
    said: str


def round_name(study: str, k: int) -> str:
    """What round k, from 1, of a study is called."""
    return f"{study}-round{k}"


def round_file(store: Store, name: str) -> Path:
    """Where what a round chose is kept."""
    return store.root / "rounds" / f"{name}.json"


def requested(request: RoundsSpec) -> dict[str, Any]:
    """What the cells of a round follow from, beside the runs before it."""
    return {"budget": request.budget, "target": request.target, "goal": request.goal}


def kept_round(store: Store, name: str, request: RoundsSpec) -> RoundFile | None:
    """What a round chose before, if it had this request."""
    path = round_file(store, name)
    kept: RoundFile | None = read_kept(path, RoundFile)
    for cell in kept["cells"] if kept else ():
        check_name(cell["size"], f"{path}: size")  # it becomes part of an argument
    return kept if kept and kept.get("requested", kept.get("wish")) == requested(request) else None


def flops_ahead(spec: ExperimentConfig) -> float:
    """FLOPs that the rounds after a study may still take: the budget of each one that has not ended.

    None are of a launch that is about chosen runs, which asks for no new ones.
    """
    request = spec.study.rounds
    if not request.count or request.budget is None or spec.where.only is not None:
        return 0.0
    names = [round_name(spec.study.name, k) for k in range(1, request.count + 1)]
    ended = sum(_ended(open_store(spec.runs), name, request) for name in names) if is_store(spec.runs) else 0
    return request.budget * (request.count - ended)


def _ended(store: Store, name: str, request: RoundsSpec) -> bool:
    """Whether a round was requested so, and every cell of it has a result."""
    listed = store.studies().get(name)
    if listed is None or kept_round(store, name, request) is None:
        return False
    return bool(store.states([cell["run_id"] for cell in listed["cells"]])["state"].isin(SETTLED).all())
