"""A number with a comma is what its writer meant, or the file is refused: no dot or comma vanishes unsaid."""

import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.scaling.table.formats.read_file import read_file
from isoflop.scaling.table.read import TableError, read_table

BOTH_MARKS = r"{} has a comma in row {} \({}\) and a dot in row {} \({}\), and either may part decimals"


def table(tmp_path, text, name="runs.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("N;D;loss\n1e8;1e9;3.37\n2e8;1e9;3,063\n3e8;1e9;2.946\n", ("loss", 2, "3,063", 1, "3.37")),
        ("N;D;loss\n1e8;1e9;3.201\n2e8;1e9;3,063\n", ("loss", 2, "3,063", 1, "3.201")),  # no loss has thousands
        ("N;Tokens (B);loss\n1e8;2,5;3\n2e8;5.0;2\n", (r"Tokens \(B\)", 1, "2,5", 2, "5.0")),
        ("N;Tokens (B);loss\n1e8;2,5;3\n2e8;1.250;2\n", (r"Tokens \(B\)", 1, "2,5", 2, "1.250")),
        ('N,D,loss\n1e8,1e9,"3,37"\n2e8,1e9,3.063\n', ("loss", 1, "3,37", 2, "3.063")),
    ],
)
def test_both_marks_in_a_column_name_a_cell_of_each(tmp_path, text, place):
    with pytest.raises(TableError, match=BOTH_MARKS.format(*place)):
        read_table(table(tmp_path, text))


def test_dots_part_thousands_where_the_file_shows_it_and_decimals_where_it_shows_that(tmp_path):
    notes: list[str] = []
    german = table(tmp_path, "Params (M);Tokens (B);loss\n124;1.250,5;3,37\n1.500;5.000;3,20\n")
    assert read_file(german, notes).to_numpy().tolist() == [[124, 1250.5, 3.37], [1500, 5000, 3.2]]
    assert notes[-1] == "dots part the thousands in Params (M)"
    mixed = table(tmp_path, "Params (M);Tokens (B);loss\n124;2.5;3,37\n1.500;5.1;3,20\n")
    assert read_file(mixed, notes).to_numpy().tolist() == [[124, 2.5, 3.37], [1.5, 5.1, 3.2]]
    assert "dots part decimals in Tokens (B), Params (M)" in notes
    losses = table(tmp_path, "Tokens (B);loss\n2,5;3.375\n5,1;3.201\n")
    assert read_file(losses, []).to_numpy().tolist() == [[2.5, 3.375], [5.1, 3.201]]


def test_a_missing_value_hides_no_decimal_comma(tmp_path):
    frame = read_file(table(tmp_path, 'N,loss\n1e8,"3,063"\n2e8,"2,946"\n4e8,n/a\n'), [])
    assert frame["loss"].tolist()[:2] == [3.063, 2.946]
    assert pd.isna(frame["loss"].iloc[2])


@pytest.mark.parametrize("name", ["r.json", "r.jsonl", "r.parquet"])
def test_texts_of_json_and_parquet_are_read_as_those_of_a_csv(tmp_path, name):
    rows = [{"N": 1e8, "loss": "3,063"}, {"N": 2e8, "loss": "2,946"}, {"N": 4e8, "loss": None}]
    path = tmp_path / name
    if name == "r.parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text(json.dumps(rows) if name == "r.json" else "\n".join(map(json.dumps, rows)))
    notes: list[str] = []
    assert read_file(path, notes)["loss"].tolist()[:2] == [3.063, 2.946]
    assert notes == ["numbers are written with a decimal comma in loss"]


def test_a_number_of_a_json_file_keeps_its_dot_beside_a_text_with_a_comma(tmp_path):
    path = table(
        tmp_path, '[{"D": "2,5", "loss": 3}, {"D": 1.25, "loss": 2}, {"D": "1.238.144,5", "loss": 2}]', "r.json"
    )
    with pytest.raises(TableError, match=BOTH_MARKS.format("D", 1, "2,5", 2, "1.25")):
        read_file(path, [])


def test_a_number_of_a_sheet_keeps_its_dot(tmp_path):
    pytest.importorskip("openpyxl")
    path = tmp_path / "r.xlsx"
    pd.DataFrame({"Params (M)": [1.238, 2.375], "loss": ["3,2", "3,063"]}).to_excel(path, index=False)
    assert read_file(path, []).to_numpy().tolist() == [[1.238, 3.2], [2.375, 3.063]]
    pd.DataFrame({"Params (M)": [1.238, 2.375], "loss": ["3,2", 3.063]}).to_excel(path, index=False)
    with pytest.raises(TableError, match=BOTH_MARKS.format("loss", 1, "3,2", 2, "3.063")):
        read_file(path, [])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(100, 99_999), st.sampled_from([1, 2, 3]), st.booleans()), min_size=2, max_size=6),
    st.sampled_from([";", "\t"]),
)
def test_every_loss_is_read_as_written_or_the_file_is_refused(tmp_path_factory, cells, separator):
    losses = [value / 1000 for value, _, _ in cells]
    texts = [f"{value:.{digits}f}" for value, (_, digits, _) in zip(losses, cells, strict=True)]
    written = [text.replace(".", ",") if comma else text for text, (*_, comma) in zip(texts, cells, strict=True)]
    lines = [separator.join(["N", "D", "loss"]), *(separator.join(["1e8", "2e9", text]) for text in written)]
    path = table(tmp_path_factory.mktemp("drawn"), "\n".join(lines) + "\n")
    if len({comma for *_, comma in cells}) == 2:
        with pytest.raises(TableError, match="write all of its numbers with one decimal mark"):
            read_table(path)
    else:
        assert read_file(path, [])["loss"].tolist() == [float(text) for text in texts]
