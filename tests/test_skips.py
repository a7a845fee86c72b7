"""A skip names what is missing: one of six things, or it is a failure."""

import os
import subprocess
import sys

import pytest

from tests.support.root import ROOT
from tests.support.skips import REASONS

TEST = """
import pytest

@pytest.mark.skipif(True, reason="needs a card")
def test_card():
    pass

def test_browser():
    pytest.skip("needs a browser: chromium is not installed")

def test_mood():
    pytest.skip("not today")

def test_extra():
    pytest.importorskip("a_module_that_is_nowhere")

@pytest.mark.xfail(reason="known", strict=True)
def test_known():
    raise AssertionError
"""


@pytest.mark.process
def test_a_skip_for_another_reason_is_a_failure(tmp_path):
    (tmp_path / "test_some.py").write_text(TEST)
    (tmp_path / "test_none.py").write_text('import pytest\n\npytest.skip("later", allow_module_level=True)\n')
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", "-p", "tests.support.skips", "-ra"]
    command += ["--continue-on-collection-errors", str(tmp_path)]
    alone = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout
    assert f"for want of {', '.join(REASONS)} alone; not: Skipped: later" in done.stdout
    assert "2 failed, 2 skipped, 1 xfailed, 1 error" in done.stdout
    assert "not: Skipped: not today" in done.stdout
    assert "not: Skipped: could not import 'a_module_that_is_nowhere'" in done.stdout
