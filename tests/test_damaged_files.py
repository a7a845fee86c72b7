"""Damaged files, and what is no file, through every reader: refused by an error that names the file, or read."""

import os

import pytest

from tests.support.doors.fuzz_case import SPECIAL, run_case, run_special
from tests.support.doors.readers import READERS, turns
from tests.support.doors.sound import write_files

pytestmark = pytest.mark.slow

CASES = 300


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    cache = os.environ.get("XDG_CACHE_HOME")
    umask = os.umask(0o027)
    try:
        yield write_files(tmp_path_factory.mktemp("sound"))
    finally:
        os.umask(umask)
    os.environ.pop("XDG_CACHE_HOME")
    os.environ |= {} if cache is None else {"XDG_CACHE_HOME": cache}


COPIED = ("huggingface", "levanter", "lm_eval", "mlruns")  # with their own modes
PRIVATE = "cache"


def test_every_file_that_is_written_has_the_mode_of_the_umask(sound):
    files = {path: path.relative_to(sound).parts[0] for path in sound.rglob("*") if path.is_file()}
    wrong = [
        f"{path.relative_to(sound)}: {path.stat().st_mode & 0o777:o}" for path, top in files.items()
        if top not in (*COPIED, PRIVATE) and path.stat().st_mode & 0o777 != 0o640
    ]  # fmt: skip
    assert wrong == []
    assert (sound / PRIVATE / "isoflop").stat().st_mode & 0o777 == 0o700


def by_process(run, things):
    """What a fork says of each thing: a reader may join a group of processes, or end its own."""
    at, to = os.pipe()
    child = os.fork()
    if child == 0:
        with os.fdopen(to, "w") as file:
            for thing in things:
                print(f"{thing}: {run(thing)!r}", file=file, flush=True)
        os._exit(0)
    os.close(to)
    with os.fdopen(at) as file:
        reported = file.read().splitlines()
    assert os.waitpid(child, 0)[1] == 0, reported[-1:]
    assert len(reported) == len(things)
    return [line for line in reported if not line.endswith(": ''")]


def test_a_quick_part_of_the_damaged_files(sound, tmp_path):
    readers = turns(READERS)
    assert by_process(lambda case: run_case(readers, case, 7, sound, tmp_path), range(CASES)) == []


@pytest.mark.parametrize("kinds", [("pipe",), tuple(SPECIAL)], ids=["pipe", "in turns"])
def test_every_reader_refuses_what_is_no_file_of_its_kind(sound, tmp_path, kinds):
    each = {reader.name: (reader, kinds[k % len(kinds)]) for k, reader in enumerate(READERS)}
    assert by_process(lambda name: run_special(*each[name], sound, tmp_path), list(each)) == []
