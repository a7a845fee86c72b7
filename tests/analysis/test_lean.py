"""Artists imported lean have no descriptions; whatever is imported afterwards finds matplotlib as it was."""

import sys

from matplotlib import artist

from isoflop.analysis.lean import SOLID, lean


def test_descriptions_and_solid_axes_are_left_out_inside_alone(monkeypatch):
    monkeypatch.delitem(sys.modules, SOLID, raising=False)
    with lean():
        bare = type("Bare", (artist.Artist,), {})
        from mpl_toolkits.mplot3d import Axes3D
    assert Axes3D is None
    assert SOLID not in sys.modules
    usual = type("Usual", (artist.Artist,), {})
    assert ["agg_filter" in (one.set.__doc__ or "") for one in (bare, usual)] == [False, True]


def test_solid_axes_that_are_there_stay(monkeypatch):
    here = type(sys)(SOLID)
    monkeypatch.setitem(sys.modules, SOLID, here)
    with lean():
        assert sys.modules[SOLID] is here
    assert sys.modules[SOLID] is here
