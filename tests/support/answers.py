"""The README's answers: what it shows below each command, and whether another output says the same."""

import re

import numpy as np

from isoflop.analysis.readme import KEPT
from tests.support.root import ROOT

README = (ROOT / "README.md").read_text()
NUMBER = re.compile(r"(?<![A-Za-z_])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def block(text: str, name: str) -> str:
    """What stands between the marks of that name."""
    return text.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0]


def command_of(name: str) -> str:
    """The command in a block."""
    return block(README, name).splitlines()[1].removeprefix("$ ")


def answer_of(name: str) -> str:
    """The lines below it."""
    return "\n".join(block(README, name).splitlines()[2:-1])


def kept(name: str, printed: str) -> str:
    """The lines of what the command of a block printed that the README shows."""
    return "\n".join(line.rstrip() for line in printed.splitlines() if re.match(KEPT[name], line))


def differ(printed: str, now: str) -> bool:
    """Whether two outputs say different things: other words, or numbers that differ by more than 1% and a digit."""
    if NUMBER.sub("#", printed).split() != NUMBER.sub("#", now).split():
        return True
    numbers = [[float(n) for n in NUMBER.findall(text)] for text in (printed, now)]
    return not np.allclose(*numbers, rtol=0.01, atol=0.011)
