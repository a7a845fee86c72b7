"""What a number may be, said once for the option of a command and for the argument of a function."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

MOST = 2**63 - 1  # of a count or a seed
MOST_RESAMPLES = MOST_DEVICES = 10**6


@dataclass(frozen=True)
class Kind:
    """Numbers of one kind; `says` ends the sentence about another."""

    says: str
    holds: Callable[[Any], bool]

    def __contains__(self, value: object) -> bool:
        return isinstance(value, Real) and not isinstance(value, bool) and bool(self.holds(value))


POSITIVE = Kind("it must be positive and finite", lambda value: 0 < value < math.inf)
NOT_NEGATIVE = Kind("it must be 0 or more, and finite", lambda value: 0 <= value < math.inf)
SHARE = Kind("it must lie between 0 and 1", lambda value: 0 < value < 1)
PART = Kind("it must lie between 0 and 1, or be one of them", lambda value: 0 <= value <= 1)
AT_LEAST_ONE = Kind("it must be at least 1, and finite", lambda value: 1 <= value < math.inf)


def whole(least: int, most: int = MOST) -> Kind:
    """The whole numbers from `least` to `most`."""
    says = f"it must be a whole number of at least {least} and at most {most:,}"
    return Kind(says, lambda value: isinstance(value, Integral) and least <= int(value) <= most)


SEED = whole(0)
RESAMPLES = whole(0, MOST_RESAMPLES)


def check(kind: Kind, **values: object) -> None:
    """Raise ValueError naming the first of these arguments that is not of this kind; None is none."""
    for name, value in values.items():
        if value is not None and value not in kind:
            shown = f"{value:g}" if isinstance(value, float) else repr(value)
            raise ValueError(f"{name}={shown}: {kind.says}")
