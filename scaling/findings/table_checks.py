"""Checks of the data behind a fit: its spans, its conventions, and the protocol that its runs were trained under."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from isoflop.printable import counted
from isoflop.scaling.approaches.isoflop_profiles import budget_groups
from isoflop.scaling.findings.finding import Case, Check, Finding
from isoflop.scaling.findings.settings import given_twice
from isoflop.scaling.table.columns import row_names
from isoflop.scaling.table.law_inputs import unlike
from isoflop.scaling.table.meaning import meaning_as

LEAST_FOR_SIDES = 5  # sizes of a budget, below which two cannot lie on either side
REACH = 30.0  # how far beyond a budget's sizes the law's optimum is looked for
CURVE = 400  # points on the way


def spans(case: Case) -> Iterator[Finding]:
    """Number of sizes, and the decades that n_params, tokens and flops span."""
    if not case.joint:
        return
    sizes = case.frame["n_params"].nunique()
    if sizes < 5:
        yield Finding(
            "few_sizes", "fail" if sizes < 4 else "warn", f"{sizes} distinct sizes",
            f"add {counted(5 - sizes, 'size')}; alpha rests on them",
        )  # fmt: skip
    for name, needed in (("n_params", 1.5), ("tokens", 1.5), ("flops", 2.0)):
        decades = float(np.ptp(np.log10(case.frame[name])))
        if decades < needed:
            yield Finding(
                "narrow_span", "warn", f"{name} spans {decades:.2f} decades, fewer than {needed}",
                f"add runs with {10 ** (needed - decades):.2g} times more (or fewer) {name}",
            )  # fmt: skip
    ratio = case.frame["tokens"] / case.frame["n_params"]
    extreme = ((ratio < 1) | (ratio > 1000)).to_numpy()
    if extreme.any():
        yield Finding(
            "extreme_ratio", "warn",
            f"{extreme.sum()} points have under 1 or over 1000 tokens per parameter, another regime "
            f"({row_names(case.frame, extreme)})",
            'refit without them, for example --where "tokens > n_params", and quote both',
        )  # fmt: skip


def rows(case: Case) -> Iterator[Finding]:
    """Rows that are copies, or checkpoints counted as runs, and runs that were left out."""
    frame = case.frame
    yield from given_twice(frame)
    alike = [c for c in ("n_params", "unique_tokens") if c in frame]
    repeated = case.joint and case.points.cluster == "row" and len(frame[alike].drop_duplicates()) * 2 <= len(frame)
    if repeated and not _is_grid(frame):
        yield Finding(
            "rows_not_runs", "warn",
            f"{len(frame)} rows of {frame['n_params'].nunique()} sizes count as independent runs; if rows of one size "
            "are checkpoints of one run, every interval is too narrow",
            "name the run of each row with --map run_id=COLUMN",
        )  # fmt: skip
    left_out = [n for n in case.points.notes if "left out" in n]
    if left_out:
        remedy = "isoflop status names the reason; run the study again" if case.runs is not None else (
            "finish those runs, or keep them with a --where that names the column")  # fmt: skip
        yield Finding("runs_left_out", "warn", left_out[0], remedy)


def conventions(case: Case) -> Iterator[Finding]:
    """Compute, parameters and loss that do not seem to be counted by one convention."""
    if case.joint and case.points.compute == "as given":
        k = np.log(case.frame["flops"] / case.frame["n_params"] / case.frame["tokens"]).to_numpy()
        x = np.log(case.frame["n_params"].to_numpy())
        trend = np.polyval(np.polyfit(x, k, 1), x) if np.ptp(x) > 0 else k.mean()
        if np.abs(k - trend).max() > np.log(1.3) or not np.log(1) < k.mean() < np.log(60):
            yield Finding(
                "mixed_conventions", "warn",
                f"flops / (n_params x tokens) is {np.exp(k.min()):.3g} to {np.exp(k.max()):.3g}, not near 6 throughout",
                "count n_params, tokens and flops by one convention, or use --compute 6nd",
            )  # fmt: skip
    attrs = case.table.attrs if case.table is not None else {}
    mapped = attrs.get("mapping", {}).get("loss", "")
    meant = meaning_as(mapped, "loss")
    converted = "loss_unit" in attrs and (meant.transform or meant.scale != 1)
    if not converted and any(word in mapped.lower() for word in ("bit", "bpb", "bpc", "perplexity", "ppl")):
        yield Finding(
            "loss_in_bits", "warn", f"the loss is the column {mapped!r}, which does not sound like nats per token",
            "multiply bits per token by ln 2 (or take ln of a perplexity); E, A and B are in the unit of the loss",
        )  # fmt: skip


def run_columns(case: Case) -> Iterator[Finding]:
    """Engines that differ among the runs of a run table, and losses near the uniform guess."""
    runs = case.runs
    if runs is None:
        return
    engines = runs["engine"][runs["engine"] != ""].value_counts() if "engine" in runs else {}
    if len(engines) > 1 or any("+" in name for name in dict(engines)):
        listed = ", ".join(f"{count} by {name}" for name, count in engines.items())
        yield Finding(
            "mixed_engines", "warn",
            f"the steps were taken by different engines ({listed}): their rounding differs and grows in training",
            "train the runs of one study by one engine (a compiler on every machine, one device), or fit one at a time",
        )  # fmt: skip
    per = runs["bytes_per_token"] if case.points.loss_unit == "nats/byte" and "bytes_per_token" in runs else 1.0
    uniform = (runs["loss"] > 0.95 * np.log(runs["vocab_size"]) / per).to_numpy()
    if uniform.any():
        yield Finding(
            "near_uniform", "warn",
            f"{uniform.sum()} runs have a loss within 5% of the uniform guess ln V ({row_names(runs, uniform)})",
            "use --law saturating, or leave those sizes out",
        )  # fmt: skip


def _repeats(case: Case) -> bool:
    """Whether the law reads the unique tokens, so that repeated data are part of it."""
    return "U" in case.fit.law.inputs


def protocol(case: Case) -> Iterator[Finding]:
    """Horizon, warm-up, steps and epochs of each run used."""
    runs = case.runs
    if runs is None:
        yield from _plain_repeats(case)
        return
    epochs = float(runs["epochs"].max())
    for wrong, code, severity, what, remedy in (
        (runs["tokens"] < runs["horizon_tokens"], "unfinished_schedule", "fail", "ended before their schedule did",
         "use runs whose learning rate has decayed at their own horizon"),
        (runs["warmup_tokens"] > 0.1 * runs["tokens"], "long_warmup", "warn", "warm up for over 10% of their tokens",
         "shorten the warm-up of the shortest runs: it moves the exponent"),
        (runs["step"] < 300, "few_steps", "fail", "took fewer than 300 steps: they measure the optimiser's transient",
         "halve the batch or drop the smallest budget"),
        ((runs["step"] >= 300) & (runs["step"] < 1000), "few_steps", "warn", "took 300 to 999 steps",
         "halve the batch or weigh those runs less"),
        ((runs["epochs"] > 1) & (not _repeats(case)), "repeated_data", "fail" if epochs > 4 else "warn",
         f"repeat their data, up to {epochs:.2g} epochs", "use a larger corpus or --law data-constrained"),
    ):  # fmt: skip
        hit = wrong.to_numpy()
        if hit.any():
            message = f"{hit.sum()} of {len(runs)} runs {what} ({row_names(runs, hit)})"
            yield Finding(code, severity, message, remedy)  # type: ignore[arg-type]
    if (runs["code_version"] == "").any():
        yield Finding("no_provenance", "warn", "some runs carry no code version", "train with an installed isoflop")


def _plain_repeats(case: Case) -> Iterator[Finding]:
    """Runs of a plain table that saw their unique tokens more than once, under a law that does not read them."""
    if _repeats(case) or "unique_tokens" not in case.frame:
        return
    epochs = (case.frame["tokens"] / case.frame["unique_tokens"]).to_numpy(float)
    hit = epochs > 1.01
    if hit.any():
        message = f"{hit.sum()} of {len(hit)} runs repeat their data, up to {epochs[hit].max():.2g} epochs"
        yield Finding(
            "repeated_data", "fail" if epochs[hit].max() > 4 else "warn", f"{message} ({row_names(case.frame, hit)})",
            "use --law data-constrained, or only the runs that saw new data",
        )  # fmt: skip


def minima(case: Case) -> Iterator[Finding]:
    """Budgets whose optimum under the fitted law is not between their sizes.

    The law pools the budgets: the lowest of a budget's noisy runs, or one bowl alone, would object to most studies of
    2.6% noise. Level: at most .01; power .95 where all sizes lie above the optimum, at 1% noise.
    """
    if not case.joint or unlike(case.fit.law.reads().values()) or case.frame["flops"].nunique() < 2:
        return  # a law of further columns has an optimum for each of their values
    groups = [g for g in budget_groups(case.points) if g["n_params"].nunique() >= 3]
    sides = [(g, *_sides(case, g)) for g in groups]
    outside = [_outside(g, "smaller" if not low else "larger") for g, low, high in sides if min(low, high) == 0]
    lopsided = [
        f"{g['flops'].mean():.3g} FLOPs: only one size is {'smaller' if low < high else 'larger'} than the optimum: "
        "add another"
        for g, low, high in sides
        if min(low, high) == 1 and g["n_params"].nunique() >= LEAST_FOR_SIDES
    ]
    for code, what, remedy in (
        ("no_interior_minimum", outside,
         "train the sizes named at those budgets; until then they say nothing about the optimum"),
        ("lopsided_profile", lopsided if 2 * len(lopsided) > len(groups) else [],
         "two sizes on either side of the optimum make its location safe"),
    ):  # fmt: skip
        if what:
            more = f"; and {len(what) - 4} more" if len(what) > 4 else ""
            message = f"{len(what)} of {len(groups)} budgets with three sizes ({'; '.join(what[:4])}{more})"
            yield Finding(code, "warn", message, remedy)


def _sides(case: Case, group: pd.DataFrame) -> tuple[int, int]:
    """How many sizes of a budget are smaller, and how many larger, than the fitted law's optimum there."""
    sizes = np.sort(group["n_params"].unique())
    flops = float(np.exp(np.log(group["flops"]).mean()))
    n = np.geomspace(sizes[0] / REACH, sizes[-1] * REACH, CURVE)
    curve = pd.DataFrame({"n_params": n, "tokens": case.fit.cost.tokens(flops, n), "flops": flops})
    if "unique_tokens" in group:
        curve["unique_tokens"] = float(group["unique_tokens"].median())
    best = n[int(np.argmin(case.fit.predict(curve)))]
    return int(np.sum(sizes < best)), int(np.sum(sizes > best))


def _outside(group: pd.DataFrame, missing: str) -> str:
    edge = "smallest" if missing == "smaller" else "largest"
    return (
        f"{group['flops'].mean():.3g} FLOPs: no interior minimum: the loss is lowest at or beyond the {edge} size, "
        f"add {missing} ones"
    )


def _is_grid(frame: pd.DataFrame) -> bool:
    """Whether rows of one size stand at budgets shared by other sizes, as runs of an isoFLOP study do."""
    shared = frame.groupby(frame["flops"].round(-int(np.floor(np.log10(frame["flops"].min()))) + 2))["n_params"]
    return bool((shared.nunique() >= 3).mean() > 0.5)


TABLE_CHECKS: tuple[Check, ...] = (spans, rows, conventions, run_columns, protocol, minima)
