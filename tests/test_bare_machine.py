"""On a bare machine: no HOME, a user without an entry in passwd, and a console of ASCII alone."""

import os
import subprocess
import sys

import pandas as pd
import pytest

from tests.support.root import ROOT

NOBODY = """import pwd
def unknown(user):
    raise KeyError(f"getpwuid(): uid not found: {user}")
pwd.getpwuid = unknown
"""  # in every process: nobody has an entry
TABLE = pd.DataFrame({
    "run_id": [f"l\u00e4uf-{k}" for k in range(12)], "arm": ["\u5b9f\u9a13", "caf\u00e9"] * 6,
    "n_params": [1e6, 1e6, 4e6, 4e6, 1.6e7, 1.6e7] * 2, "tokens": [1e8] * 6 + [1e9] * 6,
    "loss": [4.1, 4.0, 3.7, 3.6, 3.4, 3.35, 3.6, 3.5, 3.2, 3.15, 2.9, 2.85],
})  # fmt: skip


@pytest.fixture
def typed(tmp_path):
    """What types a command in a folder on such a machine, and returns how it ended."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NOBODY)
    kept = {name: os.environ[name] for name in ("PATH", "OPENBLAS_NUM_THREADS") if name in os.environ}
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    console = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    def run(*words: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "isoflop", *map(str, words)]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, timeout=600, env={"PYTHONPATH": path, **kept, **console}
        )

    return run


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.long
def test_a_table_is_fitted_and_a_study_trained_on_a_bare_machine(typed, tmp_path):
    TABLE.to_csv(tmp_path / "l\u00e4ufe.csv", index=False)
    message = typed("fit", "l\u00e4ufe.csv", "--law", "kaplan", "--bootstrap", "0")
    assert message.returncode == 0, message.stderr
    made = typed("import", "l\u00e4ufe.csv", "-o", "made.csv")
    assert made.returncode == 0, made.stderr
    assert pd.read_csv(tmp_path / "made.csv")["run_id"].tolist() == TABLE["run_id"].tolist()
    message = typed("multiplier", "l\u00e4ufe.csv", "--by", "arm", "--baseline", "nobody")
    assert message.returncode == 1
    assert b"not among the arms" in message.stderr
    ran = typed(
        "run",
        "experiment=smoke",
        "study.sizes=[d6]",
        "study.budgets=[2e8]",
        "study.window.min_steps=1",
        "where.workers=1",
    )
    assert ran.returncode == 0, ran.stderr
    for answer in (message, made, ran):
        assert b"Traceback" not in answer.stderr + answer.stdout
    assert typed("status", "runs").returncode == 0
