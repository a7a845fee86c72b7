"""Laws that a function makes, a class for each set of columns, and how pickle finds one of them again."""

import copyreg
from typing import Any


class MadeLaw(type):
    """The class of bases of made laws. A made law says `made_by`: the function, and the arguments that make it."""

    made_by: tuple[Any, tuple[Any, ...]] | None = None


def _found_again(law: MadeLaw) -> str | tuple[Any, tuple[Any, ...]]:
    return law.__dict__.get("made_by") or law.__qualname__  # a name: the module holds it


copyreg.pickle(MadeLaw, _found_again)  # type: ignore[arg-type]  # of a class, which is an object too
