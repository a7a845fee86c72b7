"""LaTeX by hand: escaped text, numbers, formulas out of the laws' own grammar, tables with booktabs."""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from html import unescape

from isoflop.analysis.page.mathml import GREEK, mathml
from isoflop.printable import printable

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip
_LETTERS = {unescape(code): rf"\{name}" for name, code in GREEK.items()}
_SIGNS = {"\u2212": "-", "\u00d7": r"\times ", "\u2032": "'"}
DIGITS = 4  # significant ones of a number in a table


def escaped(text: str) -> str:
    """Any text as LaTeX shows it, letter by letter, on one line; what a terminal would obey as \\x1b."""
    flat = printable(text).replace("\n", " ").replace("\t", " ")
    return "".join(_SPECIAL.get(character, character) for character in flat)


def number(value: float | None, digits: int = DIGITS) -> str:
    """A number in mathematics, to so many significant digits; a dash for none."""
    if value is None or not math.isfinite(value):
        return "--"
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    exponent = int(power)
    if -3 <= exponent < digits + 1:
        return f"${value:.{max(digits - 1 - exponent, 0)}f}$"
    return rf"${mantissa} \times 10^{{{exponent}}}$"


def percent(value: float | None, digits: int = 2) -> str:
    """A share in per cent."""
    return "--" if value is None or not math.isfinite(value) else rf"${100 * value:.{digits}f}\,\%$"


def span(low: float | None, high: float | None, digits: int = DIGITS) -> str:
    """An interval."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "--"
    return f"[{number(low, digits)}, {number(high, digits)}]"


def tabular(columns: str, head: Sequence[str], rows: Sequence[Sequence[str]], comment: str = "") -> str:
    r"""A table for \input: rules of booktabs; cells are LaTeX already. Raises ValueError for rows of other width."""
    for row in (head, *rows):
        if len(row) != len(columns):
            raise ValueError(f"a table of {len(columns)} columns has a row of {len(row)}: {row}")
    lines = [f"% {printable(line)}" for line in comment.splitlines()]
    lines += [rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule", " & ".join(head) + r" \\", r"\midrule"]
    lines += [" & ".join(row) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def symbol(name: str) -> str:
    """The name of a parameter as it stands in a formula: $\\alpha$, $N_{c}$, $\\alpha_{N}$."""
    return f"${_of(_tree(name))}$"


def formula(text: str) -> str:
    """A formula of a law in mathematics."""
    return f"${_of(_tree(text))}$"


def _tree(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(unescape(mathml(text, block=False)).replace("&", "&amp;"))


def _of(node: ElementTree.Element) -> str:
    parts = [_of(child) for child in node]
    if node.tag == "mfrac":
        return rf"\frac{{{parts[0]}}}{{{parts[1]}}}"
    if node.tag in ("msup", "msub"):
        base = parts[0] if node[0].tag != "mrow" or parts[0].startswith(("(", "[")) else f"{{{parts[0]}}}"
        return f"{base}{'^' if node.tag == 'msup' else '_'}{{{parts[1]}}}"
    if node.tag == "mspace":
        return r"\quad " if node.get("width") == "1em" else r"\,"
    if parts:
        return "".join(parts)
    text = node.text or ""
    if node.tag == "mi":
        return _word(text)
    return _SIGNS.get(text, text)


def _word(text: str) -> str:
    if text in _LETTERS:
        return _LETTERS[text] + " "
    return text if len(text) == 1 else rf"\mathrm{{{re.sub(r'[^A-Za-z0-9 ]', '', text)}}}"
