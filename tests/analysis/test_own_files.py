"""A report replaces and deletes what isoflop wrote, and nothing else."""

from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest

from isoflop.analysis.evidence import Evidence, UnsupportedError
from isoflop.analysis.own_files import LIST, ForeignFileError, claimed
from isoflop.analysis.page.page import NAME
from isoflop.analysis.paper.kit import DOCUMENT, write_paper
from isoflop.analysis.report import CELLS, TEXT, write_report
from isoflop.commands.pictures import report

NAMES = ("report.md", "gate.png", "curves.csv")
EARLIER = {
    TEXT: "# Scaling laws\n\n- isoflop 0.2.0, numpy 2.4.6, scipy 1.17.1\n",
    NAME: "<li>isoflop 0.2.0, numpy 2.4.6, scipy 1.17.1</li>",
}


def write(folder: Path, names, text="mine"):
    for name in names:
        (folder / name).write_text(text)


def claim(folder, **more):
    with claimed(folder, NAMES, "a report", **more):
        write(folder, NAMES[:2], "ours")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_isoflop_did_not_write_is_named_and_stays(tmp_path, name):
    write(tmp_path, [name])
    with pytest.raises(ForeignFileError, match=f"{name}: is not a file that isoflop wrote.*another folder"):
        claim(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_the_same_report_is_written_again_and_what_others_put_beside_it_since_is_refused(tmp_path):
    claim(tmp_path)
    claim(tmp_path)
    assert (tmp_path / LIST).read_text().split() == list(NAMES[:2])
    write(tmp_path, NAMES[2:])
    with pytest.raises(ForeignFileError, match=r"curves\.csv"):
        claim(tmp_path)


def test_what_a_broken_report_did_not_write_is_not_claimed(tmp_path):
    def broken():
        with claimed(tmp_path, NAMES, "a report"):
            write(tmp_path, NAMES[:1])
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        broken()
    assert (tmp_path / LIST).read_text().split() == list(NAMES[:1])


def test_two_kinds_of_files_share_a_folder(tmp_path):
    with claimed(tmp_path, ("paper.tex",), "the kit of a paper"):
        write(tmp_path, ["paper.tex"])
    claim(tmp_path)
    assert set((tmp_path / LIST).read_text().split()) == {"paper.tex", *NAMES[:2]}


@pytest.mark.parametrize("earlier", [False, True])
def test_a_list_of_the_other_kind_does_not_stand_for_this_one(tmp_path, earlier):
    with claimed(tmp_path, ("paper.tex",), "the kit of a paper"):
        write(tmp_path, ["paper.tex"])
    write(tmp_path, NAMES)
    refused = nullcontext() if earlier else pytest.raises(ForeignFileError)
    with refused:
        claim(tmp_path, earlier=earlier)


@pytest.mark.parametrize("earlier", [False, True])
def test_the_table_that_is_read_is_never_replaced_not_even_of_an_earlier_report(tmp_path, earlier):
    claim(tmp_path)
    (tmp_path / "curves.csv").symlink_to(tmp_path / "gate.png")
    with pytest.raises(ForeignFileError, match=r"gate\.png: is the table that is read"):
        claim(tmp_path, read=str(tmp_path / "gate.png"), earlier=earlier)


@pytest.mark.parametrize("damage", [b"\xff\xfe\x00", b"../other.csv\n/etc/passwd\n"])
def test_a_damaged_list_claims_nothing_more(tmp_path, damage):
    (tmp_path / LIST).write_bytes(damage)
    write(tmp_path, ["gate.png"])
    with pytest.raises(ForeignFileError, match=r"gate\.png"):
        claim(tmp_path)


@pytest.fixture
def nothing():
    """A table that supports no law: its report is quickly written."""
    return pd.DataFrame({"n_params": [1e6, 2e6], "tokens": [2e7, 4e7], "loss": [3.0, 2.9]})


def test_a_report_without_law_and_figure_is_written_and_refused(tmp_path, nothing, capsys):
    assert write_report(nothing, tmp_path / "out").refusal.startswith("2 data points cannot determine")
    nothing.to_csv(tmp_path / "two.csv", index=False)
    with pytest.raises(UnsupportedError, match=r"two\.csv: no law and no figure: 2 data points") as error:
        report(tmp_path / "two.csv", out=tmp_path / "out")
    assert error.value.exit_code == 1
    assert "0 figures in" in capsys.readouterr().out


@pytest.mark.parametrize("name", [TEXT, NAME, CELLS, "gate.png", "slices.svg", "curves.csv"])
def test_report_refuses_a_folder_with_a_file_of_its_names(tmp_path, nothing, name):
    write(tmp_path, [name])
    with pytest.raises(ForeignFileError, match=name):
        write_report(nothing, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("text", EARLIER)
def test_a_report_that_was_written_before_there_was_a_list_is_written_again(tmp_path, nothing, text):
    (tmp_path / text).write_text(EARLIER[text])
    write(tmp_path, ["gate.png"])
    write_report(nothing, tmp_path)
    assert not (tmp_path / "gate.png").exists()
    assert {TEXT, NAME, CELLS} <= {path.name for path in tmp_path.iterdir()}
    write_report(nothing, tmp_path)
    write(tmp_path, ["gate.png"])
    with pytest.raises(ForeignFileError, match=r"gate\.png"):
        write_report(nothing, tmp_path)


@pytest.mark.parametrize("name", [DOCUMENT, "laws.bib", "isoflop-single.pdf"])
def test_a_manuscript_is_no_kit_and_refused_before_the_report_is_made(tmp_path, nothing, name):
    (paper := tmp_path / "paper").mkdir()
    write(paper, [name])
    with pytest.raises(ForeignFileError, match=f"{name}: is not .*the kit of a paper"):
        write_report(nothing, tmp_path / "out", paper=paper)
    assert (paper / name).read_text() == "mine"
    assert list((tmp_path / "out").iterdir()) == []


def test_an_earlier_kit_is_written_again(tmp_path, nothing):
    write(tmp_path, [DOCUMENT], "% pdflatex paper && bibtex paper && pdflatex paper && pdflatex paper\n")
    write(tmp_path, ["laws.bib"])
    write_paper(Evidence(nothing), tmp_path)
    write_paper(Evidence(nothing), tmp_path)
    assert DOCUMENT in (tmp_path / LIST).read_text().split()
