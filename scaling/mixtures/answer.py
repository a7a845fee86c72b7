"""What `isoflop mix TABLE` answers, as values, as JSON and as text."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from isoflop.answer import Answer
from isoflop.printable import loss_text
from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.laws.law import Array
from isoflop.scaling.mixtures.proxies import Proxy
from isoflop.scaling.mixtures.surrogate import Surrogate
from isoflop.scaling.table.json_plain import plain

Span = tuple[float, float]


@dataclass(frozen=True, repr=False, eq=False)
class Mix(Answer):
    """The best mixture of a run.

    `weights` (k,) are the shares of `domains`, `intervals` those of the draws at `level`. `gain` is the median of the
    draws' differences of the loss, the weighted mean of the losses, between the `natural` shares and these: the
    likeliest law's own is too high where it chose the mixture. `natural_loss` is that at the natural shares, and `loss`
    less by the gain, nats/token.
    `flatness` has the lowest and the highest share of each domain that loses less than `rise` of the loss. `epochs`
    are those of each domain (NaN where its unique tokens are not known). `proxies` come in the order to run them, for
    what is `narrowed`, the gain or the best weights.
    `held_out` has the rank correlation (Spearman) and the rms of ln loss of each loss on mixtures left out. `tried` has
    a row a run: weight_NAME, the loss (weighted mean) and the loss predicted without runs of its mixture.
    """

    domains: tuple[str, ...]
    losses: Mapping[str, float]
    at: Mapping[str, float]
    weights: Array
    intervals: Array
    natural: Array
    loss: float
    natural_loss: float
    gain_interval: Span
    level: float
    rise: float
    flatness: Array
    epochs: Array
    cap: float
    proxies: tuple[Proxy, ...]
    held_out: Mapping[str, tuple[float, float]]
    tried: pd.DataFrame = field(repr=False)
    surrogates: Mapping[str, Surrogate] = field(repr=False)
    conventions: Mapping[str, str] = field(default_factory=dict)
    narrowed: str = "gain"
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def gain(self) -> float:
        """How much lower the loss is than in natural proportions, nats/token."""
        return self.natural_loss - self.loss

    def named(self, values: Array) -> dict[str, Any]:
        """Values (k,) or (k, 2) by domain."""
        return dict(zip(self.domains, values.tolist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, numbers in full precision."""
        return plain({
            "weights": self.named(self.weights),
            "weight_intervals": self.named(self.intervals),
            "losses": dict(self.losses),
            "at": dict(self.at),
            "loss": self.loss,
            "natural": {"weights": self.named(self.natural), "loss": self.natural_loss},
            "gain": self.gain,
            "gain_interval": list(self.gain_interval),
            "level": self.level,
            "flatness": {"rise": self.rise, "weights": self.named(self.flatness)},
            "epochs": self.named(self.epochs),
            "cap": self.cap,
            "proxies": [{"weights": self.named(p.weights), "removes": p.removes} for p in self.proxies],
            "held_out": {name: {"spearman": rho, "rms_log_loss": rms} for name, (rho, rms) in self.held_out.items()},
            "laws": {name: one.written() for name, one in self.surrogates.items()},
            "conventions": dict(self.conventions),
            "findings": [f.to_dict() for f in self.findings],
            "notes": list(self.notes),
        })  # fmt: skip

    def __str__(self) -> str:
        unit = self.conventions.get("loss_unit", "nats/token")
        scale = ", ".join(f"{name} {value:.4g}" for name, value in self.at.items())
        means = ", ".join(name if len(self.losses) == 1 else f"{name} x {w:.3g}" for name, w in self.losses.items())
        lines = [f"best mixture for {means}" + (f" at {scale}" if scale else "")]
        lines.append(
            f"  {'domain':<20} {'weight':>7} {f'{self.level:.0%} interval':>15} {'flat from, to':>15} {'natural':>8} "
            f"{'epochs':>7}"
        )
        rows = zip(self.domains, self.weights, self.intervals, self.flatness, self.natural, self.epochs, strict=True)
        for name, weight, span, low_high, natural, epochs in rows:
            repeats = f"{epochs:.3g}" if math.isfinite(epochs) else "-"
            lines.append(
                f"  {name:<20} {weight:>7.4f} {f'{span[0]:.3f} to {span[1]:.3f}':>15} "
                f"{f'{low_high[0]:.3f} to {low_high[1]:.3f}':>15} {natural:>8.4f} {repeats:>7}"
            )
        gain, lo, hi = (loss_text(value, of=self.loss) for value in (self.gain, *self.gain_interval))
        lines += [
            f"  loss {loss_text(self.loss)} {unit}; natural proportions {loss_text(self.natural_loss)}: gain {gain}, "
            f"{self.level:.0%} {lo} to {hi}",
            f"  flat: shares of that range lose less than {self.rise:.2%} of the loss, the noise of one run",
        ]
        for name, (rho, rms) in self.held_out.items():
            lines.append(f"  {name}: mixtures left out are ranked with Spearman {rho:.3f}, rms {rms:.2%}")
        for i, proxy in enumerate(self.proxies, start=1):
            shares = ", ".join(f"{n} {w:.3f}" for n, w in zip(self.domains, proxy.weights, strict=True) if w >= 0.001)
            gone = f"{proxy.removes:.0%} of the variance of the {self.narrowed}"
            lines.append(f"  next proxy {i}: {shares}; with it {gone} is gone")
        return "\n".join([*lines, *map(str, self.findings), *(f"note: {n}" for n in self.notes)])
