"""The text that a run table keeps of its domains, as columns."""

import pandas as pd
import pytest

from isoflop.scaling.table.evaluations.domains import Domain, with_domains, written


def test_rows_with_and_without_a_domain():
    both = {name: Domain(weight=0.5, loss=loss, epochs=0.25, unique_tokens=640) for name, loss in (("a", 2), ("b", 3))}
    frame = pd.DataFrame({"mixture": [written(both), written({"a": Domain(**both["a"] | {"weight": 1.0})}), ""]})
    found = with_domains(frame, ValueError)
    assert found["weight_a"].tolist()[:2] == [0.5, 1.0]
    assert found["weight_b"].tolist()[:2] == [0.5, 0.0]
    assert found["loss_b"].isna().tolist() == [False, True, True]
    assert found.loc[2, ["weight_a", "unique_tokens_a"]].isna().all()
    assert list(with_domains(frame.iloc[2:], ValueError)) == ["mixture"]


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": {"weight": "x", "loss": 1, "epochs": 1}}'])
def test_a_text_that_is_none_is_named(text):
    with pytest.raises(ValueError, match="mixture"):
        with_domains(pd.DataFrame({"mixture": [text]}), ValueError)
