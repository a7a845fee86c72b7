"""The split: a share of the bytes, decided by content and by what stands in the same file or folder alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.experiments.config import DataSpec
from isoflop.experiments.data.parts import FEW, TOLERANCE, Part, held_bytes, index_dtype, make_parts
from isoflop.experiments.data.sources import source_of
from tests.support.texts import write_texts


def index_of(sizes, files=None, folders=None, seed=0):
    """Documents of these sizes with random hashes; by default all in one file."""
    rows = np.zeros(len(sizes), index_dtype(DataSpec()))
    rows["length"] = sizes
    rows["digest"] = np.random.default_rng(seed).integers(0, 2**64, (len(sizes), 2), np.uint64)
    rows["file"] = 0 if files is None else files
    rows["folder"] = 0 if folders is None else folders
    return rows


@pytest.mark.parametrize("kind", ["text", "index", "json"])
@pytest.mark.parametrize(
    "harm", [lambda content: content[:-3], lambda content: b"", lambda content: b"x" + content[1:]]
)
def test_a_part_that_a_loss_of_power_left_short_is_made_again(tmp_path, kind, harm, caplog):
    data = DataSpec(source="files", files=[f"{write_texts(tmp_path / 'text', words=50)}/*.txt"])
    source = source_of(data)
    (part,) = make_parts(source, source.files(), tmp_path)
    sound = {kind: part.file(kind).read_bytes() for kind in ("text", "index", "json")}
    made = part.file("text").stat().st_ino, part.file("text").stat().st_mtime_ns
    make_parts(source, source.files(), tmp_path)
    assert (part.file("text").stat().st_ino, part.file("text").stat().st_mtime_ns) == made  # a whole one is kept
    part.file(kind).write_bytes(harm(sound[kind]))
    assert not part.whole()
    make_parts(source, source.files(), tmp_path)
    assert {kind: part.file(kind).read_bytes() for kind in sound} == sound
    assert ("part of a corpus made again" in caplog.text) == (kind == "json")


@pytest.mark.slow
@given(
    sizes=st.lists(st.integers(1, 10**6), min_size=FEW, max_size=120),
    fraction=st.floats(0.02, 0.6),
    in_file=st.integers(1, 40),
    in_folder=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_the_share_holds_whatever_the_documents(sizes, fraction, in_file, in_folder, seed):
    number = np.arange(len(sizes))
    index = index_of(sizes, number // in_file, number // in_folder, seed)
    held = held_bytes(index, fraction)
    assert ((held >= 0) & (held <= index["length"])).all()
    slack = TOLERANCE * fraction * sum(sizes) + len(sizes)  # a byte is not divided
    assert held.sum() == pytest.approx(fraction * sum(sizes), abs=slack)
    order = np.random.default_rng(seed).permutation(len(sizes))
    assert (held_bytes(index[order], fraction) == held[order]).all()


@pytest.mark.parametrize("seed", range(20))
def test_documents_are_whole_where_they_are_many(seed):
    rng = np.random.default_rng(seed)
    index = index_of(rng.lognormal(8, 1, rng.integers(150, 400)).astype(int), seed=seed)
    held = held_bytes(index, 1 / 12)
    assert set(np.unique(held / index["length"])) == {0.0, 1.0}
    lowest = np.argsort(index["digest"][:, 0])[: int((held > 0).sum())]
    assert (held[lowest] > 0).all()


@pytest.mark.slow
@given(
    others=st.lists(st.integers(1, 10**6), max_size=60), own_file=st.booleans(), fraction=st.floats(0.02, 0.6),
    seed=st.integers(0, 1000),
)  # fmt: skip
@settings(deadline=None)
def test_other_files_and_folders_move_nothing(others, own_file, fraction, seed):
    sizes = np.random.default_rng(seed).integers(1, 10**5, FEW)
    index = index_of(sizes, np.zeros(FEW) if own_file else np.arange(FEW), np.zeros(FEW), seed)
    rest = index_of(others, np.arange(100, 100 + len(others)), np.ones(len(others)), seed + 1)
    together = held_bytes(np.concatenate([index, rest]), fraction)
    assert (together[:FEW] == held_bytes(index, fraction)).all()


def test_no_document_of_a_large_corpus_moves_when_one_is_added():
    index = index_of(np.full(5000, 1000))
    before = held_bytes(index, 1 / 12)
    for size in (1, 1000, 10**5):
        added = np.concatenate([index, index_of([size], seed=size)])
        assert (held_bytes(added, 1 / 12)[:-1] == before).all()


@pytest.mark.parametrize(
    ("content", "at", "cut"),
    [
        (b"one\ntwo\nthree\n" * 100, 701, 700),  # at the nearest line
        (b"x" * 1000, 300, 300),  # there is none
        (b"x" * 999 + b"\n" + b"y" * 9000, 500, 500),  # none is near
        ("\u00e9".encode() * 500, 301, 300),  # not within a character
        (b"abc\n", 0, 0),
        (b"abc\n", 4, 4),
    ],
)
def test_a_document_is_divided_at_a_line(tmp_path, content, at, cut):
    part = Part(tmp_path, 0)
    part.file("text").write_bytes(content)
    row = np.zeros(1, index_dtype(DataSpec()))
    row["length"] = len(content)
    part.file("index").write_bytes(row.tobytes())
    halves = list(part.contents(DataSpec(), np.array([at])))
    assert halves == [(half, side, True) for half, side in ((content[:cut], True), (content[cut:], False)) if half]
    assert list(part.contents(DataSpec(), np.array([-1]))) == []
