"""LaTeX that compiles: what is special is escaped, groups are balanced, rows are as wide as their table."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.analysis.paper.latex import escaped, formula, number, percent, span, symbol, tabular
from isoflop.scaling.laws import LAWS

UNESCAPED = re.compile(r"(?<!\\)[&#_%$^~<>|\"]")


WORDS = {
    "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">",
    "textbar": "|", "textquotedbl": '"',
}  # fmt: skip


def balanced(text: str) -> bool:
    depth = 0
    for token in re.findall(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(token, 0)
        if depth < 0:
            return False
    return depth == 0


@pytest.mark.slow
@given(st.text(max_size=40))
def test_any_text_is_escaped_and_stays_on_one_line(text):
    shown = escaped(text)
    assert "\n" not in shown
    assert not UNESCAPED.search(re.sub(r"\\text[a-z]+\{\}", "", shown))
    assert balanced(shown)
    back = shown
    for command, character in WORDS.items():
        back = back.replace(rf"\{command}{{}}", f"\0{ord(character)}\0")
    back = re.sub(r"\0(\d+)\0", lambda m: chr(int(m[1])), re.sub(r"\\([{}$&#_%])", r"\1", back))
    assert back.isprintable() or not text.isprintable()
    if text.isascii() and text.isprintable():
        assert back == text


@given(st.floats(-1e300, 1e300))
def test_a_number_reads_back_to_four_digits(value):
    shown = number(value)
    assert balanced(shown)
    read = re.fullmatch(r"\$(-?[\d.]+)(?: \\times 10\^\{(-?\d+)\})?\$", shown)
    assert read, shown
    back = float(f"{read[1]}e{read[2] or 0}")
    assert back == pytest.approx(value, rel=5.1e-4, abs=1e-300)


def test_numbers_as_they_are_read():
    assert [number(x) for x in (0.70421, 482.01, 12345.6, 1.5e9, 0.00012)] == [
        "$0.7042$", "$482.0$", "$12346$", r"$1.500 \times 10^{9}$", r"$1.200 \times 10^{-4}$",
    ]  # fmt: skip
    assert (number(None), number(float("inf")), span(1.0, None), percent(float("nan"))) == ("--", "--", "--", "--")
    assert percent(0.0312) == r"$3.12\,\%$"


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_every_formula_of_the_catalogue_is_mathematics(law):
    shown = formula(law.formula)
    assert shown.startswith("$L=")
    assert balanced(shown)
    assert not re.search(r"[^\x20-\x7e]", shown)
    assert shown.count("$") == 2
    for name in law.parameters():
        assert balanced(symbol(name))


def test_formulas_as_they_are_set():
    assert formula("L = E + A N^-alpha") == r"$L=E+A\,N^{-\alpha }$"
    assert formula("L = [(N_c/N)^(alpha_N/alpha_D) + D_c/D]^alpha_D") == (
        r"$L=[(\frac{N_{c}}{N})^{\alpha _{N}/\alpha _{D}}+\frac{D_{c}}{D}]^{\alpha _{D}}$"
    )
    assert [symbol(n) for n in ("E", "alpha", "N_c", "c0", "ceiling")] == [
        "$E$", r"$\alpha $", "$N_{c}$", "$c_{0}$", r"$\mathrm{ceiling}$",
    ]  # fmt: skip


def test_a_row_of_another_width_is_refused():
    with pytest.raises(ValueError, match="2 columns has a row of 3"):
        tabular("lr", ["a", "b"], [["1", "2", "3"]])
    text = tabular("lr", ["a", "b"], [["1", "2"]], "two\nlines")
    assert text.splitlines() == [
        "% two", "% lines", r"\begin{tabular}{@{}lr@{}}", r"\toprule", r"a & b \\", r"\midrule", r"1 & 2 \\",
        r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
