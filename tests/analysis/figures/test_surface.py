"""Laws that no surface or slice can show are refused by what they read."""

import numpy as np
import pandas as pd
import pytest

from isoflop.analysis.evidence import Evidence
from isoflop.analysis.figures import FIGURES


def test_what_cannot_be_drawn_is_said_of_the_law_and_not_of_another_of_its_form(study_table):
    """chinchilla-kappa is a name of the form chinchilla."""
    with pytest.raises(ValueError, match="three inputs or more; this one reads n_params, tokens"):
        FIGURES["slices"].draw(Evidence(study_table, law="chinchilla-kappa"))


def test_slices_have_the_ticks_of_every_figure():
    """Powers of ten of a formatter of its own came out as their TeX."""
    rng = np.random.default_rng(0)
    n, d, u = (np.exp(rng.uniform(*ends, 40)) for ends in ((10, 14), (13, 18), (12, 16)))
    table = pd.DataFrame({"n_params": n, "tokens": d, "unique_tokens": np.minimum(d, u)})
    table["loss"] = (1.5 + 20 * n**-0.3 + 30 * d**-0.3) * np.exp(0.01 * rng.normal(size=40))
    ax = FIGURES["slices"].draw(Evidence(table, law="data-constrained", n_draws=20))
    ax.figure.canvas.draw()
    written = [text.get_text() for text in ax.get_xticklabels()]
    assert ax.get_xscale() == "log"
    assert len(written) > 1
    assert not [text for text in written if "$" in text]
    assert len(set(written)) == len(written)
