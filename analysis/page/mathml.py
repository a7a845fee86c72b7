"""Formulas in ASCII as native MathML: fractions, exponents, subscripts and Greek letters, without any script or font.

The grammar is the one that laws write their formulas in: + - / ^ = ( ) [ ], a product by writing factors beside one
another, `_` before a subscript, a prime, names of several letters upright, several equations with commas between them.
"""

import re
from html import escape

GREEK = {
    "alpha": "&#945;", "beta": "&#946;", "gamma": "&#947;", "delta": "&#948;", "zeta": "&#950;", "eta": "&#951;",
    "kappa": "&#954;", "lambda": "&#955;", "mu": "&#956;", "sigma": "&#963;", "tau": "&#964;", "omega": "&#969;",
}  # fmt: skip
_TOKEN = re.compile(r"\s*(?:([0-9]+\.?[0-9]*(?:e[+-]?[0-9]+)?|\.[0-9]+)|([A-Za-z]+[0-9]*(?:_[A-Za-z0-9]+)*)('?)|(\S))")
_CLOSING = {"(": ")", "[": "]"}


def mathml(formula: str, *, block: bool = True) -> str:
    """The formula as a <math> element, on a line of its own or (block=False) within a line.

    Raises ValueError naming the formula and the place that the grammar does not know.

    >>> mathml("L = E + A N^-alpha", block=False)[:44]
    '<math><mrow><mi>L</mi><mo>=</mo><mrow><mi>E<'
    """
    display = ' display="block"' if block else ""
    return f"<math{display}>{_Parser(formula).equations()}</math>"


class _Parser:
    """Recursive descent over the tokens of one formula; each method returns the MathML of what it has read."""

    def __init__(self, formula: str) -> None:
        self.formula = formula
        self.tokens = [match for match in _TOKEN.finditer(formula) if match[0].strip()]
        self.at = 0
        self.raised = 0  # exponents that the parser is in

    def equations(self) -> str:
        """The whole formula: equations with commas between them."""
        parts = [self._equation()]
        while self._take(","):
            parts.append('<mo separator="true">,</mo><mspace width="1em"/>' + self._equation())
        if self.at < len(self.tokens):
            raise ValueError(
                f"formula {self.formula!r}: {self._next()!r} at {self.tokens[self.at].start()} is not known"
            )
        return _row(parts)

    def _equation(self) -> str:
        parts = [self._sum()]
        while self._take("="):
            parts += ["<mo>=</mo>", self._sum()]
        return _row(parts)

    def _sum(self) -> str:
        parts = ["<mo>&#8722;</mo>"] if self._take("-") else []
        parts.append(self._product())
        while self._next() in ("+", "-"):
            parts.append("<mo>+</mo>" if self._pop() == "+" else "<mo>&#8722;</mo>")
            parts.append(self._product())
        return _row(parts)

    def _product(self) -> str:
        parts = [self._factor()]
        while (token := self._next()) and token not in "+-=,)]":
            if self._take("/"):
                parts = [self._quotient(_row(parts), self._factor())]
            else:
                parts += ['<mspace width="0.2em"/>', self._factor()]
        return _row(parts)

    def _quotient(self, above: str, below: str) -> str:
        """A fraction, or in an exponent, where one would be too small to read, with a slash."""
        if self.raised:
            return f"<mrow>{above}<mo>/</mo>{below}</mrow>"
        return f"<mfrac>{_bare(above)}{_bare(below)}</mfrac>"

    def _factor(self) -> str:
        base = self._atom()
        if not self._take("^"):
            return base
        self.raised += 1
        sign = ["<mo>&#8722;</mo>"] if self._take("-") else []
        power = _row([*sign, _bare(self._atom())])
        self.raised -= 1
        return f"<msup>{base}{power}</msup>"

    def _atom(self) -> str:
        match = self.tokens[self.at] if self.at < len(self.tokens) else None
        if match is None:
            raise ValueError(f"formula {self.formula!r} ends where a number or a name is expected")
        self.at += 1
        number, name, prime, sign = match.groups()
        if number:
            return _number(number)
        if name:
            return _name(name, prime)
        if sign not in _CLOSING:
            raise ValueError(f"formula {self.formula!r}: {sign!r} at {_place(match)} is not known")
        inner = self._sum()
        while self._take(","):
            inner += f'<mo separator="true">,</mo>{self._sum()}'
        if not self._take(_CLOSING[sign]):
            raise ValueError(f"formula {self.formula!r}: {sign!r} at {_place(match)} is never closed")
        return f"<mrow><mo>{sign}</mo>{inner}<mo>{_CLOSING[sign]}</mo></mrow>"

    def _next(self) -> str:
        return self.tokens[self.at][0].strip() if self.at < len(self.tokens) else ""

    def _pop(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1][0].strip()

    def _take(self, token: str) -> bool:
        """Whether the next token is this one, which is then read."""
        found = self._next() == token
        self.at += found
        return found


def _place(match: re.Match[str]) -> int:
    return match.end() - len(match[0].lstrip())


def _row(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"<mrow>{''.join(parts)}</mrow>"


def _bare(group: str) -> str:
    """A group without its round brackets, which a fraction or an exponent makes superfluous."""
    inner = re.fullmatch(r"<mrow><mo>\(</mo>(.*)<mo>\)</mo></mrow>", group, re.DOTALL)
    depth, whole = 0, inner is not None
    for mark in re.findall(r"<mo>([()])</mo>", inner[1]) if inner else ():
        depth += 1 if mark == "(" else -1
        whole &= depth >= 0
    return f"<mrow>{inner[1]}</mrow>" if inner and whole else group


def _number(number: str) -> str:
    mantissa, _, power = number.partition("e")
    if not power:
        return f"<mn>{mantissa}</mn>"
    sign = "<mo>&#8722;</mo>" if power.startswith("-") else ""
    power = f"<mrow>{sign}<mn>{power.lstrip('+-').lstrip('0') or '0'}</mn></mrow>"
    return f"<mrow><mn>{mantissa}</mn><mo>&#215;</mo><msup><mn>10</mn>{power}</msup></mrow>"


def _name(name: str, prime: str) -> str:
    stem, _, below = name.partition("_")
    if not below and (digits := re.fullmatch(r"([A-Za-z]+)([0-9]+)", stem)):
        stem, below = digits[1], digits[2]
    symbol = f"<mi>{GREEK.get(stem, escape(stem))}</mi>"  # a name of several letters is upright by itself
    if below:
        tag = "mn" if below.isdigit() else "mi"
        symbol = f"<msub>{symbol}<{tag}>{GREEK.get(below, escape(below))}</{tag}></msub>"
    return f"<mrow>{symbol}<mo>&#8242;</mo></mrow>" if prime else symbol
