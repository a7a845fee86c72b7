"""A runs folder read as one gives what its files give one by one, whatever lies in it and beside it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.scaling.table import cells, runs
from isoflop.scaling.table.cells import SHARD_FILE
from isoflop.scaling.table.formats.run_columns import COLUMNS, NAMES
from isoflop.scaling.table.migrate import ADDED, complete
from isoflop.scaling.table.runs import RunTableError, keep_together, read_runs, write_run
from tests.support.doors.damage import damaged
from tests.support.root import RESULTS, ROOT

RUNS = dict(iter(read_runs(RESULTS / "quick.parquet").groupby("run_id")))
IDS = sorted(RUNS)
OTHER = b"PAR1" + b"a,b\n1,2\n" * 40
KINDS = (
    "whole",
    "older",
    "partly",
    "wider",
    "other types",
    "empty cell",
    "newer",
    "no table",
    "damaged",
    "twin",
    "none",
)


def one_by_one(folder):
    """The rows of a runs folder as its files give them, each read and converted by itself."""
    files = sorted(folder.glob("cells/*/run.parquet"))
    if not files:
        return "no finished run"
    try:
        frame = complete(pd.concat([runs._read(file).to_pandas() for file in files], ignore_index=True))
        frame = frame[list(NAMES)].astype({c.name: runs._PANDAS_DTYPE[c.dtype] for c in COLUMNS})
    except (ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return frame.sort_values(["run_id", "step"], kind="stable", ignore_index=True)


def as_one(folder):
    try:
        return read_runs(folder)
    except (ValueError, KeyError) as error:
        return "no finished run" if "no finished run" in str(error) else f"{type(error).__name__}: {error}"


def same(folder, times=1):
    """Whether a folder read as one is what its files are one by one, with the same types, or the same message."""
    expected = one_by_one(folder)
    for _ in range(times):
        found = as_one(folder)
        if isinstance(expected, str):
            assert found == expected
        else:
            pd.testing.assert_frame_equal(found, expected, check_exact=True)
    return True


def write(file, run_id, kind="whole", seed=0):
    """The file of a cell, of a kind of KINDS."""
    file.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    rows = RUNS[IDS[seed % len(IDS)] if kind == "twin" else run_id].iloc[: 1 + seed % 7]
    table = pa.Table.from_pandas(rows.assign(final=False), schema=runs._ARROW_SCHEMA, preserve_index=False)
    version = runs.SCHEMA_VERSION
    if kind == "older":
        table = table.drop_columns(list(ADDED))
    elif kind == "partly":
        table = table.drop_columns([str(random.choice([*ADDED, "loss"]))])
    elif kind == "wider":
        table = table.append_column("note", pa.array(["x"] * len(rows))).select([*reversed(NAMES), "note"])
    elif kind == "other types":
        values = pa.array([float(v) + seed % 3 // 2 / 2 for v in rows["step"]])
        table = table.set_column(table.column_names.index("step"), "step", values)
    elif kind == "empty cell":
        name = str(random.choice(["loss", "arm", "seed"]))
        at = table.column_names.index(name)
        table = table.set_column(at, name, pa.nulls(len(rows), table.schema.field(name).type))
    elif kind == "newer":
        version += 1
    temporary = file.with_name(".new")
    if kind == "no table":
        pq.write_table(table, temporary)
    else:
        runs._write(temporary, table, {"schema_version": version, "config": {}})
    if kind == "damaged":
        temporary.write_bytes(damaged(temporary.read_bytes(), OTHER, random))
    os.replace(temporary, file)


@pytest.fixture
def eager():
    """Shards are made of any cell that a reader reads itself, however lately it was written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "LOOSE", 1)
        patch.setattr(cells, "UNSETTLED_NS", -(10**18))
        yield patch


def store(folder, count=5):
    for seed, run_id in enumerate(IDS[:count]):
        write(folder / "cells" / run_id / "run.parquet", run_id, seed=seed + 3)
    return folder


def held(folder):
    return set(cells.read_shard(folder / SHARD_FILE, runs._ARROW_SCHEMA).cells)


step = st.tuples(st.integers(0, 5), st.sampled_from(KINDS), st.integers(0, 2**16))


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(st.lists(step, min_size=1, max_size=5), st.sampled_from([1, 3]), st.booleans())
def test_a_folder_is_read_as_its_files_are_one_by_one(tmp_path_factory, steps, loose, sound):
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "LOOSE", loose)
        patch.setattr(cells, "UNSETTLED_NS", -(10**18))
        for number, kind, seed in steps:
            file = folder / "cells" / IDS[number] / "run.parquet"
            if kind == "none":
                file.unlink(missing_ok=True)
            else:
                write(file, IDS[number], kind if not sound or kind in KINDS[:4] else "whole", seed)
            assert same(folder, times=2)


@pytest.mark.slow
def test_the_shard_gives_the_rows_and_cells_come_and_go(tmp_path, eager):
    assert same(store(tmp_path))
    assert held(tmp_path) == set(IDS[:5])
    eager.setattr(cells, "_quickly", lambda *_: pytest.fail("a cell of the shard was read itself"))
    assert same(tmp_path)
    eager.undo()
    (tmp_path / "cells" / IDS[1] / "run.parquet").unlink()  # deleted
    write(tmp_path / "cells" / IDS[2] / "run.parquet", IDS[2], seed=2)  # tried again
    write(tmp_path / "cells" / IDS[6] / "run.parquet", IDS[6], seed=6)  # new
    assert same(tmp_path)
    assert held(tmp_path) == set(IDS[:5])  # so few are not worth a new one
    eager.setattr(cells, "LOOSE", 2)
    eager.setattr(cells, "UNSETTLED_NS", -(10**18))
    keep_together(tmp_path)
    assert held(tmp_path) == {*IDS[:5], IDS[6]} - {IDS[1]}
    assert same(tmp_path)
    for run_id in (IDS[0], IDS[3]):
        (tmp_path / "cells" / run_id / "run.parquet").unlink()
    keep_together(tmp_path)
    assert held(tmp_path) == {IDS[2], IDS[4], IDS[6]}


@pytest.mark.slow
def test_a_change_in_place_is_seen_though_size_and_time_are_put_back(tmp_path, eager):
    assert same(store(tmp_path))
    file = tmp_path / "cells" / IDS[1] / "run.parquet"
    about, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    while True:  # until the clock of the file system has moved on
        file.write_bytes(content)
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
        if file.stat().st_ctime_ns != about.st_ctime_ns:
            break
    assert file.stat()[6:9] == about[6:9]
    assert same(tmp_path)


@pytest.mark.slow
def test_what_changed_a_moment_ago_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "LOOSE", 1)
    assert same(store(tmp_path))
    assert held(tmp_path) == set()


@pytest.mark.slow
def test_a_damaged_or_foreign_shard_is_as_none_and_made_anew(tmp_path, eager):
    here, there = store(tmp_path / "here"), store(tmp_path / "there", 3)
    assert same(here)
    assert same(there)
    good, foreign = (here / SHARD_FILE).read_bytes(), (there / SHARD_FILE).read_bytes()
    random = np.random.default_rng(0)
    expected = read_runs(here)
    bad = [damaged(good, OTHER, random) for _ in range(8)] + [good[:n] for n in (0, 10, 60, len(good) - 1)]
    for content in [*filter(lambda found: found != good, bad), OTHER, foreign]:
        (here / SHARD_FILE).write_bytes(content)
        assert held(here) == (set(IDS[:3]) if content == foreign else set())
        assert read_runs(here).equals(expected)
        assert held(here) == set(IDS[:5])
    (here / SHARD_FILE).unlink()
    os.mkfifo(here / SHARD_FILE)  # nobody waits for it
    assert read_runs(here).equals(expected)


@pytest.mark.slow
def test_a_shard_of_other_columns_is_as_none(tmp_path, eager):
    assert same(store(tmp_path))
    fewer = runs._ARROW_SCHEMA.remove(3)
    assert not cells.read_shard(tmp_path / SHARD_FILE, fewer).cells


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_read(tmp_path, eager):
    store(tmp_path)
    eager.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError("no")))
    assert same(tmp_path)
    keep_together(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
    assert held(tmp_path) == set()


def test_the_sweep_leaves_a_damaged_cell_to_its_reader(tmp_path, eager):
    store(tmp_path)
    file = tmp_path / "cells" / IDS[1] / "run.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    keep_together(tmp_path)
    with pytest.raises(RunTableError, match=IDS[1]):
        read_runs(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from isoflop.scaling.table import cells
from isoflop.scaling.table.runs import keep_together
cells.LOOSE, cells.UNSETTLED_NS = 1, -(10**18)
replace, digest = os.replace, cells._digest
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
class Half:
    def __init__(self, file): self.file, self.left = file, 2
    def __enter__(self): return self
    def __exit__(self, *_): self.file.close()
    def write(self, content):
        self.left -= 1
        self.file.write(content if self.left else memoryview(content)[:1000])
        if not self.left:
            self.file.flush(); die()
def opened(path, mode="r", **rest):
    file = open(path, mode, **rest)
    return Half(file) if mode == "xb" else file
for folder, at in zip(sys.argv[1:], ("half", "before", "after"), strict=True):
    if os.fork():
        os.wait()
        continue
    if at == "half":
        cells.open = opened
    elif at == "before":
        os.replace = die
    else:
        os.replace = lambda *paths: (replace(*paths), die())
    keep_together(Path(folder))
    os._exit(3)
"""


@pytest.mark.process
def test_a_writer_that_is_killed_leaves_right_answers(tmp_path, eager):
    folders = [store(tmp_path / name) for name in ("half", "before", "after")]
    for folder in folders:  # an older shard, of which one cell is gone and one is new
        read_runs(folder)
        (folder / "cells" / IDS[0] / "run.parquet").unlink()
        write(folder / "cells" / IDS[7] / "run.parquet", IDS[7], seed=6)
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, folders)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [len(list(folder.glob("*.tmp"))) for folder in folders] == [1, 1, 0]
    assert [IDS[7] in held(folder) for folder in folders] == [False, False, True]
    for folder in folders:
        for left in folder.glob("*.tmp"):
            os.utime(left, (0, 0))
        assert same(folder)
        assert held(folder) == {*IDS[1:5], IDS[7]}
    assert not list(folders[0].glob("*.tmp"))  # what a killed writer left is removed by the next


def test_many_rows_and_few_are_written_differently_and_read_alike(tmp_path):
    run_id = IDS[0]
    rows = pd.concat([RUNS[run_id]] * 30).assign(step=lambda f: np.arange(len(f)), final=False)
    for count in (runs.FEW_ROWS, runs.FEW_ROWS + 1):
        file = Path(tmp_path / str(count) / "run.parquet")
        write_run(file, rows.iloc[:count].to_dict("records"), {})
        about = pq.ParquetFile(file).metadata.row_group(0).column(0)
        assert about.compression == ("UNCOMPRESSED" if count == runs.FEW_ROWS else "ZSTD")
        pd.testing.assert_frame_equal(read_runs(file), rows.iloc[:count].reset_index(drop=True), check_exact=True)
