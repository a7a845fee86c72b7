"""What predicted time costs: hours of devices, dollars and joules by the prices that `where` states. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from isoflop.experiments.compose.messages import UsageError
from isoflop.experiments.config import WhereSpec
from isoflop.experiments.cost.cost import Speed, trunks_seconds
from isoflop.experiments.study.cell import Cell


@dataclass(frozen=True)
class Price:
    """Hours that devices (cores, GPUs) are held, and what these cost; None where no price, or no power, is stated."""

    devices: int
    device_hours: float
    dollars: float | None
    joules: float | None

    def __add__(self, other: "Price") -> "Price":
        dollars, joules = (
            None if a is None or b is None else a + b
            for a, b in ((self.dollars, other.dollars), (self.joules, other.joules))
        )
        return Price(max(self.devices, other.devices), self.device_hours + other.device_hours, dollars, joules)

    def times(self, factor: float) -> "Price":
        """The price of so many times the hours."""
        dollars, joules = (None if each is None else each * factor for each in (self.dollars, self.joules))
        return Price(self.devices, self.device_hours * factor, dollars, joules)

    def __str__(self) -> str:
        money = "" if self.dollars is None else f", about ${self.dollars:,.2f}"
        energy = "" if self.joules is None else f", about {_joules(self.joules)}"
        return f"{self.device_hours:.3g} device hours on {self.devices}{money}{energy}"


def price(seconds: float, devices: int, where: WhereSpec) -> Price:
    """The price of so many seconds on each of `devices`: they are paid for until the last one is done."""
    hours = seconds * devices / 3600
    dollars = None if where.price_per_hour is None else hours * where.price_per_hour
    return Price(devices, hours, dollars, None if where.watts is None else 3600 * hours * where.watts)


def price_of(trunks: Sequence[Sequence[Cell]], workers: int, devices: int, where: WhereSpec, speed: Speed) -> Price:
    """The price of these trunks by so many workers on so many devices."""
    return price(trunks_seconds(trunks, workers, speed), devices, where)


def check_cap(spent: Price, where: WhereSpec, rounds: Price | None = None) -> None:
    """Raise UsageError where a launch, with the `rounds` after it, would cost more than where.max_dollars."""
    spent = spent if rounds is None else spent + rounds
    if where.max_dollars is None:
        return
    if spent.dollars is None:
        raise UsageError("where.max_dollars needs the price of a device: where.price_per_hour=DOLLARS")
    if spent.dollars > where.max_dollars:
        fits = f"isoflop plan ... --dollars {where.max_dollars:g} says which runs fit"
        if rounds is not None:
            fits = f"of it the rounds {rounds}: lower study.rounds.count or study.rounds.budget, or raise the cap"
        raise UsageError(f"where.max_dollars={where.max_dollars:g}: this would cost {spent}; {fits}")


def _joules(joules: float) -> str:
    for size, name in ((1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ")):
        if joules >= size:
            return f"{joules / size:.3g} {name}"
    return f"{joules:.3g} J"
