"""Published laws as instances, each with its conventions, fitted range and source: the only copy of these constants.

Full precision where the authors give it; where two digits are all that there is, `rounding` says so. Overlay a law only
inside its range: outside, and under another convention for N or C or another tokenizer, its constants mean something
else.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from isoflop.scaling.laws.axes.data_constrained import DataConstrained
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.cost import SIX_ND, Cost
from isoflop.scaling.laws.kaplan import Kaplan
from isoflop.scaling.laws.law import Allocation, Law
from isoflop.scaling.laws.power import Power, PowerD, PowerN

PF_DAY = 8.64e19  # FLOPs


@dataclass(frozen=True)
class AllocationRule:
    """N* = n_coef C^n_exponent and D* = d_coef C^d_exponent: a published frontier without a loss."""

    n_coef: float
    n_exponent: float
    d_coef: float
    d_exponent: float

    def optimal(self, C: Any, cost: Cost = SIX_ND) -> Allocation:
        """As published, whatever the cost; the loss is unknown (NaN)."""
        C = np.asarray(C, dtype=float)
        N, D = self.n_coef * C**self.n_exponent, self.d_coef * C**self.d_exponent
        return Allocation(N, D, C, np.full(C.shape, np.nan))

    def exponents(self, cost: Cost = SIX_ND) -> dict[str, float]:
        """The exponents a of N* ~ C^a and b of D* ~ C^b, as published."""
        return {"a": self.n_exponent, "b": self.d_exponent}


@dataclass(frozen=True)
class Published:
    """A law with what its numbers refer to: (low, high) of parameters and of FLOPs are the range it was fitted on.

    `rounding` is half the last digit of the coefficient and of the exponent that an allocation was published with,
    where these have two digits.
    """

    law: Law | AllocationRule
    params: str
    compute: str
    tokenizer: str
    n_params: tuple[float, float]
    flops: tuple[float, float]
    source: str
    rounding: tuple[float, float] = (0.0, 0.0)

    def rounded_by(self, flops: float) -> float:
        """The factor by which rounding alone may move the tokens of an allocation at some FLOPs; 1 for none."""
        if not isinstance(self.law, AllocationRule):
            return 1.0
        coefficient, exponent = self.rounding
        return float((1 + coefficient / self.law.d_coef) * flops**exponent)


def _kaplan(law: Law, equation: str) -> Published:
    return Published(
        law, "non-embedding", "6 N B S, without the head", "GPT-2 BPE, 50,257; WebText2", (768.0, 1.5e9),
        (1e-8 * PF_DAY, 10 * PF_DAY), f"Kaplan et al. 2020, arXiv 2001.08361, {equation}",
    )  # fmt: skip


def _gadre(law: Chinchilla, corpus: str) -> Published:
    return Published(
        law, "total", "6ND", f"GPT-NeoX BPE, 50k; {corpus}, evaluated on C4", (1.1e7, 4.1e8), (1.3e16, 2.1e19),
        "Gadre et al. 2024, arXiv 2403.08540, eq. 4, refitted here by its recipe to its five training runs",
    )  # fmt: skip


PUBLISHED: dict[str, Published] = {
    "kaplan-2020": _kaplan(Kaplan(6.4e13, 1.8e13, 0.076, 0.103), "eq. 1.5 and table 2"),
    "kaplan-2020-n": _kaplan(PowerN(0.0, 8.8e13**0.076, 0.076), "eq. 1.1"),
    "kaplan-2020-d": _kaplan(PowerD(0.0, 5.4e13**0.095, 0.095), "eq. 1.2"),
    "kaplan-2020-c": _kaplan(Power(0.0, (3.1e8 * PF_DAY) ** 0.050, 0.050), "eq. 1.3, compute at the best batch"),
    "hoffmann-2022": Published(
        Chinchilla(np.exp(0.5267228), np.exp(6.0073404), np.exp(6.0179186), 0.33917084, 0.2849083),
        "total", "operation by operation, their appendix F", "SentencePiece, 32k; MassiveText", (4.4e7, 1.6e10),
        (6e18, 3e21), "Hoffmann et al. 2022, arXiv 2203.15556, eq. 10, unrounded values from its TeX source",
    ),
    "besiroglu-2024": Published(
        Chinchilla(1.8172, 482.01, 2085.43, 0.3478, 0.3658), "total", "6ND", "SentencePiece, 32k; MassiveText",
        (5.7e7, 1.6e10), (6e18, 3e21), "Besiroglu et al. 2024, arXiv 2404.10102, as printed, from 240 points",
    ),
    "muennighoff-2023": Published(
        DataConstrained(
            np.exp(0.6254804), np.exp(6.255414), np.exp(7.3049974), 0.3526596, 0.3526596, 15.387756, 5.309743
        ),
        "total", "6ND", "GPT-2 BPE, 50,257; C4", (7.1e6, 8.7e9), (4.3e15, 9.3e21),
        "Muennighoff et al. 2023, arXiv 2305.16264, eqs. 5-7, values of the authors' notebook",
    ),
    "gadre-2024-c4": _gadre(
        Chinchilla(
            1.508260541477836, 113.6926028355866, 152.51225561285665, 0.24247223896400133, 0.24247223896400133
        ),
        "C4",
    ),
    "gadre-2024-redpajama": _gadre(
        Chinchilla(
            1.836648378697986, 166.2109837695781, 287.16807815960254, 0.2728507025341196, 0.2728507025341196
        ),
        "RedPajama",
    ),
    "gadre-2024-refinedweb": _gadre(
        Chinchilla(
            1.7344620895867018, 125.09569551504619, 196.02930951764785, 0.2543948446644557, 0.2543948446644557
        ),
        "RefinedWeb",
    ),
    "porian-2024": Published(
        AllocationRule(0.11892648397493802, 0.49689507817885203, 1.401425999458538, 0.5031049218211477),
        "matrices, with the head", "6ND", "GPT-NeoX BPE, 50k; RefinedWeb", (5.2e6, 9.01e8), (1.25e16, 2.6e19),
        "Porian et al. 2024, arXiv 2406.19146, tuned hyper-parameters, the authors' weighted fit",
    ),
    "llama3-2024": Published(
        AllocationRule(1 / (6 * 0.29), 0.47, 0.29, 0.53), "total", "6ND", "tiktoken, 128k; their own mixture",
        (4e7, 1.6e10), (6e18, 1e22), "Llama team 2024, arXiv 2407.21783, section 3.2.1; N* from C = 6ND",
        (0.005, 0.005),
    ),
    "deepseek-2024": Published(
        AllocationRule(0.1715 / 6, 0.5243, 5.8316, 0.4757), "FLOPs per token / 6, with attention, without the head",
        "M D with M the FLOPs per token", "BPE, 100k; their own corpus", (2e7, 7e9), (1e17, 3e20),
        "DeepSeek-AI 2024, arXiv 2401.02954, eq. 4",
    ),
}  # fmt: skip


# The exponents of N* that studies of dense models on text stated, each over its own range of compute. Of two fits to
# the same runs the later counts; studies that tie the exponent to 1/2 state none.
STATED = {
    "kaplan-2020": 0.73,  # section 6.1; of non-embedding parameters
    **{name: PUBLISHED[name].law.exponents()["a"] for name in ("besiroglu-2024", "porian-2024", "llama3-2024")},
    "deepseek-2024": PUBLISHED["deepseek-2024"].law.exponents()["a"],
}


@dataclass(frozen=True)
class Drift:
    """How an exponent differs between studies: its standard deviation, and the degrees of freedom of that."""

    sd: float
    freedom: int


@cache
def exponent_drift() -> Drift:
    """The scatter of STATED: what one study's exponent of N* may be off beyond its own range, which it cannot check.

    The studies differ in data, counts of parameters and tuning too, so that one family may drift less.
    """
    a = np.array(list(STATED.values()))
    return Drift(float(a.std(ddof=1)), len(a) - 1)
