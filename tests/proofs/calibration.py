"""Does what the fits, forecasts, multipliers, approaches and Findings state hold as often as they say?

python -m tests.proofs.calibration [--only PART ...] [--studies N] [--minutes M] [--workers N] [--raw FILE] [--write]

Simulated studies with a known truth (tests/support/fits/simulated_studies.py), the statements about each held against
it (calibrated.py). Every outcome is added to a CSV file, by the hash of the code in scaling/; a study that is there is
not simulated again, so an interrupted proof goes on, and `--minutes` ends one with the studies made till then. The
summary has a binomial 95% interval for every share (Clopper and Pearson 1934) and the bar it is held to; `--write` puts
it into docs/calibration.csv and docs/calibration.md, in place of what these have of the same designs; with it stands
the most that any test could see of the faults.
"""

import argparse
import csv
import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import beta, kstest

from isoflop.scaling.findings.departures import LEVEL
from tests.support.fits.calibrated import PARTS, Part
from tests.support.fits.linear_studies import LinearStudies
from tests.support.root import ROOT

FIELDS = ("code", "part", "design", "noise", "study", "quantity", "level", "hit", "place", "note")
KINDS = ("independent", "shared")
BLOCK = 10  # studies that one process simulates before they are written
TABLES = (ROOT / "docs/calibration.csv", ROOT / "docs/calibration.md")

Job = tuple[str, str, str, int]  # part, design, kind of noise, first study


def code_hash() -> str:
    """What of the code decides the outcomes."""
    files = sorted([*(ROOT / "scaling").rglob("*.py"), *(ROOT / "tests/support/fits").glob("*.py")])
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:12]


def kinds(part: Part) -> tuple[str, ...]:
    """The kinds of noise that a part is held to."""
    return KINDS if part.shared is not None else KINDS[:1]


def simulate(job: Job) -> list[dict]:
    """The outcomes of a block of studies."""
    name, design_name, kind, first = job
    part = PARTS[name]
    design = next(d for d in part.designs if d.name == design_name)
    design = design.sharing() if kind == "shared" else design
    rows = []
    for study in range(first, first + BLOCK):
        for outcome in part.outcomes(design, study):
            rows.append({
                "part": name, "design": design_name, "noise": kind, "study": study, "quantity": outcome.quantity,
                "level": outcome.level, "hit": int(outcome.hit), "place": round(outcome.place, 5),
                "note": outcome.note,
            })  # fmt: skip
    return rows


def jobs(names: list[str], studies: int | None, done: set[Job]) -> Iterator[Job]:
    """The blocks that are missing, those of all designs by turns."""
    most = max(studies or PARTS[name].studies for name in names)
    for first in range(0, most, BLOCK):
        for name in names:
            part = PARTS[name]
            if first >= (studies or part.studies):
                continue
            for design in part.designs:
                for kind in kinds(part):
                    if (name, design.name, kind, first) not in done:
                        yield name, design.name, kind, first


def run(raw: Path, names: list[str], studies: int | None, workers: int, minutes: float = np.inf) -> pd.DataFrame:
    """Simulate what the file lacks, for so many minutes at most; returns all outcomes of this code."""
    until = time.monotonic() + 60 * minutes
    code = code_hash()
    if not raw.exists():
        raw.write_text(",".join(FIELDS) + "\n")
    table = _read(raw, code)
    done = set(zip(table["part"], table["design"], table["noise"], table["study"] // BLOCK * BLOCK, strict=True))
    missing = list(jobs(names, studies, done))
    print(f"{len(missing)} blocks of {BLOCK} studies to simulate, {len(done)} are there; code {code}", flush=True)
    with raw.open("a", newline="") as out:
        writer = csv.DictWriter(out, FIELDS)
        for rows in _each(missing, workers):
            writer.writerows({"code": code} | row for row in rows)
            out.flush()
            if time.monotonic() > until:
                break
    return _read(raw, code)


def _each(missing: list[Job], workers: int) -> Iterator[list[dict]]:
    if workers < 2:
        yield from map(simulate, missing)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        try:
            yield from pool.map(simulate, missing)
        finally:
            pool.shutdown(cancel_futures=True)


def _read(raw: Path, code: str) -> pd.DataFrame:
    table = pd.read_csv(raw, dtype={"note": str, "code": str}, keep_default_na=False, na_values={"place": ["", "nan"]})
    return table[table["code"] == code]


def summary(outcomes: pd.DataFrame) -> pd.DataFrame:
    """The share of hits of every statement, with its binomial interval, its bar and the verdict.

    A share outside its bar is "misses" where the whole binomial interval is, else "unsure".
    """
    rows = []
    for (name, design, kind, quantity, level), group in outcomes.groupby(
        ["part", "design", "noise", "quantity", "level"], sort=False
    ):
        hits, n = int(group["hit"].sum()), len(group)
        lo, hi = binomial(hits, n)
        part = PARTS[name]
        least, most = bar(part.shared if kind == "shared" and part.shared else part.bars, quantity, level)
        share = hits / n
        holds = "" if np.isnan(least) else "holds" if least <= share <= most else "unsure"
        if holds == "unsure" and (hi < least or lo > most):
            holds = "misses"
        flat = kstest(group["place"], "uniform").pvalue if group["place"].notna().all() else np.nan
        rows.append({
            "part": name, "design": design, "noise": kind, "quantity": quantity, "level": level, "studies": n,
            "share": share, "lo": lo, "hi": hi, "least": least, "most": most, "verdict": holds, "pit_p": flat,
            "codes": _codes(group["note"]),
        })  # fmt: skip
    return pd.DataFrame(rows)


def bar(bars: dict, quantity: str, level: float) -> tuple[float, float]:
    """The bar of a statement: by the beginning of its name and, unless it has no level, at .9; else by its level."""
    for key, value in bars.items():
        if isinstance(key, str) and quantity.startswith(key) and level in (0, 0.9):
            return value
    return bars.get(level, (float("nan"), float("nan")))


def binomial(hits: int, n: int) -> tuple[float, float]:
    """The 95% interval of a share."""
    lo = beta.ppf(0.025, hits, n - hits + 1) if hits else 0.0
    hi = beta.ppf(0.975, hits + 1, n - hits) if hits < n else 1.0
    return float(lo), float(hi)


def _codes(notes: pd.Series) -> str:
    """Each code with the share of studies that showed it."""
    counts = notes.str.split().explode().value_counts()
    return ", ".join(f"{code} {count / len(notes):.2f}" for code, count in counts.items())


def markdown(table: pd.DataFrame) -> str:
    """The summary as a page: what has a bar, in the order of the parts."""
    lines = [
        "# Calibration", "",
        "How often what is stated about a simulated study is true. `python -m tests.proofs.calibration --write` makes "
        "this page and calibration.csv, which has every level and the shares of every code.", "",
        "A share has its binomial 95% interval. *misses*: all of that interval lies outside the bar; *unsure*: the "
        f"share does, the interval does not. This table has at most {table['studies'].max()} studies a cell: below "
        "about 200 an interval settles little. What is not here was not simulated; a cell keeps its figures until it "
        "is simulated anew.", "",
    ]  # fmt: skip
    barred = table[table["verdict"] != ""]
    for name, part in barred.groupby("part", sort=False):
        lines += [
            f"## {name}",
            "",
            "| design | noise | statement | share | bar | |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for row in part.itertuples():
            level = f" {row.level:.0%}" if row.level else ""
            note = f" ({row.codes})" if row.codes else ""
            lines.append(
                f"| {row.design} | {row.noise} | {row.quantity}{level} | {row.share:.3f} [{row.lo:.3f}, {row.hi:.3f}] "
                f"of {row.studies} | {row.least:g} to {row.most:g} | {row.verdict}{note} |"
            )
        lines.append("")
    return "\n".join(lines)


def merged(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """A summary with another's rows in place of its own of the same part, design and noise, the parts in order."""
    cell = ["part", "design", "noise"]
    again = set(new[cell].itertuples(index=False, name=None))
    kept = old[[row not in again for row in old[cell].itertuples(index=False, name=None)]]
    order = {name: i for i, name in enumerate(PARTS)}
    both = pd.concat([kept.fillna({"verdict": "", "codes": ""}), new], ignore_index=True)
    return both.sort_values("part", key=lambda part: part.map(order), kind="stable", ignore_index=True)


def bounds() -> str:
    """The power that no test exceeds though it knows the fault, its size and sign and the noise, as a page's lines."""
    levels = (0.05, LEVEL, 0.15)
    lines = [
        "## the most that a test could see", "",
        "Of the same studies with 1% noise: the power that no test of a level exceeds (Neyman and Pearson), were the "
        "fault, its size and its sign known and the whole level spent on it. The law takes up most of such a fault. "
        f"Departures share the level {LEVEL:g}; all warnings together are held to .15.", "",
        "| design | fault | " + " | ".join(f"level {level:g}" for level in levels) + " |",
        "| --- | --- |" + " --- |" * len(levels),
    ]  # fmt: skip
    for sizes in (7, 8):
        studies = LinearStudies(replace(PARTS["power"].designs[0], sizes=sizes))
        for fault, shift in studies.faults.items():
            power = " | ".join(f"{studies.bound(shift, 0.01, level):.2f}" for level in levels)
            lines.append(f"| {len(studies.table)} runs, {sizes} sizes a budget | {fault} | {power} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Simulate, print, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument("--studies", type=int, help="of every design; by default as many as each part needs")
    parser.add_argument("--minutes", type=float, default=np.inf, help="after which no more are begun")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--raw", type=Path, default=Path("calibration-outcomes.csv"))
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    table = summary(run(given.raw, given.only, given.studies, given.workers, given.minutes))
    shown = table[table["part"].isin(given.only)]
    print(markdown(shown))
    counts = shown["verdict"].value_counts()
    print({name: int(counts.get(name, 0)) for name in ("holds", "unsure", "misses")})
    if given.write:
        table = merged(pd.read_csv(TABLES[0]), table) if TABLES[0].exists() else table
        table.round(4).to_csv(TABLES[0], index=False)
        TABLES[1].write_text(f"{markdown(table)}\n{bounds()}")


if __name__ == "__main__":
    main()
