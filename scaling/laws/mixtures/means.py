"""Laws of a mixture of data: an excess loss is a mean of the excess losses that each domain leaves when it is alone.

With shares h_j of domains that sum to 1, and v_j the excess over the irreducible loss of a run on domain j alone,
- a geometric mean, prod_j v_j^h_j, is the exponential law of Ye et al. 2024, c + k exp(sum_j t_j h_j);
- a power mean, (sum_j h_j v_j^(-1/a))^-a, is a power law of effective data, A (sum_j g_j h_j)^-a.
Written so, every parameter is a loss in nats/token that can be measured, and no two of them stand for one. The joint
law of size and tokens (Shukor et al. 2025) has the first mean in its term of N and the second in its term of D.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass
from functools import cache
from itertools import product
from typing import Any, ClassVar, Literal

import numpy as np

from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.laws.law import Array, Box, Law, Paper
from isoflop.scaling.laws.made import MadeLaw

YE = Paper(
    "ye2024data",
    "Ye, Jiasheng and Liu, Peiju and Sun, Tianxiang and others",
    "Data Mixing Laws: Optimizing Data Mixtures by Predicting Language Modeling Performance",
    2024,
    "2403.16952",
)
SHUKOR = Paper(
    "shukor2025scaling",
    "Shukor, Mustafa and Bethune, Louis and Busbridge, Dan and others",
    "Scaling Laws for Optimal Data Mixtures",
    2025,
    "2507.09404",
)
SHARES = Column("weight_*", "shares of the training tokens", transform="simplex")
PIVOT = {"N": 1e8, "D": 1e10}  # where the excess losses of each domain alone are stated
UNIT = {"N": "1e8", "D": "1e10"}
ALONE = Box(1e-6, 20.0, log=True)  # nats/token: from what large runs leave to a model that learnt nothing
POWER = Box(0.03, 4.0, log=True)
STARTS = (0.15, 0.5)  # exponents
FLOORS = (0.5, 0.85)  # of the lowest loss

Mean = Literal["geometric", "power"]


@dataclass(frozen=True)
class Term:
    """A mean of excess losses, times x^-a of the column `of` ("N", "D") in units of its PIVOT, or times 1.

    A power mean has the exponent a in itself too: x times its sum of shares is effective data.
    """

    mean: Mean
    of: str = ""

    @property
    def bends(self) -> bool:
        """Whether the term has an exponent."""
        return self.mean == "power" or bool(self.of)


class MixtureLaw(Law, metaclass=MadeLaw):
    """Base of the laws of mixtures: L = E + a sum of `terms` over the shares h of `domains`, in alphabetical order."""

    inputs: ClassVar[tuple[str, ...]] = ("h",)
    columns: ClassVar[Mapping[str, Column | str]] = {"h": SHARES}
    terms: ClassVar[tuple[Term, ...]] = ()
    domains: ClassVar[tuple[str, ...]] = ()
    floor_name: ClassVar[str | None] = "E"

    E: float

    def __call__(self, *columns: Any) -> Any:
        given = dict(zip(self.inputs, columns, strict=True))
        h, values = np.asarray(given["h"]), iter([getattr(self, name) for name in self.parameters()[1:]])
        loss = self.E
        for term in self.terms:
            a = next(values) if term.bends else 1.0
            v = [next(values) for _ in self.domains]
            if term.mean == "geometric":
                excess = np.exp(sum(share * np.log(one) for share, one in zip(h, v, strict=True)))
            else:
                excess = sum(share * one ** (-1.0 / a) for share, one in zip(h, v, strict=True)) ** -a
            loss = loss + (excess * (given[term.of] / PIVOT[term.of]) ** -a if term.of else excess)
        return loss

    @classmethod
    def places(cls) -> list[tuple[Term, int | None, slice]]:
        """Every term with the positions of its exponent (None without one) and of its excess losses in `parameters`."""
        found, at = [], 1
        for term in cls.terms:
            a = at if term.bends else None
            at += term.bends
            found.append((term, a, slice(at, at + len(cls.domains))))
            at += len(cls.domains)
        return found

    @classmethod
    def evaluate(cls, theta: Array, x: Mapping[str, Array]) -> tuple[Array, Array]:
        """Loss and analytic derivatives."""
        jacobian = np.ones((*theta.shape, x["h"].shape[-1]))
        loss = np.repeat(theta[:, :1], x["h"].shape[-1], axis=1)
        for term, a, v in cls.places():
            power = None if a is None else np.exp(theta[:, a])
            part = _Part.of(term, power, theta[:, v], x)
            excess = np.exp(part.log)
            loss = loss + excess
            jacobian[:, v] = excess[:, None] * part.shares
            if a is not None:
                jacobian[:, a] = excess * part.slope
        return loss, jacobian

    @classmethod
    def curvature(cls, theta: Array, x: Mapping[str, Array], jacobian: Array, weight: Array) -> Array:
        """The second derivatives: terms share no parameter, so that each has a block of its own."""
        second = np.zeros((len(theta), theta.shape[1], theta.shape[1]))
        for term, a, v in cls.places():
            power = None if a is None else np.exp(theta[:, a])
            part = _Part.of(term, power, theta[:, v], x)
            w = weight * jacobian[:, v].sum(axis=1)  # shares sum to 1: the term, in the unit of the Jacobian
            block = (w[:, None] * part.shares) @ part.shares.swapaxes(1, 2)
            if term.mean == "power":
                assert power is not None
                block = block * (1.0 + 1.0 / power)[:, None, None]
                mean = (w[:, None] * part.shares).sum(axis=2) / power[:, None]
                block[:, np.arange(len(cls.domains)), np.arange(len(cls.domains))] -= mean
            second[:, v, v] = block
            if a is not None:
                cross = np.einsum("bn,bkn->bk", w * part.slope, part.shares) + part.mixed(w)
                second[:, a, v] = second[:, v, a] = cross
                second[:, a, a] = np.sum(w * (part.slope**2 + part.bend), axis=1)
        return second

    @classmethod
    def one_basin(cls, pinned: Mapping[str, float]) -> bool:
        """The starts of `propose` are enough."""
        return True

    @classmethod
    def propose(cls, x: Mapping[str, Array], loss: Array, weights: Array) -> Array:
        """What each domain alone would give by a linear fit, split over the terms, for several floors and exponents."""
        h, root = x["h"], np.sqrt(weights)
        pull = 1e-3 * np.eye(len(h)) * np.sqrt(weights.sum())
        target = np.concatenate([loss * root, pull @ np.full(len(h), loss.mean())])
        alone = np.linalg.lstsq(np.vstack([(h * root).T, pull]), target, rcond=None)[0]
        lots, order = np.random.default_rng(0), np.argsort(alone, kind="stable")  # whatever the names of domains
        made = []
        for share, power in product(FLOORS, STARTS):
            floor = share * loss.min()
            excess = np.log(np.maximum(alone - floor, 0.1 * (loss.min() - floor)) / len(cls.terms))
            theta = np.empty(len(cls.parameters()))
            theta[0] = floor
            for number, (term, a, v) in enumerate(cls.places()):
                theta[v] = excess
                if len(cls.terms) > 1:
                    theta[v][order] += lots.normal(0, 0.3, len(excess))
                own = power * (2.0**number)
                if a is not None:
                    theta[a] = np.log(own)
                if term.of:
                    theta[v] += own * (x[term.of] - np.log(PIVOT[term.of])).mean()
            made.append(theta)
        return np.array(made)

    @property
    def alone(self) -> Array:
        """The loss (k,) of a run on each domain alone, nats/token, at the PIVOT of the columns of size and tokens."""
        values = self.values()
        return self.E + sum((values[v] for _, _, v in self.places()), np.zeros(len(self.domains)))


@dataclass(frozen=True)
class _Part:
    """A term at B parameters and n rows: its logarithm (B, n) and derivatives of that.

    `shares` (B, k, n) are those in the logarithms of the excess losses, `slope` (B, n) that in the logarithm of the
    exponent and `bend` (B, n) the second; `off` (B, k, n) is what the shares change by along that logarithm.
    """

    log: Array
    shares: Array
    slope: Array
    bend: Array
    off: Array | None

    @classmethod
    def of(cls, term: Term, power: Array | None, u: Array, x: Mapping[str, Array]) -> "_Part":
        h = x["h"]
        scale = x[term.of] - np.log(PIVOT[term.of]) if term.of else np.zeros(h.shape[-1])
        if term.mean == "geometric":
            slope = np.zeros((len(u), h.shape[-1])) if power is None else -power[:, None] * scale
            return cls(u @ h + slope, np.broadcast_to(h, (len(u), *h.shape)), slope, slope, None)
        assert power is not None
        a = power[:, None]
        most = (-u / a).max(axis=1, keepdims=True)
        parts = np.exp(-u / a - most)[:, :, None] * h
        total = parts.sum(axis=1)
        shares, log_sum = parts / total[:, None], np.log(total) + most
        middle = np.einsum("bk,bkn->bn", u, shares)
        off = shares * (u[:, :, None] - middle[:, None]) / a[:, :, None]
        log = -a * (log_sum + scale)
        slope = log - middle
        return cls(log, shares, slope, slope - np.einsum("bk,bkn->bn", u, off), off)

    def mixed(self, weight: Array) -> Array:
        """Sum over rows of weight (B, n) times the change of the shares along the logarithm of the exponent, (B, k)."""
        return np.zeros(self.shares.shape[:2]) if self.off is None else np.einsum("bn,bkn->bk", weight, self.off)


def exponential(domains: tuple[str, ...]) -> type[MixtureLaw]:
    """L = E + prod_j v_j^h_j, the exponential law (Ye et al. 2024).

    >>> exponential(("code", "prose")).parameters()
    ('E', 'v_code', 'v_prose')
    """
    return mixture_law(tuple(domains), (Term("geometric"),))


def effective_data(domains: tuple[str, ...], terms: int = 1) -> type[MixtureLaw]:
    """L = E + (sum_j h_j v_j^(-1/a))^-a, a power law of effective data; with two `terms` a sum of two such.

    >>> law = effective_data(("code", "prose"))(E=2.0, a=0.5, v_code=1.0, v_prose=2.0)
    >>> [round(float(law(h)), 3) for h in ([1, 0], [0.5, 0.5], [0, 1])]
    [3.0, 3.265, 4.0]
    """
    return mixture_law(tuple(domains), (Term("power"),) * terms)


def joint(domains: tuple[str, ...], columns: str = "ND") -> type[MixtureLaw]:
    """L = E + (N/1e8)^-a1 prod_j v1_j^h_j + (D/1e10)^-a2 (sum_j h_j v2_j^(-1/a2))^-a2 (Shukor et al. 2025).

    `columns` says which of N and D the law reads. Without D the second term is that of `effective_data`.
    """
    first = (Term("geometric", "N"),) if "N" in columns else ()
    return mixture_law(tuple(domains), (*first, Term("power", "D" if "D" in columns else "")))


@cache
def mixture_law(domains: tuple[str, ...], terms: tuple[Term, ...]) -> type[MixtureLaw]:
    """The law of these domains, whose columns are weight_NAME, with these terms."""
    if list(domains) != sorted(domains) or len(set(domains)) < 2:
        raise ValueError(f"domains of a mixture: two or more names in alphabetical order, not {', '.join(domains)}")
    names, box = ["E"], {"E": Box(0.0, 1e3)}
    written = []
    for number, term in enumerate(terms, start=1):
        own = str(number) if len(terms) > 1 else ""
        if term.bends:
            names.append(f"a{own}")
            box[f"a{own}"] = POWER
        alone = [f"v{own}_{name}" for name in _identifiers(domains)]
        names += alone
        box |= dict.fromkeys(alone, ALONE)
        mean = f"prod_j v{own}_j^h_j" if term.mean == "geometric" else f"(sum_j h_j v{own}_j^(-1/a{own}))^-a{own}"
        written.append(f"({term.of}/{UNIT[term.of]})^-a{own} {mean}" if term.of else mean)
    of = tuple(k for k in ("N", "D") if any(term.of == k for term in terms))
    paper = SHUKOR if of else YE if terms[0].mean == "geometric" else None
    facts: dict[str, Any] = {
        "name": "mixture", "formula": f"L = E + {' + '.join(written)}", "inputs": (*of, "h"), "box": box,
        "terms": terms, "domains": domains, "paper": paper,
        "source": paper.cite() if paper else "a power law of effective data",
        "made_by": (mixture_law, (domains, terms)),
    }  # fmt: skip
    return make_dataclass("Mixture", [(n, float) for n in names], bases=(MixtureLaw,), namespace=facts, frozen=True)


def _identifiers(domains: tuple[str, ...]) -> list[str]:
    """The domains as parts of names of parameters: other letters are underscores, and what would be one is numbered."""
    found = [re.sub(r"\W", "_", name, flags=re.ASCII) for name in domains]
    return [f"{name}_{i}" if found.count(name) > 1 else name for i, name in enumerate(found)]
