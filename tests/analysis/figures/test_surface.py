"""Laws that no surface or slice can show are refused by what they read."""

import pytest

from isoflop.analysis.evidence import Evidence
from isoflop.analysis.figures import FIGURES


def test_what_cannot_be_drawn_is_said_of_the_law_and_not_of_another_of_its_form(study_table):
    """chinchilla-kappa is a name of the form chinchilla."""
    with pytest.raises(ValueError, match="three inputs or more; this one reads n_params, tokens"):
        FIGURES["slices"].draw(Evidence(study_table, law="chinchilla-kappa"))
