"""What a law reads: columns of a table, each with a symbol, a unit and a transform.

A law names its inputs by symbols, in the order of its formula's arguments. N, D, U, C and L stand for the columns of
STANDARD; every other symbol is declared by the law itself, as in `columns = {"eta": Column("peak_learning_rate")}`.
"""

from dataclasses import dataclass
from typing import Literal

Transform = Literal["log", "linear", "simplex"]


@dataclass(frozen=True)
class Column:
    """A column of a table as an input of a law.

    `transform` says what values it takes, and in which coordinate: "log" positive numbers by their logarithm, "linear"
    any finite numbers as they are, "simplex" a vector of shares that sum to 1. The `name` of a vector is a pattern such
    as weight_*: its components are the columns that match, in alphabetical order, and the formula is given them as an
    array (components, runs). `usual` is the range that values of that unit lie in.
    """

    name: str
    unit: str = ""
    transform: Transform = "log"
    usual: tuple[float, float] | None = None

    @property
    def vector(self) -> bool:
        """Whether the input has several components, a column each."""
        return self.transform == "simplex"


STANDARD = {
    "N": Column("n_params", "parameters"),
    "D": Column("tokens", "tokens"),
    "U": Column("unique_tokens", "tokens"),
    "C": Column("flops", "FLOPs"),
    "L": Column("model_loss", "nats/token"),
}
