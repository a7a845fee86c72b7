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
    array (components, runs). `usual` is the range that values of that unit lie in, `typical` one of them for examples.
    """

    name: str
    unit: str = ""
    transform: Transform = "log"
    usual: tuple[float, float] | None = None
    typical: float = 1.0

    @property
    def vector(self) -> bool:
        """Whether the input has several components, a column each."""
        return self.transform == "simplex"


STANDARD = {
    "N": Column("n_params", "parameters", typical=1e9),
    "D": Column("tokens", "tokens", typical=2e10),
    "U": Column("unique_tokens", "tokens", typical=1e10),
    "C": Column("flops", "FLOPs", typical=1.2e20),
    "L": Column("model_loss", "nats/token", typical=2.5),
}
