"""What stands for a table: DataFrames, and what becomes one."""

import pandas as pd
import pyarrow as pa
import pytest

from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.formats.data_frame import as_frame

PLAIN = pd.DataFrame({"n_params": [1e6, 2e6, 4e6, 8e6], "tokens": [2e7, 3e7, 4e7, 5e7], "loss": [4.0, 3.5, 3.2, 3.1]})


def test_the_remedies_work():
    doubled = pd.concat([PLAIN, PLAIN[["loss"]]], axis=1)
    assert len(points(doubled.loc[:, ~doubled.columns.duplicated()])) == 4
    inside = PLAIN.set_index(["n_params", "tokens"])
    with pytest.raises(TableError, match=r"n_params, tokens is in the index; table\.reset_index\(\)"):
        points(inside)
    assert points(inside.reset_index()).frame["n_params"].tolist() == PLAIN["n_params"].tolist()


@pytest.mark.parametrize("made", [PLAIN.to_dict("list"), PLAIN.to_dict("records"), pa.Table.from_pandas(PLAIN)])
def test_columns_by_name_records_and_tables_of_others_are_taken(made):
    assert as_frame(made).to_numpy(float).tolist() == PLAIN.to_numpy(float).tolist()
    assert len(points(made)) == 4


def test_a_column_that_nothing_reads_may_be_there_twice():
    noted = pd.concat([PLAIN, pd.DataFrame([["a", "b"]] * 4, columns=["note", "note"])], axis=1)
    assert len(points(noted)) == 4
