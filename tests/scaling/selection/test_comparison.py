"""What `isoflop compare` answers, as JSON and as text."""

import pytest

from isoflop.scaling.selection.comparison import comparison
from tests.support.fits.simulated import BESIROGLU, isoflop_table

pytestmark = pytest.mark.usefixtures("kept_searches")


@pytest.mark.slow
def test_comparison_is_one_json_and_one_text():
    table = isoflop_table(BESIROGLU, seed=0)
    found = comparison(table, ("chinchilla",))
    value = found.to_dict()
    assert [t["claim"] for t in value["nested"]] == ["kappa = 1", "alpha = beta", "E = 0"]
    assert {"scores", "refused", "sensitivity", "preferred", "notes"} <= set(value)
    assert "half-widths" in str(found)
    with pytest.raises(ValueError, match="--holdout-by size"):
        comparison(table, by="size")


def test_tests_of_chinchillas_form_are_left_out_where_no_law_named_has_it():
    table = isoflop_table(BESIROGLU, seed=0)
    found = comparison(table, ("power-n", "power-d"))
    value = found.to_dict()
    assert (value["nested"], value["sensitivity"]) == ([], None)
    assert [note for note in value["notes"] if "none of these laws has chinchilla's form" in note]
    assert "half-widths" not in str(found)
