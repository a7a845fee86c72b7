"""Which compiler builds the kernels, which files of the cache are loaded, and what is said of the others."""

import os
import stat
import subprocess
import sys
from types import SimpleNamespace

import pytest

from isoflop.cache_folder import NotOursError, cache_folder, check_ours, private_folder
from isoflop.models.step import native
from tests.support.root import ROOT

pytestmark = pytest.mark.skipif(native.library() is None, reason="needs a C compiler for this processor")


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """An empty cache, and a source that is built in no time. Returns the folder of the cache."""
    source = tmp_path / "kernels.c"
    source.write_text("int one(void) { return 1; }\n")
    monkeypatch.setattr(native, "SOURCE", source)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(native.SAID, raising=False)
    monkeypatch.delenv("CC", raising=False)
    native.library.cache_clear()
    yield tmp_path / "cache" / "isoflop"
    monkeypatch.undo()
    native.library.cache_clear()


@pytest.fixture
def loaded(capsys):
    """A function that looks for the kernels as a new process would; returns whether there are any, and what it said."""

    def look():
        native.library.cache_clear()
        capsys.readouterr()
        found = native.library()
        assert found is None or found.one() == 1
        return found is not None, capsys.readouterr().err

    return look


def kept(folder):
    (path,) = folder.glob("kernels-*.so")
    return path


def no_compiler(monkeypatch):
    monkeypatch.setattr(native, "COMPILERS", ())


def test_built_once_for_this_user_alone_without_a_word(cached, loaded):
    assert loaded() == (True, "")
    assert stat.S_IMODE(cached.stat().st_mode) == 0o700
    assert stat.S_IMODE(kept(cached).stat().st_mode) == 0o700
    built = kept(cached).stat().st_mtime_ns
    assert loaded() == (True, "")
    assert kept(cached).stat().st_mtime_ns == built


def put(path, content):
    """Another file in the place of one, which this process may have loaded."""
    path.unlink()
    path.write_bytes(content)


def damage(path):
    put(path, path.read_bytes()[:-1] + b"\1")


def cut(path):
    put(path, b"")


def opened(path):
    path.chmod(0o777)


def link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("harm", [damage, cut, opened, link])
def test_a_file_that_is_damaged_or_open_to_others_is_not_loaded_and_built_again(cached, loaded, harm):
    loaded()
    harm(kept(cached))
    found, reported = loaded()
    assert found
    assert reported.count("\n") == 1
    assert f"not loaded but built again: {cached}/kernels-" in reported
    check_ours(kept(cached))
    assert loaded() == (True, "")


def test_a_file_of_another_user_is_not_loaded(cached, loaded, monkeypatch):
    loaded()
    theirs = kept(cached)

    def of_another(path):
        if path == theirs:
            raise NotOursError(f"{path} belongs to user 0")

    monkeypatch.setattr(native, "check_ours", of_another)
    monkeypatch.setattr(native, "_digest", lambda *parts: "0" * 16)
    theirs.rename(theirs := theirs.with_name(f"kernels-{'0' * 16}-{'0' * 16}-{'0' * 16}.so"))
    put(theirs, b"")  # were it loaded, it would fail
    assert loaded() == (True, f"isoflop: kernels are not loaded but built again: {theirs} belongs to user 0\n")


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o722])
def test_nothing_is_loaded_from_a_folder_that_others_could_write(cached, loaded, mode):
    loaded()
    before = kept(cached).stat().st_ino
    cached.chmod(mode)
    other = cached / "kept-open"
    other.hardlink_to(kept(cached))  # so that the number of the file is not used again
    found, reported = loaded()
    assert (found, reported.count("\n"), f"others could write {cached}" in reported) == (True, 1, True)
    assert kept(cached).stat().st_ino != before
    assert stat.S_IMODE(cached.stat().st_mode) == 0o700


def test_a_folder_that_others_could_read_becomes_private_without_a_word(cached, loaded):
    loaded()
    cached.chmod(0o755)
    assert loaded() == (True, "")
    assert stat.S_IMODE(cached.stat().st_mode) == 0o700


def test_a_folder_of_another_user_is_not_used(cached, loaded, monkeypatch):
    loaded()
    put(kept(cached), b"")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    found, reported = loaded()
    assert found
    assert reported == (
        f"isoflop: kernels are built by each process anew: {cached} belongs to user {os.getuid()}; "
        "set XDG_CACHE_HOME to a folder of yours\n"
    )
    assert kept(cached).read_bytes() == b""


def test_no_compiler_is_said_once(cached, loaded, monkeypatch):
    no_compiler(monkeypatch)
    found, reported = loaded()
    assert not found
    assert reported == (
        "isoflop: no kernels in C, so training takes about twice as long: no compiler is installed (); "
        "install gcc or clang, or set CC\n"
    )
    native.build_for_workers()
    assert loaded() == (False, "")


@pytest.mark.parametrize("broken", ["false", "no-such-compiler", "/etc/passwd", "cc --no-such-option", "'"])
def test_a_broken_compiler_is_said_and_the_next_compiler_builds(cached, loaded, monkeypatch, broken):
    monkeypatch.setenv("CC", broken)
    found, reported = loaded()
    assert found
    assert reported.startswith(f"isoflop: kernels in C: CC={broken} does not build them (")
    assert reported.endswith("; cc does\n")
    assert reported.count("\n") == 1


def test_a_compiler_may_be_named_with_options_which_make_another_build(cached, loaded, monkeypatch):
    loaded()
    monkeypatch.setenv("CC", "cc -DONE=1")
    assert loaded() == (True, "")
    assert len(list(cached.glob("*.so"))) == 2


def test_a_build_of_another_machine_serves_where_there_is_no_compiler(cached, loaded, monkeypatch):
    """A home folder that the nodes of a cluster share: built where the compiler is, for the same processor."""
    loaded()
    no_compiler(monkeypatch)
    assert loaded() == (True, "")
    monkeypatch.setattr(native, "_processor", lambda: b"another")
    assert loaded()[0] is False


def test_a_build_of_before_serves_where_the_compiler_breaks(cached, loaded, monkeypatch):
    loaded()
    no_compiler(monkeypatch)
    monkeypatch.setenv("CC", "false")
    found, reported = loaded()
    assert found
    assert reported.endswith("; those that were built before are used\n")


def test_a_build_of_another_source_serves_nobody(cached, loaded, monkeypatch):
    loaded()
    native.SOURCE.write_text("int two(void) { return 2; }\n")
    no_compiler(monkeypatch)
    assert loaded()[0] is False


def test_a_cache_that_cannot_be_written(cached, loaded, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found, reported = loaded()
    assert found
    assert "kernels are built by each process anew: " in reported
    assert reported.count("\n") == 1


def test_a_user_without_a_home_has_a_folder_of_their_own(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    assert cache_folder() == tmp_path / f"isoflop-{os.geteuid()}"
    assert private_folder() == (cache_folder(), False)


# A process that builds a source of one line and looks for it.
SCRIPT = """
import pathlib, sys
from isoflop.models.step import native
native.SOURCE = pathlib.Path(sys.argv[1])
print(native.library() is not None)
"""


@pytest.mark.process
def test_a_constructor_in_a_file_put_there_does_not_run(cached, tmp_path):
    """The attack itself: a library whose constructor leaves a mark, under a name that was loaded."""

    def run():
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(native.SOURCE)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return SimpleNamespace(out=done.stdout, err=done.stderr)

    assert run() == SimpleNamespace(out="True\n", err="")
    source, mark = tmp_path / "evil.c", tmp_path / "mark"
    source.write_text(
        f'#include <stdio.h>\n__attribute__((constructor)) void f(void) {{ fclose(fopen("{mark}", "w")); }}'
    )
    target = kept(cached)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(target), str(source)], check=True)
    message = run()
    assert message.out == "True\n"
    assert "is damaged" in message.err
    assert not mark.exists()


@pytest.mark.process
def test_two_processes_that_build_at_once(cached):
    command = [sys.executable, "-c", SCRIPT, str(native.SOURCE)]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [p.communicate()[0] for p in both] == ["True\n", "True\n"]
    assert [f.suffix for f in cached.iterdir()] == [".so"]
