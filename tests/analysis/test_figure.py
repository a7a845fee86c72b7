"""Saving a figure: what is wrong with its letters is said once, other warnings stay."""

import warnings

import pytest

from isoflop.analysis.figure import save
from isoflop.analysis.style import new_axes, style


def drawn(*names: str):
    ax = new_axes(None)
    for k, name in enumerate(names):
        ax.plot([1, 2], [k, k + 1], label=name)
    ax.legend()
    return ax


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_letters_that_no_font_has_are_one_warning(tmp_path, form):
    with style():
        with pytest.warns(UserWarning, match="letters") as caught:
            save(drawn("\u65e5\u672c\u8a9e", "\ud55c\uad6d\uc5b4"), tmp_path / f"x.{form}")
        (one,) = caught
        assert "letters that no font here has" in str(one.message)
        save(drawn("na\u00efve \u03b1"), tmp_path / f"y.{form}")  # DejaVu Sans has these


def test_another_warning_is_not_swallowed(tmp_path, monkeypatch):
    with style():
        ax = drawn("x")
        monkeypatch.setattr(ax.figure, "savefig", lambda *_, **__: warnings.warn("of another kind", stacklevel=1))
        with pytest.warns(UserWarning, match="of another kind"):
            save(ax, tmp_path / "x.png")
