"""What `isoflop compare` answers, as JSON and as text."""

import pandas as pd
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
        comparison(pd.DataFrame(), by="size")
