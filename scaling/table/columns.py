"""What the columns of a table mean: aliases of each quantity, units in names, and numbers as people write them.

Every command that reads a table and every importer resolves columns here. A column under another name, or in another
unit, is taken only where its name has one meaning, and a note says which one was taken.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

QUANTITIES = ("n_params", "tokens", "flops", "loss")
OPTIONAL = ("run_id", "trunk_id", "seed", "arm", "unique_tokens", "vocab_size", "weight")
_NUMERIC = (*QUANTITIES, "unique_tokens", "vocab_size", "weight")
NATS_PER_TOKEN = "nats/token"

# Names of each quantity as `_words` writes them, without a unit; those of a loss are in _LOSSES.
ALIASES: dict[str, tuple[str, ...]] = {
    "n_params": (
        "n_params", "n", "params", "parameters", "num_params", "nparams", "model_size", "n_parameters",
        "num_parameters", "parameter_count", "param_count", "n_param", "total_params", "total_parameters",
        "model_params", "model_parameters",
    ),
    "tokens": (
        "tokens", "d", "n_tokens", "num_tokens", "train_tokens", "training_tokens", "tokens_seen", "total_tokens",
        "token_count", "n_train_tokens", "num_train_tokens", "tokens_processed", "num_input_tokens_seen",
        "throughput_total_tokens", "train_total_tokens",
    ),
    "flops": (
        "flops", "c", "compute", "training_flops", "train_flops", "flop", "total_flops", "total_training_flops",
        "training_compute", "train_compute", "total_compute", "budget", "flops_total", "total_flos",
        "throughput_total_training_flops", "throughput_total_flops",
    ),
    "loss": (
        "loss", "l", "val_loss", "loss_val", "eval_loss", "test_loss", "final_loss", "validation_loss", "nll",
    ),
}  # fmt: skip
_VAGUE = {"n_params": ("size",), "tokens": ("data",)}  # proposed in messages, never taken
_HELD_OUT = {"val", "valid", "validation", "eval", "test", "heldout", "final"}
# Measures of a loss: the unit that it becomes, and how. "times" by ln 2, "ln" of a perplexity.
_LOSSES: dict[str, tuple[str, Literal["", "bits", "perplexity"]]] = {
    **dict.fromkeys(("loss", "nll", "ce_loss", "cross_entropy", "crossentropyloss", "nats", "nats_per_token"),
                    (NATS_PER_TOKEN, "")),
    **dict.fromkeys(("nats_per_byte",), ("nats/byte", "")),
    **dict.fromkeys(("nats_per_character", "nats_per_char"), ("nats/character", "")),
    **dict.fromkeys(("bits", "bits_per_token"), (NATS_PER_TOKEN, "bits")),
    **dict.fromkeys(("bpb", "bits_per_byte"), ("nats/byte", "bits")),
    **dict.fromkeys(("bpc", "bits_per_char", "bits_per_character"), ("nats/character", "bits")),
    **dict.fromkeys(("ppl", "perplexity", "token_perplexity"), (NATS_PER_TOKEN, "perplexity")),
    **dict.fromkeys(("byte_perplexity",), ("nats/byte", "perplexity")),
    **dict.fromkeys(("word_perplexity",), ("nats/word", "perplexity")),
}  # fmt: skip
_SCALES = {
    **dict.fromkeys(("k", "thousand", "thousands", "1e3", "10^3"), 1e3),
    **dict.fromkeys(("m", "mn", "million", "millions", "1e6", "10^6"), 1e6),
    **dict.fromkeys(("b", "bn", "g", "billion", "billions", "1e9", "10^9"), 1e9),
    **dict.fromkeys(("t", "trillion", "trillions", "1e12", "10^12"), 1e12),
}
_FLOP_SCALES = {
    **dict.fromkeys(("m", "mega"), 1e6), **dict.fromkeys(("g", "giga"), 1e9), **dict.fromkeys(("t", "tera"), 1e12),
    **dict.fromkeys(("p", "peta"), 1e15), **dict.fromkeys(("e", "exa"), 1e18), **dict.fromkeys(("z", "zetta"), 1e21),
}  # fmt: skip
_NUMBER = re.compile(
    r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([kmbgt]|thousand|million|billion|trillion|bn)?", re.I
)
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?|[+-]?\d+(?:_\d+)+(?:\.\d+)?")
_STATE = ("state", "run_state", "status", "run_status", "job_state", "job_status", "final_state")
_FINISHED = ("finished", "done", "completed", "complete", "success", "succeeded")
_UNFINISHED = (
    "crashed", "failed", "failure", "killed", "running", "preempted", "preempting", "pending", "queued", "cancelled",
    "canceled", "timeout", "timed_out", "out_of_memory", "oom", "aborted", "interrupted", "error", "errored", "stopped",
    "node_fail", "unfinished", "diverged",
)  # fmt: skip
MISSING = frozenset(("", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none", "-", "--"))


class TableError(ValueError):
    """A table cannot be used as it is; the message says which column or rows, and the remedy."""


@dataclass(frozen=True)
class Meaning:
    """What a column's name says: its quantity, and how its values become parameters, tokens, FLOPs or nats.

    `scale` multiplies them; `transform` is applied first. `loss_unit` is the unit of a loss afterwards, `note` the
    conversion in words, empty where there is none.
    """

    quantity: str
    scale: float = 1.0
    transform: Literal["", "log10", "ln", "bits", "perplexity"] = ""
    loss_unit: str = ""

    @property
    def note(self) -> str:
        """The conversion in words; empty for none."""
        if self.transform == "perplexity":
            return f"ln of a perplexity: {self.loss_unit}"
        if self.transform == "bits":
            return f"bits times ln 2: {self.loss_unit}"
        if self.transform:
            return f"from its {self.transform}"
        if self.scale != 1:
            return f"times {self.scale:g}"
        return self.loss_unit if self.loss_unit not in ("", NATS_PER_TOKEN) else ""

    def convert(self, values: pd.Series) -> pd.Series:
        """The values (n,) in single parameters, tokens or FLOPs, or in nats."""
        if self.transform == "perplexity":  # what has no logarithm stays as it is, and is refused as a loss
            return np.log(values.where(values > 0)).where(values > 0, values)
        if self.transform == "bits":
            return values * np.log(2)
        if self.transform:
            return (10.0 if self.transform == "log10" else np.e) ** values
        return values if self.scale == 1 else values * self.scale


def _words(name: str) -> str:
    """A column's name in lower case, its words joined by underscores."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\s\-./_]+", "_", spaced.lower()).strip("_")


def meaning(name: str) -> Meaning | None:
    """What a name says, None where it is no known name of a quantity.

    >>> meaning("Params (M)")
    Meaning(quantity='n_params', scale=1000000.0, transform='', loss_unit='')
    """
    if match := re.fullmatch(r"\s*(.+?)\s*[(\[]\s*(.+?)\s*[)\]]\s*", name):
        head, inner = _words(match[1]), match[2]
        if head in ("log10", "ln"):
            return _logarithm(head, _words(inner))
        return _in_unit(head, inner)
    words = _words(name)
    if match := re.fullmatch(r"(log10|ln)_(.+)", words):
        return _logarithm(match[1], match[2])
    if match := re.fullmatch(r"(.+)_(log10|ln)", words):
        return _logarithm(match[2], match[1])
    if (found := _plain(words)) is not None:
        return found
    if (match := re.fullmatch(r"(.*?)_(?:in_)?([a-z]+)", words)) and len(match[1]) > 1 and match[2] in _SCALES:
        return _scaled(match[1], _SCALES[match[2]])
    if match := re.fullmatch(r"((?:.*_)?)([kmbgt])_?(params|parameters|tokens)", words):
        return _scaled(match[1] + match[3], _SCALES[match[2]])
    if match := re.fullmatch(r"((?:.*_)?)(mega|giga|tera|peta|exa|zetta|[mgtpez])_?(flops?)", words):
        return _scaled(match[1] + "flops", _FLOP_SCALES[match[2]])
    return None


def _plain(words: str) -> Meaning | None:
    for quantity, names in ALIASES.items():
        if quantity != "loss" and words in names:
            return Meaning(quantity)
    if words == "l":
        return Meaning("loss", loss_unit=NATS_PER_TOKEN)
    measure = "_".join(word for word in words.replace("held_out", "heldout").split("_") if word not in _HELD_OUT)
    if measure not in _LOSSES:
        return None
    unit, transform = _LOSSES[measure]
    return Meaning("loss", transform=transform, loss_unit=unit)


def _scaled(words: str, scale: float) -> Meaning | None:
    found = _plain(words)
    return None if found is None or found.quantity == "loss" else Meaning(found.quantity, scale)


def _logarithm(base: str, words: str) -> Meaning | None:
    found = _plain(words)
    if found is None or found.quantity == "loss":
        return None
    return Meaning(found.quantity, transform="log10" if base == "log10" else "ln")


def _in_unit(head: str, unit: str) -> Meaning | None:
    """A name with its unit in brackets."""
    found = _plain(head)
    text = unit.strip().lower().replace("\u00d7", "x").removeprefix("x").strip()
    if found is None:
        return None
    if text in ("log10", "ln"):
        return _logarithm(text, head)
    if found.quantity == "loss":
        words = _words(text).replace("bits_token", "bits_per_token").replace("nats_token", "nats_per_token")
        words = re.sub(r"^(bits|nats)_(byte|char|character)$", r"\1_per_\2", words)
        return _plain(words) if found.transform == "" and words in _LOSSES else None
    first = _words(text).split("_")[0] if " " in text else text
    if first in _SCALES and (text == first or re.fullmatch(r"\S+ (params|parameters|tokens|flops?)", text)):
        return _scaled(head, _SCALES[first])
    if found.quantity == "flops":
        if re.fullmatch(r"(pf|pflops?|petaflops?)[/\s-]*s?[\s-]*days?", text):
            return _scaled(head, 8.64e19)
        if match := re.fullmatch(r"(mega|giga|tera|peta|exa|zetta|[mgtpez])[\s-]?flops?", text):
            return _scaled(head, _FLOP_SCALES[match[1]])
    return found if _words(text) in ("count", "tokens", "params", "parameters", "flops", "flop") else None


def find(frame: pd.DataFrame, quantity: str, notes: list[str] | None = None, *, source: str = "table") -> str | None:
    """The column of a quantity: of that name, else the one that has an alias of it; None without one.

    Raises TableError naming the candidates where several that differ are there. Of losses, one in nats per token goes
    before the same loss as a perplexity or in bits.
    """
    found = [str(name) for name in frame if isinstance(name, str) and _holds(frame, name, quantity)]
    if quantity in frame:
        others = [name for name in found if name != quantity and quantity == "loss" and _nats(name)]
        if others and notes is not None:
            notes.append(f"loss: column loss; the table also has {', '.join(others)} (choose with --map loss=COLUMN)")
        return quantity
    if quantity == "loss" and any(map(_nats, found)):
        found = [name for name in found if _nats(name)]
    if len(found) > 1:
        first = values(frame, found[0], quantity)
        found = [found[0], *(name for name in found[1:] if not np.allclose(
            values(frame, name, quantity), first, rtol=1e-6, equal_nan=True))]  # fmt: skip
    if len(found) > 1:
        raise TableError(
            f"{source}: {len(found)} columns may be {quantity} ({', '.join(found)}); "
            f"name one with --map {quantity}=COLUMN"
        )
    return found[0] if found else None


def _nats(name: str) -> bool:
    said = meaning(name)
    return said is not None and said.transform == "" and said.loss_unit == NATS_PER_TOKEN


def _holds(frame: pd.DataFrame, name: str, quantity: str) -> bool:
    """Whether a column's name is one of the quantity's and most of its values are numbers."""
    said = meaning(name)
    if said is None or said.quantity != quantity or isinstance(frame[name], pd.DataFrame):
        return False
    parsed, wrong = parse(frame[name])
    return len(frame) == 1 or bool(parsed.notna().sum() > wrong.sum())


def values(frame: pd.DataFrame, column: str, quantity: str) -> pd.Series:
    """A column as numbers in the unit of its quantity, NaN where it holds none."""
    parsed, _ = parse(frame[column])
    said = meaning(column)
    return parsed if said is None or said.quantity != quantity else said.convert(parsed)


def resolve(
    frame: pd.DataFrame, mapping: Mapping[str, str], notes: list[str], *, source: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table with a column of numbers for every quantity that it has; the columns of the file stay.

    `mapping` names columns (ours -> the file's) and goes before any alias. The second table (bool, as long) marks the
    values that are no numbers: NaN in the first. `attrs["loss_unit"]` is the unit of the loss. Raises TableError where
    several columns may be one quantity.
    """
    attrs = dict(frame.attrs)
    unit = attrs.get("loss_unit") or _stated_unit(frame, mapping)
    made: dict[str, pd.Series] = {name: frame[column] for name, column in mapping.items() if name not in _NUMERIC}
    wrong = pd.DataFrame(index=frame.index)
    for name in _NUMERIC:
        column = mapping.get(name) or (find(frame, name, notes, source=source) if name in QUANTITIES else name)
        if column is None or column not in frame:
            continue
        said = meaning(column)
        said = said if said and said.quantity == name else Meaning(name)
        parsed, bad = parse(frame[column])
        if column != name or not is_numbers(frame[column]):
            made[name], wrong[name] = said.convert(parsed), bad
        if name == "loss":
            unit = unit or said.loss_unit
        if name not in mapping and column != name:
            notes.append(f"{name}: column {column}{f' ({said.note})' if said.note else ''}")
        elif name in mapping:
            notes.append(f"{name} is the column {column}{f' ({said.note})' if said.note else ''}")
    notes.extend(f"{name} is the column {column}" for name, column in mapping.items() if name not in _NUMERIC)
    frame = frame.assign(**made)
    frame.attrs = attrs | {"loss_unit": unit or NATS_PER_TOKEN}
    return frame, wrong


def _stated_unit(frame: pd.DataFrame, mapping: Mapping[str, str]) -> str:
    """The one unit in a column loss_unit, as `isoflop import` writes it; empty without one."""
    if "loss" in mapping or "loss" not in frame or "loss_unit" not in frame:
        return ""
    stated = frame["loss_unit"].dropna().unique()
    return str(stated[0]) if len(stated) == 1 else ""


def number(text: str) -> float | None:
    """The number that a text says, None for none: 1M, 1.3B, 400K, 2 T, 1,238,144, 1_000_000, 1e9.

    >>> number(" 1.3B "), number("1,238,144"), number("many")
    (1300000000.0, 1238144.0, None)
    """
    text = text.strip()
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "").replace("_", "")
    if match := _NUMBER.fullmatch(text):
        scale = _SCALES[match[2].lower()] if match[2] else 1.0
        return float(match[1]) if scale == 1 else round(float(match[1]) * scale, 6)
    return float(text) if text.lower().lstrip("+-") in ("inf", "infinity") else None


def parse(column: pd.Series) -> tuple[pd.Series, pd.Series]:
    """A column as numbers, NaN where a value is missing or none, and where a value is there that is no number (bool).

    A column of numbers is returned as it is.
    """
    if is_numbers(column):
        return column, pd.Series(False, index=column.index)
    known: dict[str, float | None] = {}
    read: list[float | None] = []
    for value in column:
        if isinstance(value, str):
            if value not in known:
                known[value] = np.nan if value.strip().lower() in MISSING else number(value)
            read.append(known[value])
        elif isinstance(value, int | float | np.number) and not isinstance(value, bool):
            read.append(float(value))
        else:
            read.append(np.nan if value is None or value is pd.NA or value is pd.NaT else None)
    wrong = pd.Series([value is None for value in read], index=column.index)
    return pd.Series([np.nan if value is None else value for value in read], index=column.index, dtype=float), wrong


def is_numbers(column: pd.Series) -> bool:
    """Whether a column holds numbers alone."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def unfinished(frame: pd.DataFrame) -> tuple[str, pd.Series] | None:
    """The column that says how runs ended, and the rows (bool) whose run did not finish; None without such a column.

    A column of that name counts only where it holds words that are known.
    """
    for name in frame:
        if isinstance(name, str) and _words(name) in _STATE and not is_numbers(frame[name]):
            words = frame[name].map(lambda value: _words(value) if isinstance(value, str) else "")
            if words.isin((*_FINISHED, *_UNFINISHED)).any():
                return name, words.isin(_UNFINISHED)
    return None


def leave_out_unfinished(frame: pd.DataFrame, notes: list[str], *, source: str) -> pd.DataFrame:
    """The rows without those of runs that did not finish; a note counts them. Raises TableError where none is left."""
    found = unfinished(frame)
    if found is None or not found[1].any():
        return frame
    column, out = found
    counts = frame.loc[out, column].astype(str).str.lower().value_counts()
    listed = ", ".join(f"{count} {state}" for state, count in counts.items())
    if out.all():
        raise TableError(f"{source}: no run finished (column {column}: {listed})")
    notes.append(
        f"{out.sum()} of {len(frame)} rows are left out, their runs did not finish (column {column}: {listed})"
    )
    return frame[~out].copy()


def near_match(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name`: a known alias first, else the closest spelling, else one that contains it."""
    candidates = list(candidates)
    lowered = {c.lower(): c for c in candidates}
    for alias in (name, *ALIASES.get(name, ()), *_VAGUE.get(name, ())):
        if alias in lowered:
            return lowered[alias]
    containing = [c for c in candidates if name in c.lower()]
    close = difflib.get_close_matches(name, lowered, n=1, cutoff=0.6)
    return lowered[close[0]] if close else (containing[0] if containing else None)


def hint(name: str, candidates: Iterable[str]) -> str:
    """The end of a message on an unknown name: "; did you mean ...?", empty where no candidate is like it."""
    near = near_match(name, candidates)
    return f"; did you mean {near!r}?" if near else ""
