"""What the functions of `isoflop` answer."""


class Answer:
    """A result that shows its text wherever a session shows a value, and is equal to itself alone.

    Its fields hold tables and arrays, whose own comparison has many values. A dataclass of it says `repr=False` and
    `eq=False`, and has a `__str__`.
    """

    def __repr__(self) -> str:
        return str(self)
