"""Laws of the learning rate and the batch: how far from its best rate a run is, and how that rate moves with size."""

from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass
from functools import cache, partial
from itertools import product
from typing import Any, ClassVar

import numpy as np

from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.laws.law import AMPLITUDE, Array, Box, Law, Paper, power_term_curvature
from isoflop.scaling.laws.made import MadeLaw

PAPER = Paper(
    "li2025predictable",
    "Li, Houyi and Zheng, Wenzhen and Wang, Qiufeng and others",
    "Predictable Scale: Part I, Step Law: Optimal Hyperparameter Scaling Law in Large Language Model Pretraining",
    2025,
    "2503.04715",
)
PIVOT = {"N": 1e8, "D": 1e10, "T": 1e5}  # where amplitudes and the best rate are stated: an optimum moves from there
RATE = Column("peak_learning_rate", "the optimizer's own unit", usual=(1e-7, 10.0), typical=2e-3)
BATCH = Column("batch_tokens", "tokens", usual=(1.0, 1e9), typical=2e5)
DECAY = Column("weight_decay", "a share of the weights a step and rate", usual=(1e-6, 10.0), typical=0.1)
POWER = Box(0.01, 3.0)
DEPTH = Box(1e-6, 1e3, log=True)
MOVE = Box(-3.0, 3.0)
SKEW = Box(0.05, 6.0)
STARTS = (0.2, 0.4, 0.7)
SKEWS = (0.5, 2.0)  # that a search starts at
MOST_STEEP = 30.0  # of s ln(r/best): beyond, no loss is finite anyway


class RateBowl(Law, metaclass=MadeLaw):
    """Base of the laws of tuning: power terms of what a run spends, and a bowl in the logarithm of its peak rate r.

    `terms` are amplitude, exponent and column of each power, `moves` the slope of ln r_best in the ln of a column. With
    weight decay W among the inputs there is a second bowl, in the time that weights remember: T / (r W D) of a run,
    as far as T and D are inputs (Wang and Aitchison 2024, arXiv 2405.13698).
    """

    inputs: ClassVar[tuple[str, ...]] = ("r",)
    columns: ClassVar[Mapping[str, Column | str]] = {"r": RATE, "T": BATCH, "W": DECAY}
    terms: ClassVar[tuple[tuple[str, str, str], ...]] = ()
    moves: ClassVar[tuple[tuple[str, str], ...]] = ()

    E: float
    q: float  # of the bowl in the rate, and its bottom where every column is at its PIVOT
    best: float
    s: float  # of a skewed bowl: how much faster the loss rises above the best rate than below it
    h: float  # of the bowl in the memory of the weights, and its bottom
    tau: float

    def __call__(self, *columns: Any) -> Any:
        given = dict(zip(self.inputs, columns, strict=True))
        logs = _pivoted({k: np.log(v) for k, v in given.items()})
        excess: Any = 0.0
        for amplitude, exponent, k in self.terms:
            excess = excess + getattr(self, amplitude) * np.exp(-getattr(self, exponent) * logs[k])
        if "W" in given:
            excess = excess + 0.5 * self.h * (logs["tau"] - np.log(self.tau)) ** 2
        return self.E + excess + self._bowl(logs["r"] - self._log_best(logs))

    def _bowl(self, off: Any) -> Any:
        """What a rate `off` away in ln r loses: a parabola, or with s the skewed q (e^(s x) - s x - 1)/s^2."""
        if "s" not in self.parameters():
            return 0.5 * self.q * off**2
        return self.q * (np.exp(self.s * off) - self.s * off - 1.0) / self.s**2

    def _log_best(self, logs: Mapping[str, Any]) -> Any:
        log_best: Any = np.log(self.best)
        for name, k in self.moves:
            log_best = log_best + getattr(self, name) * logs[k]
        return log_best

    def best_rate(self, N: Any, D: Any, T: Any = PIVOT["T"]) -> Any:
        """The learning rate with the lowest loss at N parameters, D tokens and batches of T tokens."""
        return np.exp(self._log_best(_pivoted({"N": np.log(N), "D": np.log(D), "T": np.log(T)})))

    def best_batch(self, D: Any) -> Any:
        """The tokens of a batch with the lowest loss at D tokens, at its best rate; of laws with powers of S and T."""
        at: Any = self
        d = np.log(D / PIVOT["D"]) if "D" in self.inputs else 0.0
        t = (np.log(at.g * at.G / (at.beta * at.B)) + at.beta * d) / (at.beta + at.g)
        return PIVOT["T"] * np.exp(t)

    def best_decay(self, rate: Any, D: Any = PIVOT["D"], T: Any = PIVOT["T"]) -> Any:
        """The weight decay with the lowest loss at a rate; of laws that read it."""
        tau = _pivoted({"r": np.log(rate), "W": 0.0} | self._logs(D=D, T=T))["tau"]
        return np.exp(tau) / self.tau

    def _logs(self, **columns: Any) -> dict[str, Any]:
        return {k: np.log(v) for k, v in columns.items() if k in self.inputs}

    def regret(self, rate: Any, best: Any) -> Any:
        """Loss given away by a rate where the best is another, nats/token."""
        return self._bowl(np.log(rate / best))

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        """Loss and analytic derivatives."""
        logs, at = _pivoted(x), dict(zip(cls.parameters(), theta.T[..., None], strict=True))
        off = logs["r"] - at["best"]
        for name, k in cls.moves:
            off = off - at[name] * logs[k]
        q = np.exp(at["q"])
        if "s" in at:
            skew = at["s"]
            steep = np.exp(np.minimum(skew * off, MOST_STEEP))
            pull, bowl = q * (steep - 1.0) / skew, q * (steep - skew * off - 1.0) / skew**2
            slopes = {"s": (pull * off - 2.0 * bowl) / skew}
        else:
            pull, slopes = q * off, {}
            bowl = 0.5 * pull * off
        loss = at["E"] + bowl
        slopes |= {"E": np.ones_like(off), "q": bowl, "best": -pull}
        slopes |= {name: -pull * logs[k] for name, k in cls.moves}
        for amplitude, exponent, k in cls.terms:
            slopes[amplitude] = np.exp(at[amplitude] - at[exponent] * logs[k])
            slopes[exponent] = -logs[k] * slopes[amplitude]
            loss = loss + slopes[amplitude]
        if "W" in cls.inputs:
            late = logs["tau"] - at["tau"]
            slopes["tau"] = -np.exp(at["h"]) * late
            slopes["h"] = -0.5 * slopes["tau"] * late
            loss = loss + slopes["h"]
        return loss, np.stack([slopes[name] for name in cls.parameters()], axis=1)

    @classmethod
    def curvature(cls, theta: Array, x: Mapping[str, Array], jacobian: Array, weight: Array) -> Array:
        """Powers and depths differentiate into themselves; the bowl by its slope and steepness at `off`.

        What the Jacobian was divided by stands in its row of E.
        """
        logs, names = _pivoted(x), cls.parameters()
        at = {name: theta[:, k, None] for k, name in enumerate(names)}
        slope = {name: jacobian[:, k] for k, name in enumerate(names)}
        scaled = weight * slope["E"]
        second = np.zeros((len(theta), len(names), len(names)))
        for amplitude, exponent, k in cls.terms:
            pair = [names.index(amplitude), names.index(exponent)]
            second[np.ix_(range(len(theta)), pair, pair)] = power_term_curvature(weight * slope[amplitude], logs[k])
        along = np.stack([np.ones_like(logs["r"]), *(logs[k] for _, k in cls.moves)])
        moving = [names.index(name) for name in ("best", *(name for name, _ in cls.moves))]
        q, s, depth = names.index("q"), names.index("s") if "s" in names else None, np.exp(at["q"])
        steepness = scaled * depth
        second[:, q, q] = np.sum(weight * slope["q"], axis=-1)
        second[:, q, moving] = second[:, moving, q] = (weight * slope["best"]) @ along.T
        if s is not None:
            off = logs["r"] - at["best"] - sum((at[name] * logs[k] for name, k in cls.moves), np.zeros(()))
            steep = np.exp(np.minimum(at["s"] * off, MOST_STEEP))
            turn = (steepness * off * steep + weight * slope["best"]) / at["s"]  # of the slope in ln r, in s
            second[:, s, s] = np.sum((turn * off - 3.0 * weight * slope["s"]) / at["s"], axis=-1)
            second[:, s, q] = second[:, q, s] = np.sum(weight * slope["s"], axis=-1)
            second[:, s, moving] = second[:, moving, s] = -turn @ along.T
            steepness = steepness * steep
        second[np.ix_(range(len(theta)), moving, moving)] = (steepness[:, None] * along) @ along.T
        if "W" in cls.inputs:
            h, tau = names.index("h"), names.index("tau")
            second[:, h, h] = np.sum(weight * slope["h"], axis=-1)
            second[:, h, tau] = second[:, tau, h] = np.sum(weight * slope["tau"], axis=-1)
            second[:, tau, tau] = np.sum(scaled * np.exp(at["h"]), axis=-1)
        return second

    @classmethod
    def propose(cls, x: Mapping[str, Array], loss: Array, weights: Array) -> Array:
        """Least squares in two steps for every choice of exponents: where the bowl lies, then its depth."""
        logs, names = _pivoted(x), cls.parameters()
        root, r = np.sqrt(weights), x["r"]
        starts = []
        for exponents in product(STARTS, repeat=len(cls.terms)):
            powers = [np.exp(-e * logs[k]) for e, (_, _, k) in zip(exponents, cls.terms, strict=True)]
            moving = [logs[k] for _, k in cls.moves]
            late = [logs["tau"] ** 2, logs["tau"]] if "W" in x else []
            columns = [np.ones_like(r), *powers, *late, r**2, r, *(r * m for m in moving), *moving]
            solved = np.linalg.lstsq(np.column_stack(columns) * root[:, None], loss * root, rcond=None)[0]
            c = solved[1 + len(powers) + len(late) :]
            depth = max(2.0 * c[0], 1e-4)
            slopes = [float(np.clip(-s / depth, -2.0, 2.0)) for s in c[2 : 2 + len(moving)]]
            middle = r - sum((s * m for s, m in zip(slopes, moving, strict=True)), np.zeros_like(r))
            log_best = float(np.clip(-c[1] / depth, middle.min(), middle.max()))
            bowl = 0.5 * (middle - log_best) ** 2
            design = np.column_stack([np.ones_like(r), *powers, bowl, *late]) * root[:, None]
            E, *rest = np.linalg.lstsq(design, loss * root, rcond=None)[0]
            amplitudes, q = rest[: len(powers)], rest[len(powers)]
            values = {"E": np.clip(E, 0.0, 0.95 * loss.min()), "q": np.log(max(q, 1e-4)), "best": log_best}
            for a, e, (amplitude, exponent, _) in zip(amplitudes, exponents, cls.terms, strict=True):
                values |= {amplitude: np.log(max(a, 1e-3 * loss.min())), exponent: e}
            values |= {name: s for s, (name, _) in zip(slopes, cls.moves, strict=True)}
            if late:
                h = max(2.0 * solved[1 + len(powers)], 1e-4)
                low, high = logs["tau"].min(), logs["tau"].max()
                values |= {"h": np.log(h), "tau": float(np.clip(-solved[2 + len(powers)] / h, low, high))}
            for skew in SKEWS if "s" in names else (0.0,):
                starts.append([(values | {"s": skew})[name] for name in names])
        return np.array(starts)


@dataclass(frozen=True)
class TuningRate(RateBowl):
    """L(N, D, r) = E + A N^-alpha + B D^-beta + q/2 ln(r/r_best)^2, r_best = best N^m_N D^m_D

    A bowl in the peak learning rate r whose bottom moves with size and tokens. N counts in 1e8, D in 1e10.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    q: float
    best: float
    m_N: float
    m_D: float

    name: ClassVar[str] = "tuning-rate"
    formula: ClassVar[str] = "L = E + A N^-alpha + B D^-beta + q/2 (ln(r/best) - m_N ln N - m_D ln D)^2"
    paper: ClassVar[Paper | None] = PAPER
    source: ClassVar[str] = PAPER.cite("its power law of the best rate; the bowl: a parabola in ln r")
    caution: ClassVar[str] = (
        "Far from the best rate, where a loss is no parabola in ln r; where every best rate is at an edge."
    )
    typical: ClassVar[tuple[float, ...]] = (1.7, 0.6, 0.7, 0.35, 0.36, 0.02, 2e-3, -0.5, 0.2)
    rank: ClassVar[int] = 240
    floor_name: ClassVar[str | None] = "E"
    inputs: ClassVar[tuple[str, ...]] = ("N", "D", "r")
    columns: ClassVar[Mapping[str, Column | str]] = {"r": RATE}
    box: ClassVar[dict[str, Box]] = {
        "E": Box(0.0, 1e3), "A": AMPLITUDE, "B": AMPLITUDE, "alpha": POWER, "beta": POWER,
        "q": Box(1e-6, 1e3, log=True), "best": Box(1e-9, 1e3, log=True), "m_N": MOVE, "m_D": MOVE,
    }  # fmt: skip
    terms: ClassVar[tuple[tuple[str, str, str], ...]] = (("A", "alpha", "N"), ("B", "beta", "D"))  # and the column
    moves: ClassVar[tuple[tuple[str, str], ...]] = (("m_N", "N"), ("m_D", "D"))


@dataclass(frozen=True)
class Tuning(TuningRate):
    """L(N, D, T, r) = E + A N^-alpha + B S^-beta + G T^-g + q/2 ln(r/r_best)^2, S = D/T steps of T tokens

    Few steps and small batches both cost (arXiv 2607.01487), so that the best batch grows as D^(beta/(beta + g)); the
    best rate is best N^m_N D^m_D T^m_T. N counts in 1e8, D in 1e10, T in 1e5, S in 1e5.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    q: float
    best: float
    m_N: float
    m_D: float
    G: float
    g: float
    m_T: float

    name: ClassVar[str] = "tuning"
    formula: ClassVar[str] = (
        "L = E + A N^-alpha + B (D/T)^-beta + G T^-g + q/2 (ln(r/best) - m_N ln N - m_D ln D - m_T ln T)^2"
    )
    typical: ClassVar[tuple[float, ...]] = (1.7, 0.6, 0.7, 0.35, 0.36, 0.02, 2e-3, -0.5, 0.2, 0.05, 0.5, 0.3)
    rank: ClassVar[int] = 250
    inputs: ClassVar[tuple[str, ...]] = ("N", "D", "T", "r")
    columns: ClassVar[Mapping[str, Column | str]] = {"r": RATE, "T": BATCH}
    box: ClassVar[dict[str, Box]] = TuningRate.box | {"G": AMPLITUDE, "g": POWER, "m_T": MOVE}
    terms: ClassVar[tuple[tuple[str, str, str], ...]] = (("A", "alpha", "N"), ("B", "beta", "S"), ("G", "g", "T"))
    moves: ClassVar[tuple[tuple[str, str], ...]] = (*TuningRate.moves, ("m_T", "T"))


MOVES = {"N": "m_N", "D": "m_D", "T": "m_T"}
POWERS = {"N": ("A", "alpha"), "D": ("B", "beta"), "S": ("B", "beta"), "T": ("G", "g")}


@cache
def rate_bowl(inputs: tuple[str, ...], powers: tuple[str, ...], *, skewed: bool = False) -> type[RateBowl]:
    """The law of tuning of these inputs (r, and those of N, D, T, W that vary), with a power of each of `powers`.

    The best rate moves with every one of N, D and T. A `skewed` bowl rises faster above its bottom than below it.

    >>> rate_bowl(("N", "r"), ("N",)).formula
    'L = E + A N^-alpha + q/2 (ln(r/best) - m_N ln N)^2'
    """
    terms = tuple((*POWERS[k], k) for k in powers)
    moves = tuple((MOVES[k], k) for k in inputs if k in MOVES)
    names = ["E", *(name for a, e, _ in terms for name in (a, e)), "q", "best", *(name for name, _ in moves)]
    box = {"E": Box(0.0, 1e3), "q": DEPTH, "best": Box(1e-9, 1e3, log=True)} | {name: MOVE for name, _ in moves}
    box |= {name: kind for a, e, _ in terms for name, kind in ((a, AMPLITUDE), (e, POWER))}
    written = "".join(f" + {a} {'(D/T)' if k == 'S' and 'D' in inputs else k}^-{e}" for a, e, k in terms)
    off = f"ln(r/best){''.join(f' - {name} ln {k}' for name, k in moves)}"
    formula = f"L = E{written} + q/2 ({off})^2"
    if skewed:
        names, box = [*names, "s"], box | {"s": SKEW}
        formula = f"L = E{written} + q (e^(s x) - s x - 1)/s^2, x = {off}"
    if "W" in inputs:
        names, box = [*names, "h", "tau"], box | {"h": DEPTH, "tau": Box(1e-15, 1e15, log=True)}
        above, below = "T" if "T" in inputs else "1", "r W D" if "D" in inputs else "r W"
        formula += f" + h/2 ln({above}/({below})/tau)^2"
    facts: dict[str, Any] = {
        "name": "tuned",
        "formula": formula,
        "floor_name": "E",
        "inputs": tuple(inputs),
        "box": box,
        "made_by": (partial(rate_bowl, skewed=skewed), (tuple(inputs), tuple(powers))),
    }
    facts |= {"terms": terms, "moves": moves, "source": PAPER.cite("its power law of the best rate")}
    return make_dataclass("Tuned", [(name, float) for name in names], bases=(RateBowl,), namespace=facts, frozen=True)


def _pivoted(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Logarithms of columns in units of their pivots, with those of steps S where batches are known, and of tau."""
    moved = {k: v - np.log(PIVOT.get(k, 1.0)) for k, v in logs.items()}
    if "T" in moved:
        moved["S"] = moved.get("D", 0.0) - moved["T"]
    if "W" in moved:
        moved["tau"] = moved.get("T", 0.0) - moved.get("D", 0.0) - logs["W"] - logs["r"]
    return moved
