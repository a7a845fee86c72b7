"""A launch is told which finished runs stand under another arm elsewhere, and which leave its study."""

import pytest

from isoflop.experiments.store.earlier import changes
from isoflop.experiments.store.store import create_store


@pytest.fixture
def store(tmp_path):
    """Three runs of study first in two arms, of which one is not finished, and one without a study."""
    store = create_store(tmp_path / "runs")
    for run_id, state in {"r1": "done", "r2": "diverged", "r3": "planned", "r4": "done"}.items():
        store.record(run_id, state)
    store.write_study("first", [{"run_id": f"r{i}", "arm": arm} for i, arm in ((1, "low"), (2, "high"), (3, "low"))])
    store.write_study("", [{"run_id": "r4", "arm": ""}])
    return store


@pytest.mark.parametrize(
    ("name", "arms", "message"),
    [
        ("first", {"r1": "low", "r2": "high", "r3": "low"}, []),
        ("other", {"r9": "x", "r1": "low"}, []),
        ("other", {"r3": "x"}, []),  # is still to be trained: under this name
        ("other", {"r1": "high", "r2": "low"}, [("low", "in study first", "high"), ("high", "in study first", "low")]),
        ("first", {"r1": "new", "r2": "high", "r3": "low"}, [("low", "at its last launch", "new")]),
        ("", {"r5": ""}, []),
    ],
)
def test_finished_runs_of_another_arm_are_counted(store, name, arms, message):
    assert changes(store, name, arms) == [
        f"1 finished runs, arm {before!r} {where}, are arm {now!r} in study {name} and tables of --study {name}"
        for before, where, now in message
    ]


def test_runs_that_leave_a_study_are_counted(store):
    assert changes(store, "first", {"r1": "low"}) == [
        "study first listed 3 runs at its last launch and lists 1 now: 2 leave it (1 finished) and are in no table of "
        "--study first; study.name=OTHER keeps both"
    ]
    (line,) = changes(store, "other", {"r4": "a"})
    assert line.startswith("1 finished runs, of no arm in study single, are arm 'a' in study other")
