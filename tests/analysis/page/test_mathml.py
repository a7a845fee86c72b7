"""Formulas as MathML: every law's, and the parts of the grammar one by one."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from isoflop.analysis.page.mathml import GREEK, mathml
from isoflop.scaling.laws import LAWS


def text(formula: str) -> str:
    """What is read in the formula, without its layout."""
    return "".join(ElementTree.fromstring(mathml(formula)).itertext())


GREEK_NAMES = "|".join(sorted(GREEK, key=len, reverse=True))  # beta before eta


@pytest.mark.parametrize("name", LAWS)
def test_every_law_is_well_formed_and_loses_no_letter(name: str):
    formula = LAWS[name].formula
    letters = re.sub(rf"[\s_^()/]|{GREEK_NAMES}", "", formula.replace("'", "\N{PRIME}").replace("-", "\N{MINUS SIGN}"))
    read = re.sub(r"[\s()/\u03b1-\u03c9]", "", text(formula))
    assert sorted(read) == sorted(letters)


@pytest.mark.parametrize(
    ("formula", "part"),
    [
        ("a/b", "<mfrac><mi>a</mi><mi>b</mi></mfrac>"),
        ("a/(b + c)", "<mfrac><mi>a</mi><mrow><mrow><mi>b</mi><mo>+</mo><mi>c</mi></mrow></mrow></mfrac>"),
        ("N^-alpha", "<msup><mi>N</mi><mrow><mo>&#8722;</mo><mi>&#945;</mi></mrow></msup>"),
        ("x^(a/b)", "<mi>a</mi><mo>/</mo><mi>b</mi>"),
        ("R_D", "<msub><mi>R</mi><mi>D</mi></msub>"),
        ("c0", "<msub><mi>c</mi><mn>0</mn></msub>"),
        ("N'", "<mrow><mi>N</mi><mo>&#8242;</mo></mrow>"),
        ("4.8e2", "<mrow><mn>4.8</mn><mo>&#215;</mo><msup><mn>10</mn><mrow><mn>2</mn></mrow></msup></mrow>"),
        ("1e-05", "<mo>&#8722;</mo><mn>5</mn>"),
        ("-(a) (b)", "<mo>&#8722;</mo>"),
    ],
)
def test_parts_of_the_grammar(formula: str, part: str):
    assert part in mathml(formula, block=False)


def test_a_product_before_a_slash_is_above_it_as_a_whole():
    assert mathml("a b/c", block=False).startswith("<math><mfrac><mrow><mi>a</mi>")


def test_brackets_that_a_fraction_needs_are_kept():
    assert text("(a + b) (c + d)/e") == "(a+b)(c+d)e"


@pytest.mark.parametrize(
    ("formula", "message"),
    [("a + (b", "'\\(' at 4 is never closed"), ("a +", "ends where"), ("a ; b", "';' at 2"), ("a)", r"'\)' at 1")],
)
def test_what_is_no_formula_is_named_with_its_place(formula: str, message: str):
    with pytest.raises(ValueError, match=message):
        mathml(formula)
