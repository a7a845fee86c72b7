"""`isoflop batch`: the critical batch of each size, how it grows with data, and what a deadline costs.

Steps and samples to a fixed loss trade off along (S / S_min - 1)(X / X_min - 1) = 1 with X = S B, that is along
S = S_min (1 + B_crit / B) with B_crit = X_min / S_min (McCandlish et al. 2018, arXiv 1812.06162, eq. 2.11).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from isoflop.answer import Answer
from isoflop.arguments import MOST_DEVICES, POSITIVE, SHARE, check, whole
from isoflop.scaling.findings.finding import Finding
from isoflop.scaling.findings.settings import given_twice, unlike_runs
from isoflop.scaling.findings.units import count_findings
from isoflop.scaling.fitting.fit import FitError
from isoflop.scaling.fitting.line import FEWEST
from isoflop.scaling.laws.inputs import Column
from isoflop.scaling.prediction.batch.batch_of_runs import MAY_VARY, NoiseScale, noise_of_runs, steps_of_runs
from isoflop.scaling.prediction.batch.size_batch import FEWEST_BATCHES, Exponent, SizeBatch, exponents, size_batch
from isoflop.scaling.prediction.spending.deadline import schedule
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.formats.data_frame import as_frame
from isoflop.scaling.table.json_plain import plain
from isoflop.scaling.table.law_inputs import add_inputs
from isoflop.scaling.table.runs import is_runs

STEPS, TOKENS, SEQUENCES = "steps_to_target", "batch_tokens", "batch_sequences"
COLUMNS = tuple(Column(name) for name in (STEPS, TOKENS, SEQUENCES, "context_length", "target_loss"))
NO_BATCHES = (
    f"no size was trained with {FEWEST_BATCHES} batches to rows at a constant rate, and no run logged its noise scale "
    "(where.noise_scale=true)"
)
VAGUE = 100.0  # from end to end of its interval: a critical batch is not known
FAR = 4.0  # times the largest batch, or below the smallest: a critical batch there is a bound


class BatchError(ValueError):
    """A table says nothing of the critical batch."""

    exit_code = 1


@dataclass(frozen=True, repr=False, eq=False)
class CriticalBatches(Answer):
    """What `isoflop batch` answers.

    `per_sequence` is the number of tokens of a sequence, NaN where it is not known or not one; batches are counted in
    tokens unless `sequences`. `schedule` has a row per number of devices, `meets` the row of the fewest that meet
    the deadline (None where none does, or none was given).
    """

    sizes: tuple[SizeBatch, ...]
    exponent: Exponent
    overhead_exponent: Exponent
    per_sequence: float
    sequences: bool
    schedule: pd.DataFrame | None
    meets: int | None
    failed: dict[str, str]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    level: float
    noise: tuple[NoiseScale, ...] = ()  # of the runs of a run table that logged it

    def in_tokens(self, batch: float) -> float:
        """A batch in tokens; NaN where the length of a sequence is not known."""
        return batch * self.per_sequence if self.sequences else batch

    def in_sequences(self, batch: float) -> float:
        """A batch in sequences; NaN where the length of a sequence is not known."""
        return batch if self.sequences else batch / self.per_sequence

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values: lists are in the order of `sizes`, batches and intervals in tokens where they can be."""
        tokens = [self.in_tokens(s.critical) for s in self.sizes]
        unit = (lambda b: b) if self.sequences and np.isnan(self.per_sequence) else self.in_tokens
        exponent = {
            name: {"p": plain(e.p), "interval": plain(list(e.interval))}
            for name, e in (("hyperbola", self.exponent), ("overhead_20", self.overhead_exponent))
        }
        return {
            "sizes": [
                {
                    "n_params": s.n_params, "target_loss": plain(s.target_loss), "batches": s.batches,
                    "min_steps": s.min_steps, "min_tokens": plain(self.in_tokens(s.min_samples)),
                    "overhead_batch": plain(unit(s.overhead)), "rms_log_steps": s.rms,
                }
                for s in self.sizes
            ],
            "critical_batch": plain(tokens),
            "critical_batch_sequences": plain([self.in_sequences(s.critical) for s in self.sizes]),
            "intervals": [[plain(unit(end)) for end in s.interval] for s in self.sizes],
            "level": self.level,
            "rms_log_steps": plain(self.rms),
            "noise_scale": [one.to_dict() for one in self.noise],
            "exponent": exponent,
            "schedule": None if self.schedule is None else plain(self.schedule),
            "meets": self.meets,
            "failed": self.failed,
            "conventions": {
                "batch": "sequences" if self.sequences else "tokens",
                "exponent": f"in the fewest {'sequences' if self.sequences else 'tokens'}",
            },
            "findings": [f.to_dict() for f in self.findings],
            "notes": list(self.notes),
        }  # fmt: skip

    @property
    def rms(self) -> float:
        """Root mean square of the residuals of ln steps, over all rows."""
        if not self.sizes:
            return float("nan")
        return float(np.sqrt(np.mean(np.concatenate([s.fit.residuals for s in self.sizes]) ** 2)))

    def __str__(self) -> str:
        unit = "sequences" if self.sequences else "tokens"
        lines = [
            f"critical batch in {unit}: steps and samples are both twice their fewest; {self.level:.0%} intervals",
            f"{'n_params':>10} {'loss':>7} {'batches':>7} {'min steps':>10} {'critical batch':>14} {'interval':>23} "
            f"{'20% overhead':>12} {'rms':>6}",
        ]
        for s in self.sizes:
            loss = f"{s.target_loss:.4g}" if np.isfinite(s.target_loss) else "-"
            span = f"{s.interval[0]:.4g} to {s.interval[1]:.4g}"
            over = f"{s.overhead:.4g}" if np.isfinite(s.overhead) else "-"
            lines.append(
                f"{s.n_params:>10.4g} {loss:>7} {s.batches:>7} {s.min_steps:>10.4g} {s.critical:>14.5g} {span:>23} "
                f"{over:>12} {s.rms:>6.1%}"
            )
        if self.sizes:
            lines.append(f"rms of ln steps {self.rms:.4f}")
        for what, e in (("the hyperbola", self.exponent), ("20% overhead", self.overhead_exponent)):
            if np.isfinite(e.p):
                lines.append(
                    f"B ~ D^{e.p:.3f} [{e.interval[0]:.3f}, {e.interval[1]:.3f}] by {what}, D the fewest {unit}"
                )
        lines += self._noise_lines() + self._schedule_lines()
        lines += [f"{name}: {why}" for name, why in self.failed.items()]
        return "\n".join([*lines, *map(str, self.findings), *(f"note: {note}" for note in self.notes)])

    def _noise_lines(self) -> list[str]:
        if not self.noise:
            return []
        head = f"{'n_params':>10} {'loss':>7} {'horizon':>12} {'runs':>5} {'noise scale':>14} {'interval':>23}"
        return ["noise scale of the gradient before the ends of runs, in tokens", head, *map(str, self.noise)]

    def _schedule_lines(self) -> list[str]:
        if self.schedule is None:
            return []
        rows = [
            f"{r['devices']:>8} {r['batch']:>10.4g} {r['steps']:>9.4g} {r['tokens']:>10.4g} {r['hours']:>9.4g} "
            f"{r['device_hours']:>12.4g} {r['waste']:>7.1%}" + "  meets the deadline" * (r["devices"] == self.meets)
            for r in self.schedule.to_dict("records")
        ]
        head = (
            f"{'devices':>8} {'batch':>10} {'steps':>9} {'tokens':>10} {'hours':>9} {'device hours':>12} {'waste':>7}"
        )
        return ["", f"time against compute of {self.sizes[-1].n_params:.4g} parameters", head, *rows]


def critical_batch(
    table: pd.DataFrame,
    *,
    deadline: float | None = None,
    devices: int | None = None,
    tokens_per_second: float | None = None,
    device_batch: float | None = None,
    level: float = 0.9,
) -> CriticalBatches:
    """The critical batch of every size of a table of steps to a loss, a row per size and batch.

    The columns are n_params, steps_to_target, and batch_tokens or batch_sequences; with target_loss each loss is apart.
    Of a run table whose sizes met several batches, the steps are read from the curves; what its runs logged of the
    gradient's noise scale (`where.noise_scale`) stands beside.
    `deadline` (seconds) and `devices` add what reaching the loss takes on up to so many devices, each of which reads
    `tokens_per_second` and takes `device_batch` tokens a step (None: the smallest batch of the table).
    Raises TableError for an absent column or a wrong value, ValueError for half a schedule or a wrong number,
    BatchError where no size has enough batches.

    >>> import isoflop, pandas as pd
    >>> table = pd.DataFrame({"n_params": 1e8, "batch_tokens": [1e4, 1e5, 1e6, 1e7]})
    >>> table["steps_to_target"] = 2000 * (1 + 4e5 / table["batch_tokens"])
    >>> found = isoflop.batch(table)
    >>> f"{found.to_dict()['critical_batch'][0]:.0f}"
    '400000'
    """
    check(POSITIVE, deadline=deadline, tokens_per_second=tokens_per_second, device_batch=device_batch)
    check(whole(1, MOST_DEVICES), devices=devices)
    check(SHARE, level=level)
    table = as_frame(table)
    source, notes = str(table.attrs.get("source", "table")), list(table.attrs.get("notes", ()))
    noise: tuple[NoiseScale, ...] = ()
    if is_runs(table) and STEPS not in table:
        noise, table = noise_of_runs(table, level), steps_of_runs(table)
        notes += table.attrs["notes"]
    frame, sequences, length = _rows(table, notes, source)
    counts = frame.rename(columns={"batch": SEQUENCES if sequences else TOKENS, "loss": STEPS})
    found = (*count_findings(counts), *given_twice(frame), *unlike_runs(table, may_vary=MAY_VARY))
    sizes, failed = [], {}
    for (n, loss), group in frame.groupby(["n_params", "target_loss"], dropna=False):
        name = f"{n:.4g} parameters" + (f" to a loss of {loss:.4g}" if np.isfinite(loss) else "")
        try:
            sizes.append(size_batch(group, float(n), float(loss), level))
        except FitError as error:
            failed[name] = str(error)
    if not sizes and not noise:
        why = "; ".join(f"{k}: {why}" for k, why in failed.items())
        raise BatchError(f"{source}: no critical batch: {why or NO_BATCHES}")
    sizes.sort(key=lambda s: (s.n_params, s.min_samples))
    if not sizes and devices is not None:
        raise BatchError(f"{source}: no critical batch to plan devices by; {NO_BATCHES}")
    exponent, overhead_exponent = exponents(sizes, level)
    frame, meets = _schedule(sizes, deadline, devices, tokens_per_second, device_batch, length, sequences)
    return CriticalBatches(
        sizes=tuple(sizes),
        exponent=exponent,
        overhead_exponent=overhead_exponent,
        per_sequence=length,
        sequences=sequences,
        schedule=frame,
        meets=meets,
        failed=failed,
        findings=(*found, *_findings(sizes, exponent, overhead_exponent, failed)),
        notes=tuple(notes),
        level=level,
        noise=noise,
    )


def _rows(table: pd.DataFrame, notes: list[str], source: str) -> tuple[pd.DataFrame, bool, float]:
    """n_params, target_loss, batch and steps of every row; whether batches are in sequences; the tokens of one."""
    there = [column for column in COLUMNS if column.name in table or column.name == STEPS]
    frame, lacking = add_inputs(table, there, notes, source=source)
    if lacking:
        raise TableError("; ".join(lacking.values()))
    if "n_params" not in frame:
        raise TableError(f"{source}: no column 'n_params'; name yours with --map n_params=COLUMN")
    if not {TOKENS, SEQUENCES} & set(frame):
        names = [str(column) for column in frame.columns]
        raise TableError(
            f"{source}: no column 'batch_tokens' or 'batch_sequences'; name yours with --map {TOKENS}=COLUMN or --map "
            f"{SEQUENCES}=COLUMN (columns: {', '.join(names)})"
        )
    if {TOKENS, SEQUENCES} <= set(frame):
        lengths = frame[TOKENS] / frame[SEQUENCES]
    else:
        lengths = frame.get("context_length", pd.Series(np.nan, index=frame.index))
    length = float(lengths.iloc[0]) if lengths.nunique() == 1 else float("nan")
    sequences = TOKENS not in frame
    if sequences and np.isfinite(lengths).all():
        frame = frame.assign(**{TOKENS: frame[SEQUENCES] * lengths})
        notes.append("batch_tokens are missing: taken as batch_sequences x context_length")
        sequences = False
    batch = frame[SEQUENCES if sequences else TOKENS]
    loss = frame.get("target_loss", pd.Series(np.nan, index=frame.index))
    made = {"n_params": frame["n_params"].astype(float), "target_loss": loss, "batch": batch, "loss": frame[STEPS]}
    return pd.DataFrame(made).reset_index(drop=True), sequences, length


def _schedule(
    sizes: Sequence[SizeBatch],
    deadline: float | None,
    devices: int | None,
    speed: float | None,
    device_batch: float | None,
    length: float,
    sequences: bool,
) -> tuple[pd.DataFrame | None, int | None]:
    """The `schedule` of the largest size; None without a deadline and devices."""
    if deadline is None and devices is None and speed is None and device_batch is None:
        return None, None
    if devices is None or speed is None:
        raise ValueError("a schedule needs --devices and --tokens-per-second, what one device reads")
    if sequences and np.isnan(length):
        raise ValueError("a schedule needs batches in tokens: add the column batch_tokens or context_length")
    size = sizes[-1]
    least = float(size.fit.points.frame["batch"].min()) if device_batch is None else device_batch
    return schedule(size.steps, size.critical, least, devices=devices, speed=speed, deadline=deadline)


def _findings(
    sizes: Sequence[SizeBatch], exponent: Exponent, overhead_exponent: Exponent, failed: dict[str, str]
) -> Iterator[Finding]:
    for s in sizes:
        batches, (low, high) = s.fit.points.frame["batch"], s.interval
        if not batches.min() / FAR <= s.critical <= batches.max() * FAR:
            side = "below" if s.critical < batches.min() else "above"
            yield Finding(
                "unidentified", "warn",
                f"the critical batch of {s.n_params:.4g} parameters ({s.critical:.3g}) lies far {side} the batches "
                f"tried ({batches.min():.3g} to {batches.max():.3g}): it is a bound",
                f"add {'smaller' if side == 'below' else 'larger'} batches",
            )  # fmt: skip
        elif not high <= VAGUE * low:
            yield Finding(
                "unidentified", "warn",
                f"the critical batch of {s.n_params:.4g} parameters ({s.critical:.3g}) is not known to a factor "
                f"{VAGUE:g}: its interval is {low:.3g} to {high:.3g}",
                "do not quote it; add batches on both sides of it, or seeds",
            )  # fmt: skip
    unknown = {"the hyperbola": exponent, "20% overhead": overhead_exponent}
    names = [name for name, e in unknown.items() if e.unbounded]
    if names:
        span = max(unknown[name].span for name in names)
        yield Finding(
            "narrow_span", "warn",
            f"no exponent of B in D by {' or by '.join(names)}: the fewest tokens of these sizes span a factor "
            f"{span:.3g}, no more than their errors, which B shares",
            "add sizes whose fewest tokens lie ten times apart, or more batches of each",
        )  # fmt: skip
    counted = len({s.n_params for s in sizes})
    if counted < FEWEST <= len(sizes):
        yield Finding(
            "few_sizes", "warn",
            f"no exponent of B in D: the losses of a size are read off the same runs and err together, so that "
            f"{len(sizes)} critical batches of {counted} sizes count as {counted}",
            f"add sizes, to {FEWEST} or more",
        )  # fmt: skip
    if failed:
        yield Finding(
            "few_batches", "warn", "; ".join(f"{name}: {why}" for name, why in failed.items()),
            "add batches at that size",
        )  # fmt: skip
