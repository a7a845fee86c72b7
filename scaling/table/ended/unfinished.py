"""Which runs of a table finished: by a column of states, of yes and no, of exit codes, of progress, or of plans."""

import re
from collections.abc import Sequence

import pandas as pd

from isoflop.scaling.table.columns import TableError, columns_for, is_numbers, parse, values
from isoflop.scaling.table.curves import CALLS, RUN_NAMES, step_columns
from isoflop.scaling.table.meaning import words

_STATE = ("state", "run_state", "status", "run_status", "job_state", "job_status", "final_state")
_FINISHED = ("finished", "done", "completed", "complete", "success", "succeeded", "ok")
# Columns of yes and no: which of them a run that ended as planned has.
_YES_IF_FINISHED = ("finished", "is_finished", "has_finished", "completed", "is_completed", "complete", "is_complete",
                    "done", "is_done", "success", "succeeded", "successful")  # fmt: skip
_NO_IF_FINISHED = ("crashed", "is_crashed", "failed", "is_failed", "killed", "preempted", "diverged", "is_diverged",
                   "oom", "timed_out", "running", "is_running")  # fmt: skip
_CODES = ("exit_code", "return_code", "returncode", "exit_status")  # 0 of a run that ended as planned
_PROGRESS = ("run_progress", "progress", "percent_complete", "pct_complete", "fraction_complete", "completion")
_YES, _NO = ("true", "t", "yes", "y", "1", "1.0"), ("false", "f", "no", "n", "0", "0.0")
_TICKS, _CROSSES = ("\u2713", "\u2714", "\u2705", "\u2611"), ("\u2717", "\u2718", "\u274c", "\u2612", "\u00d7")
_UNFINISHED = (
    "not_finished", "not_done", "incomplete", "in_progress", "stalled", "training", "active", "started", "not_started",
    "submitted", "scheduled", "paused", "suspended", "requeued", "evicted", "terminated", "expired", "hung", "lost",
    "crashed", "failed", "failure", "killed", "running", "preempted", "preempting", "pending", "queued", "cancelled",
    "canceled", "timeout", "timed_out", "out_of_memory", "oom", "aborted", "interrupted", "error", "errored", "stopped",
    "node_fail", "unfinished", "diverged",
)  # fmt: skip
_PLANS = {
    "tokens": ("horizon_tokens", "planned_tokens", "target_tokens", "max_tokens", "tokens_planned", "tokens_target"),
    "step": ("max_steps", "max_iters", "planned_steps", "total_steps", "steps_total", "steps_planned", "target_steps"),
}  # fmt: skip
_STEPS = ("steps", "steps_done", "steps_completed", "completed_steps", "current_step", "last_step")
FEWEST_LETTERS = 4  # of a word that is cut short
SHORT = 0.9  # of its plan: a run that ended before is not at the end of its schedule


def unfinished(frame: pd.DataFrame) -> tuple[str, pd.Series] | None:
    """The column that says how runs ended, and the rows (bool) whose run did not finish; None without such a column.

    A column of that name counts only where it holds words that are known.
    """
    for name in frame:
        if not isinstance(name, str) or isinstance(frame[name], pd.DataFrame):
            continue
        if words(name) in _STATE and not is_numbers(frame[name]):
            texts = {value: words(value) if isinstance(value, str) else "" for value in frame[name].unique()}
            out = {value: _is_state(text, _UNFINISHED) for value, text in texts.items()}
            if any(out.values()) or any(_is_state(text, _FINISHED) for text in texts.values()):
                return name, frame[name].map(out).fillna(False).astype(bool)
        if (over := _stopped(frame[name], words(name))) is not None:
            return name, over
    return None


def _is_state(text: str, states: Sequence[str]) -> bool:
    """Whether a text says one of the states: as it is, with more words behind, or cut short with a plus (SLURM)."""
    first = re.split(r"[^a-z_]", text, maxsplit=1)[0].strip("_")
    cut = text.endswith("+") and len(first) > FEWEST_LETTERS
    return any(first == state or first.startswith(f"{state}_") or (cut and state.startswith(first)) for state in states)


def _stopped(column: pd.Series, name: str) -> pd.Series | None:
    """The rows (bool) whose run did not end as planned by a column of yes and no or of exit codes; None for another."""
    if name in _CODES and is_numbers(column):
        return column.fillna(0) != 0
    if name not in (*_YES_IF_FINISHED, *_NO_IF_FINISHED) or column.isna().all():
        return None
    yes, no, empty = _yes_and_no(column)
    if not (yes | no | empty).all():
        return None
    return no if name in _YES_IF_FINISHED else yes


def _yes_and_no(column: pd.Series) -> tuple[pd.Series, pd.Series, pd.Series]:
    """The rows (bool) of a column that say yes, those that say no, and empty ones that say neither.

    An x or a tick is a yes, and then an empty cell a no; beside ticks or crosses an x is a cross. What a cross says
    beside empty cells is not known.
    """
    texts = column.map(lambda value: str(value).strip().lower().rstrip("\ufe0f"), na_action="ignore")
    empty = column.isna() | (texts == "")
    signs = texts.isin((*_TICKS, *_CROSSES)).any()
    ticks = texts.isin(_TICKS) if signs else texts == "x"
    crosses = texts.isin((*_CROSSES, "x")) & bool(signs and not (empty.any() and not ticks.any()))
    yes, no = texts.isin(_YES) | ticks, texts.isin(_NO) | crosses
    left = empty & bool(ticks.any() and not no.any())
    return yes, no | left, empty & ~left


def short_of_plan(frame: pd.DataFrame, run: str | None = None, step: str | None = None) -> tuple[str, pd.Series] | None:
    """The column of the tokens or steps planned, and the rows (bool) whose run ended far below it; None without one.

    `run` is the column of runs: with several rows of one, its last counts. `step` is that of steps, where it is named.
    W&B's `_step` is one only where some run reaches its plan by it, else it counts calls of wandb.log.
    """
    for quantity, plans in _PLANS.items():
        plan = next((name for name in frame if isinstance(name, str) and words(name) in plans), None)
        if quantity == "tokens":
            reached = next(iter(columns_for(frame, "tokens")), None)
        else:
            named = [*step_columns(frame), *(c for c in frame if isinstance(c, str) and words(c) in _STEPS)]
            reached = step or next(iter(sorted(named, key=lambda name: name == CALLS)), None)
        if plan is None or reached is None or isinstance(frame[plan], pd.DataFrame):
            continue
        seen = values(frame, reached, "tokens") if quantity == "tokens" else parse(frame[reached])[0]
        if run is not None:
            seen = seen.groupby(frame[run]).transform("max")
        short = (seen < SHORT * parse(frame[plan])[0]).fillna(False)
        if reached != CALLS or step is not None or not short.all():
            return plan, short
    name = next((c for c in frame if isinstance(c, str) and words(c) in _PROGRESS and is_numbers(frame[c])), None)
    if name is None or frame[name].isna().all() or frame[name].min() < 0:
        return None
    whole = 1 if frame[name].max() <= 1 else 100
    if not whole / 2 <= frame[name].max() <= whole:  # counted in something else
        return None
    seen = frame[name] if run is None else frame[name].groupby(frame[run]).transform("max")
    return name, seen < SHORT * whole


def reasons(frame: pd.DataFrame, run: str | None, step: str | None) -> pd.Series:
    """Why the run of each row did not finish (text), by its state or its plan; empty where it did.

    Without a column of runs rows along steps are the history of one, which tells its end itself.
    """
    why = pd.Series("", index=frame.index, dtype=object)
    if (found := unfinished(frame)) is not None:
        column, over = found
        if {"Name", "State"} <= set(frame):  # the list of runs that W&B exports, which writes this word alone
            over = ~frame["State"].eq("finished")
        states = frame.loc[over, column].astype(str)
        what = column if is_numbers(frame[column]) or set(states.str.lower()) <= {"true", "false"} else "state"
        why[over] = f"its {what} is " + states
    rest = frame[why == ""]
    if (run is None and step_columns(frame)) or (short := short_of_plan(rest, run, step)) is None:
        return why
    why[rest.index[short[1]]] = (
        f"it ended below {SHORT:.0%} of its plan (column {short[0]}); `isoflop import --keep-unfinished` keeps it"
    )
    return why


def leave_out_unfinished(frame: pd.DataFrame, notes: list[str], *, source: str) -> pd.DataFrame:
    """The rows without those of runs that did not finish; notes count them. Raises TableError where none is left."""
    frame = _without_short(frame, notes, source=source)
    found = unfinished(frame)
    _say_unread(frame, notes)
    if found is None:
        return frame
    column, out = found
    _say_unknown(frame[column][~out], notes)
    if not out.any():
        return frame
    counts = frame.loc[out, column].astype(str).str.lower().value_counts()
    listed = ", ".join(f"{count} {state}" for state, count in counts.items())
    if out.all():
        raise TableError(f"{source}: no run finished (column {column}: {listed})")
    notes.append(
        f"{out.sum()} of {len(frame)} rows are left out, their runs did not finish (column {column}: {listed})"
    )
    return frame[~out].copy()


def _say_unknown(states: pd.Series, notes: list[str]) -> None:
    """Note words of a column of states that say neither of both: their runs count as finished."""
    if is_numbers(states) or words(str(states.name)) not in _STATE:
        return
    counts = states.dropna().astype(str).value_counts()
    unknown = {text: n for text, n in counts.items() if not _is_state(words(text), _FINISHED)}
    if unknown:
        listed = ", ".join(f"{n} {text}" for text, n in list(unknown.items())[:4])
        notes.append(f"column {states.name} also says {listed}: taken as finished")


def _say_unread(frame: pd.DataFrame, notes: list[str]) -> None:
    """Note texts of a column of yes and no that are neither: all its runs count as finished."""
    for name in (c for c in frame if isinstance(c, str) and words(c) in (*_YES_IF_FINISHED, *_NO_IF_FINISHED)):
        column = frame[name]
        if isinstance(column, pd.DataFrame) or is_numbers(column) or _stopped(column, words(name)) is not None:
            continue
        yes, no, empty = _yes_and_no(column)
        if not empty.all():
            shown = ", ".join(column[~(yes | no | empty)].astype(str).unique()[:4])
            notes.append(f"column {name} says {shown}, neither yes nor no: its runs are taken as finished")


def _without_short(frame: pd.DataFrame, notes: list[str], *, source: str) -> pd.DataFrame:
    run = next((name for name in frame if isinstance(name, str) and words(name) in RUN_NAMES), None)
    found = short_of_plan(frame, run)
    if found is None or not found[1].any():
        return frame
    plan, out = found
    if out.all():
        raise TableError(f"{source}: every run ended below {SHORT:.0%} of its plan (column {plan})")
    why = f"their runs ended below {SHORT:.0%} of their plan (column {plan})"
    notes.append(f"{out.sum()} of {len(frame)} rows are left out, {why}")
    return frame[~out].copy()
