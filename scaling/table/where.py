"""`--where`: which rows of a table to keep, as a small language that is parsed here and never run as code.

    condition   comparisons joined by and, or, not (or &, |, ~), in parentheses where needed
    comparison  tokens > 1e7     1e6 < n_params <= 1e9     arm == 'base'     seed in [0, 1]     arm not in ['a', 'b']
    alone       a column of true and false;  isna(flops), notna(flops), also typed flops.isna(), flops.notna()
    values      columns (`with blanks or signs` in backquotes), index, numbers (also 7B), 'text' or "text", true, false

It means what it does to pandas: a missing value fulfils no comparison but !=, `&` and `|` bind as `and` and `or` do.
"""

import operator
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from isoflop.scaling.table.columns import TableError, hint
from isoflop.scaling.table.meaning import number as written
from isoflop.scaling.table.runs import first_line

MAX_LENGTH = 10_000  # characters
MAX_DEPTH = 50  # parentheses and negations inside each other
MAX_DIGITS = 100  # of one number
SHOWN = 40  # characters of a word in a message
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>(?:[0-9]+(?:_[0-9]+)*\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[KMBT]?(?!\w))
    | (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    | (?P<name>[^\W\d]\w*)
    | `(?P<quoted>[^`]+)`
    | (?P<sign>==|!=|<=|>=|[<>()\[\],&|~+.-])
    | (?P<end>\Z))""",
    re.VERBOSE | re.DOTALL,
)
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_CONSTANTS = {"true": True, "True": True, "false": False, "False": False}
_MISSING = {"isna": True, "isnull": True, "notna": False, "notnull": False}
_KEYWORDS = {"and", "or", "not", "in"}
_GRAMMAR = (
    "write comparisons of columns, numbers and 'texts' (== != < <= > >=, in [..]), isna(column), notna(column), joined "
    "by and, or, not and parentheses"
)


class ConditionError(TableError):
    """A `--where` that a table has no answer to: it cannot be evaluated there, or keeps no row."""


@dataclass(frozen=True)
class Token:
    """A word of the condition: its kind (a group of the pattern), its text and where it begins, from 0."""

    kind: str
    text: str
    at: int

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else repr(self.text[:SHOWN])


def matching_rows(frame: pd.DataFrame, condition: str) -> pd.Series:
    """Which rows of `frame` fulfil `condition`: a boolean for each, by the frame's index.

    Raises TableError naming the position and the text that cannot be read, and the remedy.
    """
    if len(condition) > MAX_LENGTH:
        raise TableError(f"{len(condition)} characters, and at most {MAX_LENGTH} are read; filter the file instead")
    rows = _Reader(frame, _split(condition)).whole()
    return rows.fillna(False).astype(bool)


def keeping(values: Mapping[str, object]) -> str:
    """The option that keeps the rows with these values of columns, as a shell takes it: --where "arm == 'base'"."""
    condition = " and ".join(_equal(name, value) for name, value in values.items())
    return f"--where {shlex.quote(condition)}" if set(condition) & set('"`$\\!') else f'--where "{condition}"'


def _equal(name: str, value: object) -> str:
    value = value.item() if isinstance(value, np.generic) else value
    plain = re.fullmatch(r"[^\W\d]\w*", name) and name not in {*_KEYWORDS, *_CONSTANTS, *_MISSING, "index"}
    column = name if plain else f"`{name}`"
    if isinstance(value, str):
        text = re.sub(r"(['\\])", r"\\\1", value)
        return f"{column} == '{text}'"
    return f"isna({column})" if pd.isna(value) else f"{column} == {value!r}"


def _split(condition: str) -> list[Token]:
    tokens: list[Token] = []
    at = 0
    while not tokens or tokens[-1].kind != "end":
        match = _TOKEN.match(condition, at)
        if match is None or match.lastgroup is None:
            start = at + len(condition[at:]) - len(condition[at:].lstrip())
            raise _unreadable(start, condition[start : start + SHOWN])
        tokens.append(Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
        at = match.end()
    return tokens


def _unreadable(at: int, text: str) -> TableError:
    if text[0] == "=":
        return _error(at, "'='", "write == to compare")
    if text[0] in "'\"`":
        return _error(at, repr(text), f"the {text[0]} is not closed, or nothing is inside")
    if text[0].isdigit():
        return _error(at, repr(text), "not a number; a column of that name stands in backquotes")
    return _error(
        at, repr(text), f"{_GRAMMAR}; a column of another name than letters, digits and _ stands in backquotes"
    )


def _error(at: int, text: str, remedy: str) -> TableError:
    return TableError(f"at character {at + 1}, {text}: {remedy}")


def _text_for_number(left: Any, right: Any) -> str:
    """What to say of a column with texts that is compared with a number; empty for other sides."""
    for one, other in ((left, right), (right, left)):
        texts = [value for value in one if isinstance(value, str)] if isinstance(one, pd.Series) else []
        if texts and isinstance(other, int | float):
            return (
                f": column {one.name} holds texts ({texts[0]!r}), which a 'text' is compared with; numbers are in the "
                "column of the quantity that it was read as (n_params, tokens, flops, loss)"
            )
    return ""


class _Reader:
    """Reads a condition from left to right by recursive descent, and evaluates each part on the frame as it is read."""

    def __init__(self, frame: pd.DataFrame, tokens: Sequence[Token]) -> None:
        self.frame, self.tokens, self.next, self.depth = frame, tokens, 0, 0

    def whole(self) -> pd.Series:
        first = self.token
        found = self.either()
        if self.token.kind != "end":
            raise self.unexpected()
        return self.rows(found, first)

    @property
    def token(self) -> Token:
        return self.tokens[self.next]

    def accept(self, *texts: str) -> str | None:
        """The text of the next token, which is then read, if it is one of these signs or keywords; else None."""
        if self.token.kind not in ("sign", "name") or self.token.text not in texts:
            return None
        self.next += 1
        return self.tokens[self.next - 1].text

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise self.unexpected(f"expected {text!r}; ")

    def unexpected(self, expected: str = "") -> TableError:
        return _error(self.token.at, str(self.token), expected + _GRAMMAR)

    def nested(self, read: Callable[[], Any]) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _error(self.token.at, str(self.token), f"more than {MAX_DEPTH} parentheses or negations in another")
        found = read()
        self.depth -= 1
        return found

    def rows(self, value: Any, first: Token) -> pd.Series:
        """`value` if it is true or false for each row; `first` is where it began."""
        if not isinstance(value, pd.Series):
            raise _error(first.at, str(first), "is the same for every row; compare it with a column")
        if not pd.api.types.is_bool_dtype(value.dtype) or isinstance(value.dtype, pd.CategoricalDtype):
            raise _error(first.at, str(first), "is not true or false; compare it, for example with == or >")
        return value

    def either(self) -> Any:
        return self.joined(("or", "|"), self.both, operator.or_)

    def both(self) -> Any:
        return self.joined(("and", "&"), self.negated, operator.and_)

    def joined(self, signs: tuple[str, ...], read: Callable[[], Any], join: Callable[[Any, Any], Any]) -> Any:
        first = self.token
        found = read()
        while self.accept(*signs):
            second = self.token
            found = join(self.rows(found, first), self.rows(read(), second))
        return found

    def negated(self) -> Any:
        if not self.accept("not"):
            return self.comparison()
        first = self.token
        return ~self.rows(self.nested(self.negated), first)

    def comparison(self) -> Any:
        """One value, or a chain of comparisons, each of which must hold."""
        first = self.token
        left = self.value()
        found = None
        while True:
            sign = self.token
            compare = self.accept(*_COMPARE, "in", "not")
            if compare is None:
                return left if found is None else found
            if compare == "not":
                self.expect("in")
            if compare in ("in", "not") or self.token.text == "[":
                one, right = self.among(left, compare, first, sign), None
            else:
                right = self.value()
                one = self.compared(left, compare, right, sign)
            found = one if found is None else found & one
            if right is None:
                return found
            left = right

    def compared(self, left: Any, compare: str, right: Any, sign: Token) -> pd.Series:
        if not isinstance(left, pd.Series) and not isinstance(right, pd.Series):
            raise _error(sign.at, str(sign), "compares no column")
        try:
            return _COMPARE[compare](left, right)
        except (TypeError, ValueError, OverflowError) as error:
            why = _text_for_number(left, right) or f" ({first_line(error)})"
            raise _error(sign.at, str(sign), f"these cannot be compared{why}") from error

    def among(self, left: Any, compare: str, first: Token, sign: Token) -> pd.Series:
        """Whether a column is one of the values of a list; == and != mean in and not in before a list."""
        if not isinstance(left, pd.Series):
            raise _error(first.at, str(first), "only a column can be in a list")
        if compare not in ("in", "not", "==", "!="):
            raise _error(sign.at, str(sign), "only in, not in, == and != can be followed by a list")
        try:
            found = left.isin(self.constants())
        except (TypeError, ValueError, OverflowError, NotImplementedError) as error:  # the last: Arrow's lists
            raise _error(sign.at, str(sign), f"these cannot be compared ({first_line(error)})") from error
        return found if compare in ("in", "==") else ~found

    def constants(self) -> list[Any]:
        close = {"[": "]", "(": ")"}.get(self.accept("[", "(") or "")
        if close is None:
            raise self.unexpected("expected a list such as [1, 2]; ")
        found: list[Any] = []
        while not self.accept(close):
            if found:
                self.expect(",")
            found.append(self.constant())
        return found

    def constant(self) -> Any:
        sign = self.accept("-", "+")
        token = self.token
        if token.kind == "number":
            value = self.number(token)
            self.next += 1
            return -value if sign == "-" else value
        if sign or not (token.kind == "text" or (token.kind == "name" and token.text in _CONSTANTS)):
            raise self.unexpected("expected a number, a 'text', true or false; ")
        self.next += 1
        return _CONSTANTS[token.text] if token.kind == "name" else re.sub(r"\\(['\"\\])", r"\1", token.text[1:-1])

    def number(self, token: Token) -> int | float:
        if len(token.text) > MAX_DIGITS:
            raise _error(token.at, f"{token.text[:10]}...", f"a number of more than {MAX_DIGITS} characters")
        if token.text[-1] in "KMBT":
            return written(token.text.replace("_", "")) or 0.0
        return int(token.text) if re.fullmatch(r"[0-9_]+", token.text) else float(token.text)

    def value(self) -> Any:
        """A column, a constant, or a condition that stands in parentheses, behind ~ or is one of isna and notna."""
        first = self.token
        if self.accept("~"):
            second = self.token
            return ~self.rows(self.nested(self.value), second)
        if self.accept("("):
            found = self.nested(self.either)
            self.expect(")")
            return found
        if first.kind == "quoted" or (first.kind == "name" and first.text not in (*_KEYWORDS, *_CONSTANTS)):
            if first.text in _MISSING and self.tokens[self.next + 1].text == "(":
                self.next += 2
                column = self.column()
                self.expect(")")
                return column.isna() if _MISSING[first.text] else column.notna()
            column = self.column()
            return self.method(column) if self.accept(".") else column
        return self.constant()

    def column(self) -> pd.Series:
        token = self.token
        if token.kind not in ("name", "quoted") or (token.kind == "name" and token.text in (*_KEYWORDS, *_CONSTANTS)):
            raise self.unexpected("expected a column; ")
        self.next += 1
        if token.text in self.frame:
            found = self.frame[token.text]
            if isinstance(found, pd.DataFrame):
                raise _error(token.at, str(token), "several columns have this name; rename all but one")
            return found
        if token.text == "index":
            return self.frame.index.to_series()
        names = [str(name) for name in self.frame]
        raise _error(token.at, str(token), f"no such column{hint(token.text, names)} (columns: {', '.join(names)})")

    def method(self, column: pd.Series) -> pd.Series:
        """`column.isna()` and its like."""
        name = self.accept(*_MISSING)
        if name is None:
            raise self.unexpected("a column with a dot in its name stands in backquotes; ")
        self.expect("(")
        self.expect(")")
        return column.isna() if _MISSING[name] else column.notna()
