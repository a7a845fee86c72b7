"""Does the gate keep its promises? python -m tests.proofs.verdicts.gate [PART ...] [--kept gate.json]

Parts: null, vanish, pairs, single, regmix (needs ISOFLOP_PUBLIC_DATA). Each is kept in a file as it ends and not done
again. And nulls [RUNS] [GATES]: gates on runs of one configuration that differ in their seeds alone, trained here in a
runs folder; a launch that was killed goes on when it is typed again.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from isoflop.scaling.gate.gate import gate
from tests.support.fits.gates import (
    COMPUTES,
    draw,
    fixed_design,
    looks,
    measured_noise,
    planned,
    regmix_arms,
    scored,
)
from tests.support.root import RESULTS

Row = tuple[str, str, str]  # check, figure, bar
GATES, PAIRS, SLOPE = 2000, 200, 0.1
TARGETS = {"at the compute of the pairs": 1.0, "10 times beyond them": 10.0}
SPLITS = 20
NULL_GATES, NULL_PAIRS = 100, 12
NULL_STUDY = ("study.name=gate_nulls", "study.sizes=[d8]", "study.budgets=[1e9]")  # of experiment=smoke


def null() -> list[Row]:
    """Changes that do nothing, looked at after every pair."""
    noise, rows = measured_noise(pd.read_parquet(RESULTS / "lr_transfer.parquet")), []
    for where, times in TARGETS.items():
        sizes = np.full(PAIRS, 3) if times == 1 else planned(times * COMPUTES[-1], PAIRS)
        x = np.log(COMPUTES[sizes] / (times * COMPUTES[-1]))
        promoted, rejected = looks(draw(noise, sizes, GATES, 1), x).decided()
        rows.append((f"null promoted, target {where}", f"{np.mean(promoted < rejected):.4f}", "<= .05"))
        rows.append(("  and with no stop at a rejection", f"{np.mean(np.isfinite(promoted)):.4f}", "<= .05"))
        rows.append(("  rejected", f"{np.mean(rejected < promoted):.4f}", ""))
    return rows


def vanish() -> list[Row]:
    """Gains of 20% at the smallest compute that are gone at the target."""
    noise, rows = measured_noise(pd.read_parquet(RESULTS / "lr_transfer.parquet")), []
    target = 10 * COMPUTES[-1]
    sizes = planned(target, PAIRS)
    x = np.log(COMPUTES[sizes] / target)
    share = x / np.log(COMPUTES[0] / target)  # of the way back: 1 at the smallest compute
    for how, path in {"by ln compute": share, "fast at first": share**2, "late": share**0.5}.items():
        gain = SLOPE * np.log(1.2) * path
        promoted, rejected = looks(gain + draw(noise, sizes, GATES, 2), x).decided()
        bar = "" if how == "late" else "<= .05"
        rows.append((f"gain of 1.2 gone at the target, {how}: promoted", f"{np.mean(promoted < rejected):.4f}", bar))
    return rows


def pairs() -> list[Row]:
    """Pairs until a gain is promoted, against fixed designs."""
    noise, rows = measured_noise(pd.read_parquet(RESULTS / "lr_transfer.parquet")), []
    for deviation in (0.010, 0.015, 0.019):
        sizes = np.full(400, 3)
        effect = SLOPE * np.log(1.10)
        gain = effect + draw(noise, sizes, GATES, 3, scale=deviation)
        promoted, rejected = looks(gain, np.zeros(400)).decided()
        middle = float(np.median(np.where(promoted < rejected, promoted, np.inf)))
        known, sized = fixed_design(effect / deviation), fixed_design(SLOPE * np.log(1.03) / deviation)
        rows.append((f"m 1.10, sd {deviation:.1%}: median {middle:.0f} pairs, fixed {known}", f"{middle / known:.3f}",
                     "<= 1.15"))  # fmt: skip
        rows.append((f"  against {sized} for 1.03", f"{middle / sized:.3f}", "<= .4"))
        rows.append(("  promoted in the end", f"{np.mean(promoted < rejected):.4f}", ""))
    return rows


def single() -> list[Row]:
    """One seed at one size, a gain of 1 to 2%, nothing learnt."""
    rng, decisions = np.random.default_rng(4), []
    for _ in range(50):
        loss = 3 * np.exp([0.0, -rng.uniform(0.01, 0.02)])
        table = pd.DataFrame({"arm": ["base", "new"], "n_params": 1e8, "tokens": 2e9, "loss": loss, "seed": 0})
        decisions += [gate(table, target=times * 1.2e18).verdicts[0].decision for times in (1.0, 100.0)]
    return [("one seed, one size, gain 1 to 2%: undecided", f"{np.mean(np.array(decisions) == 'undecided'):.3f}", "1")]


def regmix() -> list[Row]:
    """Stated P against what happened, on the half of the arms that was not learnt from."""
    if "ISOFLOP_PUBLIC_DATA" not in os.environ:
        raise SystemExit("regmix needs public data: set ISOFLOP_PUBLIC_DATA, or name other parts")
    folder = Path(os.environ["ISOFLOP_PUBLIC_DATA"]) / "regmix"
    data = regmix_arms(pd.read_csv(folder / "test_1m.csv"), pd.read_csv(folder / "test_60m.csv"))
    rng = np.random.default_rng(0)
    halves = []
    for _ in range(SPLITS):
        order = rng.permutation(len(data))
        halves += [scored(data, np.sort(half)) for half in np.array_split(order, 2)]
    found = np.array(halves)
    rows: list[Row] = []
    for k, gap in enumerate(("under 1%", "1 to 3%", "above 3%")):
        count, stated, held = found[:, k, 0], found[:, k, 1], found[:, k, 2]
        off = float(np.average(stated - held, weights=count))
        each = np.abs(stated - held)
        rows.append((
            f"gap {gap}: P {np.average(stated, weights=count):.3f}, held {np.average(held, weights=count):.3f}, "
            f"|off| of one half {np.median(each):.3f} (most {each.max():.3f})", f"{off:+.3f}", "|.| <= .03",
        ))  # fmt: skip
    return rows


def nulls(runs: str, gates: int) -> list[Row]:
    """Gates between arms of one configuration, whose runs differ in the seed alone: looked at after every pair."""
    import isoflop

    seeds = range(1, 2 * gates * NULL_PAIRS + 1)
    listed = ",".join(map(str, seeds))
    table = isoflop.run("smoke", [*NULL_STUDY, f"study.seeds=[{listed}]", f"runs={runs}"])
    final = table[table["final"]].sort_values("seed").reset_index(drop=True)
    promoted = 0
    for g in range(gates):
        own = final.iloc[g * 2 * NULL_PAIRS : (g + 1) * 2 * NULL_PAIRS].reset_index(drop=True)
        own = own.assign(arm=np.where(own.index % 2, "other", "one"), seed=own.index // 2, created_at="")
        for k in range(2, NULL_PAIRS + 1):
            decision = gate(own.iloc[: 2 * k], target=float(own["flops"].iloc[0]), baseline="one").verdicts[0].decision
            if decision != "undecided":
                promoted += decision == "promote"
                break
    return [(f"real nulls promoted, of {gates}", str(promoted), "<= 9 of 100")]


PARTS: dict[str, Callable[[], list[Row]]] = {
    "null": null, "vanish": vanish, "pairs": pairs, "single": single, "regmix": regmix,
}  # fmt: skip


def main(arguments: list[str]) -> None:
    """Do the parts that were not done, and print all as one table."""
    if arguments[:1] == ["nulls"]:
        runs, gates = (arguments[1:] + ["runs_gate_nulls", str(NULL_GATES)][len(arguments) - 1 :])[:2]
        show({"nulls": nulls(runs, int(gates))})
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--kept", type=Path, default=Path("gate.json"))
    chosen = parser.parse_args(arguments)
    kept = json.loads(chosen.kept.read_text()) if chosen.kept.exists() else {}
    for name in chosen.parts or PARTS:
        if name not in kept:
            kept[name] = PARTS[name]()
            chosen.kept.write_text(json.dumps(kept, indent=1))
    show({name: kept[name] for name in chosen.parts or PARTS})


def show(parts: dict[str, list[Row]]) -> None:
    """Print the rows of parts as one table."""
    for name, rows in parts.items():
        for check, figure, bar in rows:
            print(f"{name:7} {check:110} {figure:>8}  {bar}")


if __name__ == "__main__":
    main(sys.argv[1:])
