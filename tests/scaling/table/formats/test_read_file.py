"""A table in any separator, encoding or format is the same table; labels stay as they were written."""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.scaling.imports.assemble import ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.imports.read_table import read_table as read_source
from isoflop.scaling.imports.source import SourceError
from isoflop.scaling.table.formats.read_file import read_file
from isoflop.scaling.table.read import TableError, read_table
from tests.support.root import ROOT
from tests.support.tables.dialects import Known, by_fit, by_import, difference, write_dialect

KNOWN = pd.DataFrame({
    "run_id": ["None", "NA", "null", "nan"], "n_params": [1e6, 2e6, 4e6, 8e6], "tokens": [1e7, 2e7, 4e7, 8e7],
    "loss": [4.125, 3.75, 3.5, 3.25],
})  # fmt: skip
NUMBERS = ["n_params", "tokens", "loss"]


@pytest.mark.parametrize("column", ["run_id", "trunk_id", "arm", "dataset", "optimizer"])
def test_labels_that_look_like_missing_values_survive(tmp_path, column):
    path = tmp_path / "runs.csv"
    KNOWN.rename(columns={"run_id": column}).assign(lr=["1", "NA", "nan", ""]).to_csv(path, index=False)
    if column == "optimizer":  # a column of text among whose values are such words
        path.write_text(path.read_text().replace("nan,8", "adam,8"))
    table = read_table(path)
    assert table[column].tolist() == ["None", "NA", "null", "adam" if column == "optimizer" else "nan"]
    assert table["lr"].isna().tolist() == [False, True, True, True]


def test_a_mapped_label_and_numeric_labels(tmp_path):
    path = tmp_path / "runs.csv"
    KNOWN.rename(columns={"run_id": "group"}).to_csv(path, index=False)
    assert read_table(path, mapping={"arm": "group"})["arm"].tolist() == KNOWN["run_id"].tolist()
    KNOWN.assign(run_id=[1, 2, 3, 4], arm=["1", "2", "NA", ""]).to_csv(path, index=False)
    table = read_table(path)
    assert table["run_id"].tolist() == [1, 2, 3, 4]
    assert table["arm"].tolist()[:3] == ["1", "2", "NA"]
    assert pd.isna(table["arm"].iloc[3])


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.sampled_from(["None", "NA", "null", "nan", "N/A", "base", "#1", "a b", "<NA>"]), min_size=4, max_size=4)
)
def test_every_label_comes_back(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("labels") / "runs.csv"
    KNOWN.assign(arm=names)[["loss", "arm", "n_params", "tokens"]].to_csv(path, index=False)
    assert read_table(path)["arm"].tolist() == names


def arrow(frame: pd.DataFrame, writer) -> bytes:
    table, made = pa.Table.from_pandas(frame), io.BytesIO()
    with writer(made, table.schema) as file:
        file.write_table(table)
    return made.getvalue()


def _written(frame: pd.DataFrame, form: str) -> tuple[str, bytes]:
    text = frame.to_csv(index=False)
    if form == "decimal commas":
        return "r.csv", frame.to_csv(index=False, sep=";", decimal=",").encode()
    forms = {
        "plain": ("r.csv", text.encode()),
        "semicolons": ("r.csv", frame.to_csv(index=False, sep=";").encode()),
        "tabs": ("r.csv", frame.to_csv(index=False, sep="\t").encode()),
        "tsv": ("r.tsv", frame.to_csv(index=False, sep="\t").encode()),
        "blanks": ("r.txt", frame.to_csv(index=False, sep=" ").encode()),
        "comma and blank": ("r.csv", text.replace(",", ", ").encode()),
        "comments": ("r.csv", f"# made today\n#\n{text}# the end\n".encode()),
        "header in a comment": ("r.csv", f"# our runs\n# {text}".encode()),
        "windows": ("r.csv", text.replace("\n", "\r\n").encode("utf-8-sig")),
        "utf-16": ("r.csv", text.encode("utf-16")),
        "utf-16-be": ("r.csv", b"\xfe\xff" + text.encode("utf-16-be")),
        "jsonl": ("r.jsonl", frame.to_json(orient="records", lines=True).encode()),
        "json by line": ("r.json", frame.to_json(orient="records", lines=True).encode()),
        "json": ("r.json", frame.to_json(orient="records").encode()),
        "json in a key": ("r.json", json.dumps({"made": 1, "runs": frame.to_dict("records")}).encode()),
        "json columns": ("r.json", frame.to_json(orient="columns").encode()),
        "feather": ("r.feather", arrow(frame, pa.ipc.new_file)),
        "arrow": ("r.arrow", arrow(frame, pa.ipc.new_file)),
        "arrow stream": ("r.arrow", arrow(frame, pa.ipc.new_stream)),
    }
    return forms[form]


MARKDOWN = (
    "| run_id | n_params | tokens | loss |\n|---|---:|---:|---:|\n"
    + "".join(f"| {' | '.join(map(str, row))} |\n" for row in KNOWN.itertuples(index=False))
).encode()


def zipped(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("inside", content)
    return made.getvalue()


FORMS = [
    "plain", "semicolons", "decimal commas", "tabs", "tsv", "blanks", "comma and blank", "comments",
    "header in a comment", "windows", "utf-16", "utf-16-be", "jsonl", "json by line", "json", "json in a key",
    "json columns", "feather", "arrow", "arrow stream",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_by_fit_and_import_alike(tmp_path, form):
    name, content = _written(KNOWN, form)
    (tmp_path / name).write_bytes(content)
    table = read_table(tmp_path / name)
    np.testing.assert_allclose(table[NUMBERS].astype(float), KNOWN[NUMBERS])
    assert table["run_id"].tolist() == KNOWN["run_id"].tolist()
    made = import_source(tmp_path / name, "auto", ImportOptions(), {})
    np.testing.assert_allclose(made.table[NUMBERS], KNOWN[NUMBERS])


SUFFIXES = ("csv", "CSV", "tsv", "tab", "txt", "TXT", "md", "dat", "log", "out", "asc", "table", "")
PACKINGS = {"": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zip": zipped}


UNNAMED = ("plain", "tabs", "blanks", "markdown")  # forms that a file's name may not tell


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("form", UNNAMED)
def test_what_fit_reads_import_reads_whatever_the_file_is_called(tmp_path, suffix, form):
    """Every form under every name: every name and every form in all packings, two of them where it is plain."""
    content = MARKDOWN if form == "markdown" else _written(KNOWN, form)[1]
    turn = SUFFIXES.index(suffix) + UNNAMED.index(form)
    packings = list(PACKINGS.items())
    for packing, pack in (packings[turn % 5], packings[(turn - 1) % 5])[: 1 + (form == "plain")]:
        path = tmp_path / ".".join(part for part in ("r", suffix, packing) if part)
        path.write_bytes(pack(content))
        table, made = read_table(path), import_source(path, "auto", ImportOptions(), {})
        for found in (table, read_source(path), made.ends):
            np.testing.assert_allclose(found[NUMBERS].astype(float), KNOWN[NUMBERS])
            assert found["run_id"].tolist() == KNOWN["run_id"].tolist()


@pytest.mark.slow
def test_packed_tables_in_a_folder_are_found(tmp_path):
    for k, packing in enumerate(PACKINGS):
        name = ".".join(part for part in (f"r{k}", "CSV", packing) if part)
        (tmp_path / name).write_bytes(PACKINGS[packing](KNOWN.assign(run_id=[f"{k}-{i}" for i in range(4)])
                                                        .to_csv(index=False).encode()))  # fmt: skip
    assert len(import_source(tmp_path, "auto", ImportOptions(), {}).ends) == 4 * len(PACKINGS)
    assert len(read_source(tmp_path)) == 4 * len(PACKINGS)


def test_what_is_said_of_a_whole_file_beside_its_columns_is_no_column(tmp_path):
    held = {"meta": {"by": "us", "n": 4}, "made": "today", **KNOWN.to_dict("list")}
    (tmp_path / "r.json").write_text(json.dumps(held))
    table = read_table(tmp_path / "r.json")
    assert table[[*KNOWN]].to_dict("list") == KNOWN.to_dict("list")
    assert "meta" not in table


@pytest.mark.parametrize("name", [".ipynb_checkpoints/r0-checkpoint.csv", ".r0.csv", "deep/.cache/r.csv", "~$r.xlsx"])
def test_hidden_copies_in_a_folder_are_not_read_and_said(tmp_path, name):
    KNOWN.to_csv(tmp_path / "r0.csv", index=False)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    KNOWN.assign(loss=9.0).to_csv(tmp_path / name, index=False)
    found = import_source(tmp_path, "auto", ImportOptions(), {})
    assert found.table["loss"].tolist() == KNOWN["loss"].tolist()
    assert f"hidden files are not read: {name}" in found.notes
    (tmp_path / "r0.csv").unlink()
    with pytest.raises(SourceError, match=r"nothing to import .*; hidden files are not read: "):
        import_source(tmp_path, "auto", ImportOptions(), {})


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(st.sampled_from(FORMS), st.permutations(list(KNOWN)), st.integers(2, 10))
def test_a_known_table_comes_back_from_every_form(tmp_path_factory, form, order, scale):
    frame = KNOWN.assign(loss=KNOWN["loss"] / scale)[order]
    name, content = _written(frame, form)
    path = tmp_path_factory.mktemp("forms") / name
    path.write_bytes(content)
    table = read_table(path)
    np.testing.assert_allclose(table[NUMBERS].astype(float), frame[NUMBERS], rtol=1e-9)
    assert table["run_id"].tolist() == frame["run_id"].tolist()


def test_the_index_of_a_parquet_is_read(tmp_path):
    KNOWN.set_index("run_id").to_parquet(tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet")["run_id"].tolist() == KNOWN["run_id"].tolist()
    KNOWN.set_index(["n_params", "tokens"]).to_parquet(tmp_path / "b.parquet")
    assert read_table(tmp_path / "b.parquet")["tokens"].tolist() == KNOWN["tokens"].tolist()
    KNOWN.iloc[[3, 1]].to_parquet(tmp_path / "c.parquet")
    assert read_table(tmp_path / "c.parquet").index.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", b"n_params;tokens;loss\n1,234;1,000;3,125\n2,345;2,000;3,001\n", "may part thousands or decimals"),
        ("r.csv", b"1e6,1e7,4.0\n2e6,1e7,3.9\n", "holds numbers, not names"),
        ("r.csv", b"a,b\n1,2,3\n4,5,6\n", "rows have more values than the header"),
        ("r.xls", b"PK", "save its sheet as CSV or .xlsx"),
        ("r.json", b"[1, 2]", "not a list of records"),
        ("r.jsonl", b"[1]\n[2]\n", "not a record a line"),
        ("r.json", b"{", "cannot be read as json"),
        ("r.json", b'{"N": [1, 2], "loss": [3]}', "no columns of one length .N: 2 values, loss: 1 values"),
        ("r.csv", b"# nothing\n", "the file is empty"),
        ("r.json", b'{"m": {"a": 1}, "N": {"0": 1e8}, "loss": [3]}', "column N is an object and loss is none"),
        ("r.pkl", b"\x80\x04\x95\0\0", r"bytes that are no text\); save the rows of a .pkl file as parquet or CSV"),
        ("r.npz", b"PK\x03\x04\0\0", "save the rows of a .npz file as parquet or CSV"),
        ("r.feather", b"FEA1\0\0", "r.feather: cannot be read as Arrow"),
        ("r.arrow", b"ARROW1\0\0", "r.arrow: cannot be read as Arrow"),
    ],
)
def test_what_cannot_be_read_says_what_to_do(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=message):
        read_table(tmp_path / name)


def test_trailing_separators_and_latin_letters(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("n_params,tokens,loss\n1e6,1e7,4.0,\n2e6,1e7,3.9,\n")
    assert read_file(path, [])["n_params"].tolist() == [1e6, 2e6]
    path.write_bytes("arm,loss\nr\u00e9f,4.0\n".encode("cp1252"))
    notes: list[str] = []
    assert read_file(path, notes)["arm"].tolist() == ["r\u00e9f"]
    assert notes == ["the file is not UTF-8: read as Windows Latin (cp1252)"]


def test_a_row_whose_name_begins_with_a_hash_is_a_row_and_one_commented_out_is_counted(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("# ours\nrun_id,n_params,loss\n#3,1e6,4.0\nbase,2e6,3.9\n# old,3e6,3.8\n#note\n")
    notes: list[str] = []
    assert read_file(path, notes)["run_id"].tolist() == ["#3", "base"]
    assert notes == ["1 lines as wide as a row are left out as comments, they begin with # (# old,3e6,3.8)"]
    path.write_text("n_params,loss\n1e6,4.0\n#2e6,3.9\n4e6,3.8\n")
    notes = []
    assert read_file(path, notes)["n_params"].tolist() == [1e6, 4e6]
    assert "(#2e6,3.9)" in notes[0]


@pytest.mark.slow
def test_a_sheet_is_read_where_openpyxl_is_installed_and_else_what_to_install_is_said(tmp_path, typed):
    path = tmp_path / "runs.xlsx"
    if find_spec("openpyxl") is None:
        path.write_bytes(b"PK")
        code, out, error = typed("fit", path)
        assert (code, out) == (2, "")
        assert error.splitlines() == [
            f"isoflop: {path}: a spreadsheet is read by openpyxl; pip install 'isoflop[excel]', or save the sheet as "
            "CSV"
        ]
        return
    runs = pd.DataFrame({"Params (M)": [1.0, 2.5, 4.0], "Tokens": ["1.3B", "2B", "4e9"], "val_loss": [4.1, 3.9, 3.7]})
    with pd.ExcelWriter(path, engine="openpyxl") as book:
        runs.assign(val_loss=9.0).to_excel(book, sheet_name="old", index=False)
        runs.to_excel(book, sheet_name="runs", index=False)
    with pytest.raises(TableError, match=r"2 sheets \(old, runs\); name one with --sheet NAME"):
        read_table(path)
    with pytest.raises(TableError, match="no sheet 'new'"):
        read_table(path, sheet="new")
    table = read_table(path, sheet="runs")
    assert table[["n_params", "tokens", "loss"]].to_numpy().tolist() == [
        [1e6, 1.3e9, 4.1], [2.5e6, 2e9, 3.9], [4e6, 4e9, 3.7]
    ]  # fmt: skip


def test_a_sheet_of_what_is_no_spreadsheet_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("n_params,tokens,loss\n1e6,1e7,3\n")
    for path in (tmp_path / "t.csv", tmp_path):
        with pytest.raises(TableError, match="--sheet runs is for a spreadsheet"):
            read_table(path, sheet="runs")


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32))
def test_a_known_table_comes_back_from_every_dialect(tmp_path_factory, seed):
    known = write_dialect(np.random.default_rng(seed), tmp_path_factory.mktemp("dialect"))
    for door in (by_fit, by_import):
        assert difference(known, *door(known.path)) == "", known.printed


FILES = ROOT / "tests" / "support" / "files" / "tables"


@pytest.mark.parametrize("file", sorted(path.name for path in FILES.iterdir() if path.name != "known.csv"))
def test_the_same_nine_runs_in_every_kind_of_file(file):
    unit = "nats/byte" if file == "units.csv" else "nats/token"
    known = Known(FILES / file, pd.read_csv(FILES / "known.csv", keep_default_na=False, dtype={"run_id": str}), unit)
    for door in (by_fit, by_import):
        assert difference(known, *door(known.path)) == ""


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet"])
def test_a_cell_that_holds_a_list_or_an_object_is_its_text(tmp_path, suffix):
    """Nothing can count or compare a container: a table with one is refused or read, never a traceback."""
    path = tmp_path / f"t.{suffix}"
    rows = [{"n_params": 1e7, "tokens": 1e9, "loss": 3.0, "tags": ["a", {"b": [1.5]}], "config": {"lr": 0.1}}] * 2
    if suffix == "parquet":
        rows = [row | {"tags": ["a", "b"]} for row in rows]
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows) if suffix == "json" else "".join(json.dumps(row) + "\n" for row in rows))
    table = read_file(path, [])
    assert [json.loads(text) for text in table["tags"]] == [row["tags"] for row in rows]
    assert [json.loads(text) for text in table["config"]] == [{"lr": 0.1}] * 2
    for column in ("n_params", "tokens", "loss"):
        wrong = tmp_path / f"wrong.{suffix}"
        of_lists = [row | {column: [1.0]} for row in rows]
        if suffix == "parquet":
            pq.write_table(pa.Table.from_pylist(of_lists), wrong)
        else:
            wrong.write_text(
                json.dumps(of_lists) if suffix == "json" else "".join(json.dumps(r) + "\n" for r in of_lists)
            )
        with pytest.raises(TableError, match=rf"wrong\.{suffix}: .*{column}"):
            read_table(wrong)


@pytest.mark.parametrize("packing", [name for name in PACKINGS if name])
def test_a_packed_file_that_unfolds_to_too_much_is_refused(tmp_path, packing, monkeypatch):
    path = tmp_path / f"r.csv.{packing}"
    path.write_bytes(PACKINGS[packing](KNOWN.to_csv(index=False).encode()))
    whole = len(KNOWN.to_csv(index=False))
    monkeypatch.setattr("isoflop.scaling.table.formats.packed.UNPACKED", whole)
    assert len(read_file(path, [])) == 4
    monkeypatch.setattr("isoflop.scaling.table.formats.packed.UNPACKED", whole - 1)
    with pytest.raises(TableError, match=rf"r\.csv\.{packing}: it unpacks to more than {whole - 1:,} bytes"):
        read_file(path, [])


@pytest.mark.parametrize(
    "text", ["a," * 3_000_000, "n_params,tokens,loss\n1,2,3\n" + "7" * 5_000_000, "\n" * 5_000_000]
)
def test_a_line_too_long_and_lines_of_nothing_end_at_once(tmp_path, text):
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(TableError, match=r"a line has [56],000,000 characters|the file is empty"):
        read_file(tmp_path / "r.csv", [])


@pytest.mark.parametrize(
    ("name", "text", "reported"),
    [
        ("r.jsonl", '{"loss": 3.0}\n{"loss": "' + "x" * 100 + '"}\n', r"line 2 has 112 characters, and a row"),
        ("r.json", json.dumps([{"loss": 3.0}] * 20), r"\d+ characters of JSON, and at most 90 are read"),
        ("r.csv", "loss,n\n3.0," + "x" * 100 + "\n", r"a line has 104 characters, and a row of a table at most 90"),
    ],
)
def test_what_is_too_long_for_a_row_or_for_one_value_is_refused_before_it_is_parsed(
    tmp_path, name, text, reported, monkeypatch
):
    (tmp_path / name).write_text(text)
    for module in ("text", "json_rows"):
        monkeypatch.setattr(f"isoflop.scaling.table.formats.{module}.LONGEST_LINE", 90)
    monkeypatch.setattr("isoflop.scaling.table.formats.json_rows.LARGEST_JSON", 90)
    with pytest.raises(TableError, match=reported):
        read_file(tmp_path / name, [])


@pytest.mark.parametrize(("at", "value"), [(6, 1), (8, 99), (4, 84)], ids=["encrypted", "method", "version"])
def test_a_zip_that_cannot_be_unpacked_here_names_the_file(tmp_path, at, value):
    """A flag, a method or a version that zipfile does not know, in both of its headers."""
    packed = bytearray(zipped(KNOWN.to_csv(index=False).encode()))
    packed[at] = value
    packed[packed.index(b"PK\x01\x02") + at + 2] = value
    (tmp_path / "table.csv.zip").write_bytes(packed)
    with pytest.raises(TableError, match=r"table\.csv\.zip"):
        read_file(tmp_path / "table.csv.zip", [])


@pytest.mark.parametrize("words", [["cls", "max", "mean", "sum"], ["last", "mean"], ["median", "total"]])
def test_a_setting_called_like_a_summary_sums_up_no_rows(tmp_path, words):
    path = tmp_path / "r.csv"
    rows = [f"{word},{n}e6,{n}e7,{5 - n / 10}" for word in words for n in (1, 2, 3)]
    path.write_text("\n".join(["pooling,n_params,tokens,loss", *rows]))
    notes: list[str] = []
    assert len(read_file(path, notes)) == len(rows)
    assert notes == []
    path.write_text(path.read_text() + "\nAverage,2e6,2e7,4.8\nstd,1e6,1e7,0.1\n")
    assert len(read_file(path, notes)) == len(rows)
    assert notes == [
        "2 rows at the end are left out, they sum up the others by column pooling (Average, std); rename them there "
        "where they are runs"
    ]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085", "\x1c", "\x0b", "\x0c"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_line_of_json_ends_where_json_says(tmp_path, mark, end):
    path = tmp_path / "r.jsonl"
    text = mark if mark in "\u2028\u2029\u0085" else json.dumps(mark)[1:-1]
    rows = [f'{{"arm": "a{text}b", "n_params": 1e6, "tokens": 1e7, "loss": {loss}}}' for loss in (4, 3.5)]
    path.write_bytes(end.join(rows).encode())
    assert read_file(path, [])["arm"].tolist() == [f"a{mark}b"] * 2
