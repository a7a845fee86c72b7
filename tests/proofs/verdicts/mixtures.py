"""Do laws of mixtures rank what was not tried, and does the best mixture lie where its interval says?

python -m tests.proofs.verdicts.mixtures [regmix] [few] [studies]

regmix (needs ISOFLOP_PUBLIC_DATA): fitted to 512 runs of 1M parameters, 256 other mixtures ranked at 60M, 13 losses.
few: fitted to 64 of the 512 runs, 20 draws, pile_cc at 60M. studies: 50 simulated studies of two and of three domains
(tests/support/fits/mixed_studies.py), 1% noise: is the best mixture inside its 90% interval?
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import beta, spearmanr

from isoflop.scaling.mixtures.mix import mix
from isoflop.scaling.mixtures.surrogate import surrogate
from isoflop.scaling.mixtures.table import Mixtures, mixtures
from tests.support.fits.mixed_studies import best_of, study

FEW, DRAWS, STUDIES = 64, 20, 50


def _read(name: str) -> tuple[Mixtures, list[str]]:
    if "ISOFLOP_PUBLIC_DATA" not in os.environ:
        raise SystemExit("regmix and few need public data: set ISOFLOP_PUBLIC_DATA, or name other parts")
    table = pd.read_csv(Path(os.environ["ISOFLOP_PUBLIC_DATA"]) / "regmix" / name)
    losses = [c for c in table if c.startswith("loss_")]
    return mixtures(table, losses), losses


def ranked(train: Mixtures, test: Mixtures, loss: str, rows: np.ndarray | None = None) -> tuple[float, int]:
    """Spearman's correlation over the mixtures of `test`, and the true rank (from 1) of the best predicted one."""
    frame = train.of(loss) if rows is None else train.of(loss).iloc[rows]
    predicted = surrogate(frame, train.domains).loss(test.shares)
    true = test.frame[loss].to_numpy()
    return float(spearmanr(predicted, true)[0]), int((true < true[np.argmin(predicted)]).sum()) + 1


def regmix() -> None:
    """All losses: mean and worst rank correlation, and how often the best is found."""
    (train, losses), (test, _) = _read("train_1m.csv"), _read("test_60m.csv")
    found = {loss: ranked(train, test, loss) for loss in losses}
    for loss, (rho, rank) in found.items():
        print(f"{loss:<24} Spearman {rho:.4f}, best predicted is {rank} of {len(test.frame)}", flush=True)
    rho, rank = np.array(list(found.values())).T
    print(
        f"mean {rho.mean():.4f} (bar .985), worst {rho.min():.4f} (.965), in the top 3: {int((rank <= 3).sum())} (10)"
    )


def few() -> None:
    """One loss from few runs."""
    (train, _), (test, _) = _read("train_1m.csv"), _read("test_60m.csv")
    found = []
    for draw in range(DRAWS):
        rows = np.random.default_rng(draw).permutation(len(train.frame))[:FEW]
        found.append(ranked(train, test, "loss_pile_cc", rows))
    rho, rank = np.array(found).T
    print(
        f"{FEW} runs, {DRAWS} draws: median {np.median(rho):.4f} (bar .96), lowest {rho.min():.4f}; best predicted in "
        f"the top 3 in {int((rank <= 3).sum())} (bar 18)"
    )


def studies() -> None:
    """Simulated studies with a known best mixture."""
    for domains in (2, 3):
        held, gains = [], []
        for seed in range(STUDIES):
            law, table = study(domains, seed)
            best = best_of(law)
            found = mix(table)
            held += list((found.intervals[:, 0] - 1e-6 <= best) & (best <= found.intervals[:, 1] + 1e-6))[: domains - 1]
            true = float(law(found.natural) - law(found.weights))
            gains.append(found.gain_interval[0] <= true <= found.gain_interval[1])
        for what, values in (("best shares", held), ("gain", gains)):
            k, n = int(np.sum(values)), len(values)
            lo, hi = beta.ppf(0.025, k, n - k + 1), beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
            print(
                f"{domains} domains: {what} inside 90% in {k / n:.3f} of {n} ({lo:.3f} to {hi:.3f}; bar .86)",
                flush=True,
            )


PARTS = {"regmix": regmix, "few": few, "studies": studies}


def main() -> None:
    """Print what the named parts find."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    for part in parser.parse_args().parts or PARTS:
        PARTS[part]()


if __name__ == "__main__":
    main()
