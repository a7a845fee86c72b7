"""The notebooks run from their first cell to their last, and draw what they say."""

from pathlib import Path

import pytest

from docs.build import DOCS
from tests.support.root import ROOT

NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.py"))


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.filterwarnings("ignore")  # of the notebook's own machinery, in this process
def test_the_notebooks_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """One after the other in one kernel, which has imported the libraries for the second: none sees another's names."""
    import jupytext
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    assert len(NOTEBOOKS) > 2
    notebooks = [jupytext.read(path) for path in NOTEBOOKS]
    session = notebooks[0].copy()
    session.cells = [cell for notebook in notebooks for cell in (new_code_cell("%reset -f"), *notebook.cells)]
    NotebookClient(session, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for path, notebook in zip(NOTEBOOKS, notebooks, strict=True):
        outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        assert any("image/png" in output.get("data", {}) for output in outputs), path.name
        assert not any(output.output_type == "error" for output in outputs), path.name
