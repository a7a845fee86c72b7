"""A unit in the name of a column counts for every count, whoever names the column."""

import numpy as np
import pandas as pd
import pytest

import isoflop
from isoflop.scaling.findings.units import count_findings
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.formats.counts import COUNTS, count_as
from isoflop.scaling.table.formats.run_columns import NAMES

SCALES = {"k": 1e3, "M": 1e6, "B": 1e9, "billion": 1e9, "1e6": 1e6, "10^9": 1e9, "T": 1e12}
FORMS = ("{name} ({unit})", "{name} [{unit}]", "{name}_{unit}", "{name} in {unit}")


def runs(column: str, values) -> pd.DataFrame:
    n = np.geomspace(1e8, 1e9, 6)
    return pd.DataFrame({"n_params": n, "tokens": 20 * n, "loss": 4 - 0.1 * np.log10(n), column: values})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("unit", SCALES)
def test_a_count_is_taken_in_single_ones_by_its_own_name_with_any_unit(tmp_path, form, unit):
    for name in COUNTS:
        if name in ("step", "n_params_total"):  # columns that tell a curve, and other sizes
            continue
        column, count = form.format(name=name, unit=unit), 1e8 * np.arange(2.0, 8.0)
        runs(column, count / SCALES[unit]).to_csv(path := tmp_path / "t.csv", index=False)
        table = isoflop.read_table(path)
        assert table[name].to_numpy(float) == pytest.approx(count), column
        assert any(note.startswith(f"{name}: column {column} (times") for note in table.attrs["notes"])


def test_two_units_of_one_count_are_refused(tmp_path):
    runs("unique_tokens (M)", 4.0).assign(**{"unique_tokens (B)": 0.004}).to_csv(path := tmp_path / "t.csv")
    with pytest.raises(TableError, match=r"2 columns may be unique_tokens .* --map unique_tokens=COLUMN"):
        isoflop.read_table(path)


@pytest.mark.parametrize(
    ("column", "name", "scale"),
    [
        ("unique (B)", "unique_tokens", 1e9), ("batch_size (M tokens)", "batch_tokens", 1e6),
        ("steps (k)", "steps_to_target", 1e3), ("total (M)", "n_params_total", 1e6),
        ("embedding_params_m", "n_params_embedding", 1e6), ("unique", "unique_tokens", 1.0),
        ("batch (sequences)", "batch_sequences", 1.0), ("warm", "warmup_tokens", 1.0),
    ],
)  # fmt: skip
def test_a_named_column_keeps_the_unit_of_its_name(column, name, scale):
    assert count_as(column, name).scale == scale


def test_map_of_a_column_with_a_unit_is_noted_with_it(tmp_path):
    runs("text (B)", 4.0).to_csv(path := tmp_path / "t.csv")
    table = isoflop.read_table(path, mapping={"unique_tokens": "text (B)"})
    assert (table["unique_tokens"] == 4e9).all()
    assert "unique_tokens is the column text (B) (times 1e+09)" in table.attrs["notes"]


@pytest.mark.parametrize(
    ("column", "wrong", "right"),
    [
        ("unique_tokens", 4.0, 4e9), ("batch_tokens", 0.03, 3e4), ("steps_to_target", 0.2, 200.0),
        ("n_params_total", 1e3, 1e10),
    ],
)  # fmt: skip
def test_counts_that_cannot_be_single_ones_are_objected_to(column, wrong, right):
    (named,) = count_findings(runs(column, wrong))
    assert (named.code, named.severity, named.columns) == ("units", "fail", (column,))
    assert not list(count_findings(runs(column, right)))


def test_a_column_of_a_run_table_is_no_other_count():
    assert all(count_as(name, name).scale == 1 for name in NAMES if name in COUNTS)
