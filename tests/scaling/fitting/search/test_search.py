import numpy as np

import isoflop
from isoflop.scaling.fitting.search import search
from isoflop.scaling.fitting.solver.minimise import LOOK
from isoflop.scaling.selection.rolling_origins import rolling_origins
from isoflop.scaling.table.conventions import points


def test_of_ends_that_still_move_the_lowest_of_those_that_may_win_go_on(monkeypatch):
    requested, go_on = [], search.go_on

    def seen(tasks, so_far, which, **options):
        requested.extend(zip(so_far, which, strict=True))
        return go_on(tasks, so_far, which, **options)

    monkeypatch.setattr(search, "go_on", seen)
    monkeypatch.setattr(search, "LEADERS", 3)
    first = rolling_origins(points(isoflop.example("quick")).in_order())[0]
    fitted = isoflop.fit("bnsl", first.known)  # a break in eleven runs: every end creeps
    ((ends, chosen),) = requested
    late = ~ends.converged & (ends.value <= ends.value.min() * (1 + search.MAY_WIN))
    assert late.sum() > 3
    assert (ends.steps[late] > LOOK).all()
    lowest = np.flatnonzero(late)[np.argsort(ends.value[late], kind="stable")[:3]]
    assert np.array_equal(np.flatnonzero(chosen), np.sort(lowest))
    assert fitted.converged
    assert fitted.value <= ends.value.min()
