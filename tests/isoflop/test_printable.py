"""What of other people's text reaches a terminal or report.md."""

import csv
import io
import shlex
import sys
from html import escape
from types import SimpleNamespace

import pandas as pd
import pytest

from isoflop import __main__
from isoflop.analysis.evidence import Evidence
from isoflop.analysis.report import provenance
from isoflop.printable import code_span, counted, loss_text, plain_markdown, printable, shortened

pytestmark = pytest.mark.usefixtures("kept_searches")

EVIL = "\x1b[2J\x1b]0;title\x07\rdone\x9b31m\u202egnp.exe\u2066\ud800\u2028<script>alert(1)</script>![x](http://x/y.png)|a&lt;"


def test_a_count_has_the_number_of_its_noun():
    assert [counted(n, "cell") for n in (0, 1, 2, 1234)] == ["0 cells", "1 cell", "2 cells", "1,234 cells"]


@pytest.mark.parametrize(
    ("loss", "text"),
    [(2.35421, "2.3542"), (0.1, "0.1000"), (0.0523, "0.05230"), (6.1234e-5, "6.123e-05"), (-0.3, "-0.3000")],
)
def test_a_loss_has_four_digits_however_small_it_is(loss, text):
    assert loss_text(loss) == text
    assert float(loss_text(loss)) == pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize(("of", "text"), [(2.3, "+0.0004"), (6e-5, "+0.0004200")])
def test_a_difference_of_losses_has_the_digits_of_the_loss(of, text):
    assert loss_text(0.00042, of=of, sign="+") == text


NAMES = [
    ("a", "b" * 20, "c" * 30),
    ("llama-wd0.1-seq2048-a", "llama-wd0.1-seq2048-b", "llama-wd0.1-seq4096-c"),
    ("base", "base-with-a-schedule-of-x"),
    ("lr1e-3-and-a-long-end-of-it", "lr1e-4-and-a-long-end-of-it"),
    (f"a{'x' * 30}1{'y' * 30}", f"a{'x' * 30}2{'y' * 30}"),
    (f"a{'x' * 30}1", f"a{'x' * 29}11", "b"),
    ("x" * 21,),
]


@pytest.mark.parametrize("names", NAMES)
def test_long_names_are_cut_where_they_still_differ(names):
    labels = shortened(names, 20)
    assert list(labels) == list(names)
    assert len(set(labels.values())) == len(names)
    assert max(map(len, labels.values())) <= 20
    assert shortened(names, 99) == {name: name for name in names}


def test_names_that_differ_in_a_letter_of_the_middle_are_numbered():
    names = [f"{k}{'x' * 30}{letter}{'y' * 30}" for k, letter in enumerate("abc")] + [f"0{'x' * 30}d{'y' * 30}"]
    labels = list(shortened(names, 12).values())
    assert [label[0] for label in labels] == list("1234")
    assert len(set(labels)) == 4


def test_nothing_that_a_terminal_obeys_is_left_and_the_rest_stays():
    shown = printable(EVIL)
    assert shown.startswith("\\x1b[2J\\x1b]0;title\\x07\\rdone\\x9b31m\\u202egnp.exe\\u2066\\ud800\\u2028<script>")
    assert all(c.isprintable() for c in shown)
    assert printable("caf\xe9 \u5b9f\u9a13 \u05d0\n\tx") == "caf\xe9 \u5b9f\u9a13 \u05d0\n\tx"


def test_markdown_of_it_holds_no_tag_link_or_image():
    shown = plain_markdown(EVIL)
    assert "<" not in shown
    assert "](" not in shown
    assert "&amp;lt;" in shown


@pytest.mark.parametrize("text", ["loss < 3 & x", "`", "a `b` c", "``x", "x```", "<b>", "&lt;", EVIL])
def test_code_in_markdown_is_the_text_itself(text):
    html = pytest.importorskip("markdown_it").MarkdownIt("commonmark").render(f"- it: {code_span(text)}!")
    assert html.strip().splitlines()[1] == f"<li>it: <code>{escape(printable(text), quote=False)}</code>!</li>".replace(
        '"', "&quot;"
    )


def test_the_command_of_a_report_can_be_typed_again(typed, table, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "isoflop.analysis.report._write_all", lambda e, folder, command: message.append(command) or done
    )
    message, done = [], SimpleNamespace(refusal="", to_dict=dict)
    typed("report", table, "--where", "loss < 30 and arm == 'plain'", "--out", tmp_path / "r", "--json")
    (command,) = message
    assert shlex.split(command) == sys.argv
    assert provenance(Evidence(pd.read_csv(table)), command).splitlines()[-1] == f"- command: {code_span(command)}"


@pytest.fixture
def table(tmp_path):
    """Runs of two arms with names that were made to do harm."""
    rows = [
        {"n_params": n, "tokens": d, "loss": 1.5 + 30 * n**-0.4 + 40 * d**-0.4, "arm": arm}
        for n in (1e4, 3e4, 1e5, 3e5) for d in (1e5, 1e6, 1e7) for arm in ("plain", EVIL.replace("\ud800", ""))
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False, quoting=csv.QUOTE_NONNUMERIC)
    return tmp_path / "t.csv"


@pytest.mark.parametrize("command", [("fit",), ("multiplier", "--by", "arm"), ("fit", "--where", "arm == 'x\x1b[2J'")])
def test_no_command_prints_it(typed, table, command):
    code, out, err = typed(command[0], table, *command[1:])
    assert code in (0, 1, 2)
    assert out + err
    assert not set(out + err) & set("\x1b\x07\r\x9b\u202e\u2066\u2028")


@pytest.mark.slow
def test_report_md_holds_no_tag_and_no_image_of_others(typed, table, tmp_path, monkeypatch):
    """With two candidates in place of the catalogue, no files of figures and no page, whose own test has such names."""
    monkeypatch.setattr("isoflop.analysis.evidence.candidates", lambda points: ("chinchilla", "power-n"))
    monkeypatch.setattr("isoflop.analysis.report._write_page", lambda *_: None)
    monkeypatch.setattr("isoflop.analysis.report.save", lambda *_: None)
    assert typed("report", table, "--law", "chinchilla", "--bootstrap", "0", "--out", tmp_path / "r")[0] == 0
    text = (tmp_path / "r" / "report.md").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "](http" not in text
    assert not set(text) & set("\x1b\x07\r\x9b\u202e")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_console_of_another_encoding_shows_escapes(monkeypatch, tmp_path, encoding):
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(sys, "argv", ["isoflop", "status", f"{tmp_path}/l\xe4ufe-\u5b9f\udcff"])
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    err.flush()
    text = err.buffer.getvalue().decode("utf-8" if encoding == "ascii" else encoding)  # click takes ascii for a mistake
    assert ended.value.code == 2
    assert "no such folder" in text
    assert "\\udcff" in text
