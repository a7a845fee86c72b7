"""Tables in Markdown, and the numbers in them."""

import math
from collections.abc import Callable, Iterable, Sequence

LARGE = 1000.0  # of an exponent there are no decimals
DECIMAL, ROUNDING = 1e-3, 1e-9  # the last digit of an exponent; the share by which two equal ends differ


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(str(c)) for c in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """A cell of a Markdown table: no column or line more than the table has."""
    return text.replace("|", "\\|").replace("\n", " ")


def pair(low: float, high: float) -> str:
    """An interval in brackets; what has none is fixed by the form of the law."""
    return f"[{end(low, high - low)}, {end(high, high - low)}]" if is_wide(low, high) else "(by its form)"


def end(value: float, width: float) -> str:
    """An end of an interval of that width: three decimals, or the digits that tell its ends apart."""
    if abs(value) >= LARGE:
        return f"{value:.3g}"
    digits = 3 if width >= DECIMAL else 1 - math.floor(math.log10(width))
    return f"{value:.{digits}f}"


def is_wide(low: float, high: float) -> bool:
    """Whether an interval has two ends, beyond rounding."""
    return high - low > ROUNDING * max(abs(low), abs(high))


def or_none(value: float, write: Callable[[float], str]) -> str:
    """A number as it is written, where there is one."""
    return write(value) if math.isfinite(value) else "none"
