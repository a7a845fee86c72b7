"""What the name of a column says: its quantity, its unit and how its values are converted; and written numbers.

A name has a meaning only where it has one alone: other names are proposed in messages and taken by `--map`.
"""

import numbers
import re
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

import numpy as np
import pandas as pd

# What is applied to the values of a column; nothing to the natural logarithm of a perplexity, which is in nats.
Transform = Literal["", "log10", "log2", "ln", "bits", "perplexity", "log perplexity"]
QUANTITIES = ("n_params", "tokens", "flops", "loss")
NATS_PER_TOKEN = "nats/token"
MISSING = frozenset(("", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none", "-", "--"))

# Names of each quantity as `words` writes them, without a unit; those of a loss are in _LOSSES.
ALIASES: dict[str, tuple[str, ...]] = {
    "n_params": (
        "n_params", "n", "params", "parameters", "num_params", "nparams", "model_size", "n_parameters",
        "num_parameters", "parameter_count", "param_count", "params_count", "n_param", "total_params",
        "total_parameters", "model_params", "model_parameters", "trainable_params", "trainable_parameters",
    ),
    "tokens": (
        "tokens", "d", "n_tokens", "num_tokens", "train_tokens", "training_tokens", "tokens_seen", "total_tokens",
        "token_count", "n_train_tokens", "num_train_tokens", "n_training_tokens", "num_training_tokens",
        "tokens_processed", "num_input_tokens_seen", "throughput_total_tokens", "train_total_tokens", "dataset_tokens",
        "tokens_trained", "trained_tokens", "train_num_input_tokens_seen",
        "n_tok", "n_toks", "tok", "toks", "ntok", "ntokens",
    ),
    "flops": (
        "flops", "c", "compute", "training_flops", "train_flops", "flop", "total_flops", "total_training_flops",
        "training_compute", "train_compute", "total_compute", "budget", "flops_total", "total_flos", "n_flops",
        "num_flops", "flop_count", "flops_budget", "compute_budget",
        "throughput_total_training_flops", "throughput_total_flops", "compute_flops",
    ),
    "loss": (
        "loss", "l", "val_loss", "loss_val", "eval_loss", "test_loss", "final_loss", "validation_loss", "nll",
    ),
}  # fmt: skip
LONGEST = 200  # characters of a name that may mean a quantity; patterns are slow on much longer ones
VAGUE: dict[str, tuple[str, ...]] = {  # proposed in messages, never taken
    "n_params": ("size",),
    "tokens": ("data",),
    "peak_learning_rate": ("learning_rate", "lr", "max_lr", "peak_lr", "eta"),
    "batch_tokens": ("tokens_per_step", "batch_size_tokens", "batch_size", "global_batch_size"),
    "weight_decay": ("wd", "lambda"),
    "experts": ("num_experts", "n_experts", "e"),
}
_FAMILY = {"n_params": "params?|parameters?", "tokens": "tokens?", "flops": "flops?|compute"}
HELD_OUT = {"val", "valid", "validation", "eval", "test", "heldout", "final"}
_NATS: tuple[str, Transform] = (NATS_PER_TOKEN, "")
# Measures of a loss: the unit that it becomes, and how. "bits" times ln 2, "perplexity" by its logarithm.
_MEASURES: dict[str, tuple[str, Transform]] = {
    **dict.fromkeys(("nats", "nats_per_token"), _NATS),
    "nats_per_byte": ("nats/byte", ""),
    **dict.fromkeys(("nats_per_character", "nats_per_char"), ("nats/character", "")),
    "nats_per_word": ("nats/word", ""),
    **dict.fromkeys(("bits", "bits_per_token"), (NATS_PER_TOKEN, "bits")),
    **dict.fromkeys(("bpb", "bits_per_byte"), ("nats/byte", "bits")),
    **dict.fromkeys(("bpc", "bits_per_char", "bits_per_character"), ("nats/character", "bits")),
    "bits_per_word": ("nats/word", "bits"),
    **dict.fromkeys(("ppl", "perplexity", "token_perplexity"), (NATS_PER_TOKEN, "perplexity")),
    **dict.fromkeys(("byte_perplexity", "byte_ppl"), ("nats/byte", "perplexity")),
    **dict.fromkeys(("word_perplexity", "word_ppl"), ("nats/word", "perplexity")),
}
_UNITS_ALONE = ("nats", "bits")  # a column of that name may hold the precision of weights
_LOSSES = {
    **dict.fromkeys(("loss", "nll", "ce_loss", "cross_entropy", "cross_entropy_loss", "crossentropyloss"), _NATS),
    **{name: unit for name, unit in _MEASURES.items() if name not in _UNITS_ALONE},
}
_SCALES = {
    **dict.fromkeys(("k", "thousand", "thousands", "1e3", "10^3"), 1e3),
    **dict.fromkeys(("m", "mn", "million", "millions", "1e6", "10^6"), 1e6),
    **dict.fromkeys(("b", "bn", "g", "billion", "billions", "1e9", "10^9"), 1e9),
    **dict.fromkeys(("t", "tn", "trillion", "trillions", "1e12", "10^12"), 1e12),
}
_FLOP_SCALES = {
    **dict.fromkeys(("m", "mega"), 1e6), **dict.fromkeys(("g", "giga"), 1e9), **dict.fromkeys(("t", "tera"), 1e12),
    **dict.fromkeys(("p", "peta"), 1e15), **dict.fromkeys(("e", "exa"), 1e18), **dict.fromkeys(("z", "zetta"), 1e21),
    **dict.fromkeys(("y", "yotta"), 1e24),
}  # fmt: skip
_ANY_MEASURE = "|".join(sorted(_MEASURES, key=len, reverse=True))
_LOG_WORD = re.compile(rf"(?<![a-z])(log10|log2|log|ln)(?=_|$|(?:{_ANY_MEASURE})(?![a-z]))")
_FLOP = r"(mega|giga|tera|peta|exa|zetta|yotta|[mgtpezy])"
_LOG: dict[str, float] = {"log10": 10.0, "log2": 2.0, "ln": float(np.e)}
_PF_DAYS = 8.64e19
SPEEDS = ("mflops", "gflops", "tflops", "pflops", "teraflops", "petaflops")  # alone: of a device a second, mostly
_RAISED = str.maketrans("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b\u207a", "0123456789-+")
_NUMBER = re.compile(
    r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*"
    r"(?:(k|m|b|g|t|bn|mn|tn|thousand|million|billion|trillion)?\s*(?:params|parameters|tokens|flops?)?"
    rf"|{_FLOP}\s*flops?)",
    re.I,
)
_POWER = re.compile(r"(?:([+-]?(?:\d+\.?\d*|\.\d+))\s*[x*\u00d7\u00b7]\s*)?10(?:\^|\*\*)\s*([+-]?\d+)", re.I)
_PETAFLOP_DAYS = re.compile(r"(\d+\.?\d*(?:e[+-]?\d+)?)\s*(?:pf|pflops?|petaflops?)[/\s-]*s?[\s-]*days?", re.I)
_BLANKS = " \u00a0\u2009\u202f"
_GROUPED = re.compile(
    rf"[+-]?(?:\d{{1,3}}(?:(?:,\d{{3}})+|(?:['\u2019]\d{{3}})+|(?:[{_BLANKS}]\d{{3}})+)(?:\.\d+)?"
    r"|\d{1,3}(?:\.\d{3}){2,}|\d+(?:_\d+)+(?:\.\d+)?)"
)


@dataclass(frozen=True)
class Meaning:
    """What a column's name says: its quantity, and how its values become parameters, tokens, FLOPs or nats.

    `transform` is applied, then `scale` multiplies. `loss_unit` is the unit of a loss afterwards.
    """

    quantity: str
    scale: float = 1.0
    transform: Transform = ""
    loss_unit: str = ""

    @property
    def note(self) -> str:
        """The conversion in words; empty for none."""
        if self.transform == "perplexity":
            return f"ln of a perplexity: {self.loss_unit}"
        if self.transform == "bits":
            return f"bits times ln 2: {self.loss_unit}"
        if self.transform == "log perplexity":
            return f"a logarithm of a perplexity, taken as the natural one: {self.loss_unit}"
        if self.transform:
            return f"from its {self.transform}"
        if self.scale != 1:
            return f"times {self.scale:g}{f': {self.loss_unit}' if self.loss_unit else ''}"
        return self.loss_unit if self.loss_unit not in ("", NATS_PER_TOKEN) else ""

    def convert(self, values: pd.Series) -> pd.Series:
        """The values (n,) in single parameters, tokens or FLOPs, or in nats."""
        if self.transform == "perplexity":  # what has no logarithm stays as it is, and is refused as a loss
            return np.log(values.where(values > 0)).where(values > 0, values)
        if self.transform == "bits":
            return values * np.log(2)
        if self.transform in _LOG:
            with np.errstate(over="ignore"):
                return _LOG[self.transform] ** values.astype(float)
        return values if self.scale == 1 else values * self.scale


def words(name: str) -> str:
    """A column's name in lower case, its words joined by underscores; "number of x" and "# x" are n_x."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip())
    joined = re.sub(r"[\s\-./,:_]+", "_", spaced.lower()).strip("_")
    return re.sub(r"^(#_?|number_|num_|no_)(of_)(?=.)|^#_?(?=.)", "n_", joined)


def meaning(name: str) -> Meaning | None:
    """What a name says, None where it is no known name of a quantity.

    >>> meaning("Params (M)")
    Meaning(quantity='n_params', scale=1000000.0, transform='', loss_unit='')
    """
    if len(name) > LONGEST:
        return None
    if match := re.fullmatch(r"\s*(.+?)\s*[(\[]\s*(.+?)\s*[)\]]\s*", name):
        head, inner = words(match[1]), match[2]
        return _logarithm(head, words(inner)) if head in _LOG else in_unit(_plain(head), inner)
    text = words(name)
    if match := re.fullmatch(r"(log10|log2|ln)_(.+)", text):
        return _logarithm(match[1], match[2])
    if match := re.fullmatch(r"(.+)_(log10|log2|ln)", text):
        return _logarithm(match[2], match[1])
    if (found := _plain(text)) is not None:
        return found
    head, scale = suffix(text)
    if scale and len(head) > 1:
        return _times(_plain(head), scale)
    if match := re.fullmatch(r"((?:.*_)?)([kmbgt])_?(params|parameters|tokens)", text):
        return _times(_plain(match[1] + match[3]), _SCALES[match[2]])
    if match := re.fullmatch(r"(?:(.+)_)?(pf|pflops?|petaflops?)_?s?_?days?", text):
        return _times(_plain(match[1] or "flops"), _PF_DAYS)
    if match := re.fullmatch(rf"((?:.*_)?){_FLOP}_?(flops?)", text):
        return _times(_plain(match[1] + "flops"), _FLOP_SCALES[match[2]])
    return None


def meaning_as(name: str, quantity: str) -> Meaning:
    """What the name of a column says that holds `quantity`, as the user or the file's format states.

    The unit alone is read from a name that has no meaning of its own: wikitext_ppl, active_params_b, "size (M)".
    """
    meant = meaning(name)
    if meant is not None and meant.quantity == quantity:
        return meant
    if quantity == "loss":
        return _loss_in(name)
    whole = Meaning(quantity)
    if quantity not in QUANTITIES:
        return whole
    if match := re.fullmatch(r"\s*(.+?)\s*[(\[]\s*(.+?)\s*[)\]]\s*", name):
        return (in_unit(whole, match[2]) if words(match[1]) not in _LOG else None) or whole
    plain = words(name)
    if match := re.search(r"(?<![a-z])(log10|log2|ln)(?![a-z])", plain):
        return Meaning(quantity, transform=match[1])  # type: ignore[arg-type]  # of the words just matched
    head, scale = suffix(plain)
    if scale and re.search(_FAMILY.get(quantity, "$^"), head):
        return Meaning(quantity, scale)
    if match := re.search(rf"(?<![a-z])([kmbgt])_?({_FAMILY['n_params']}|tokens)(?![a-z])", plain):
        return Meaning(quantity, _SCALES[match[1]])
    if quantity == "flops" and (match := re.search(rf"(?<![a-z]){_FLOP}_?flops?(?![a-z])", plain)):
        return Meaning(quantity, _FLOP_SCALES[match[1]])
    return whole


def _loss_in(name: str) -> Meaning:
    """The loss of a column by the last measure that its name tells anywhere; nats per token where it tells none."""
    text = _measure_words(name)
    found = re.findall(rf"(?<![a-z])(?:(?:log10|log2|log|ln)_?)?({_ANY_MEASURE})(?![a-z])", text)
    per = re.search(r"(?:_per)?_(byte|char|character|word)$", words(name))
    unit, transform = _MEASURES[found[-1] if found else f"nats_per_{per[1]}" if per else "nats"]
    meant = Meaning("loss", transform=transform, loss_unit=unit)
    log = _LOG_WORD.search(text)
    return (_log_perplexity(meant, log[1]) if log else None) or meant


def _measure_words(name: str) -> str:
    """The words of a name without brackets, its measure of a loss as _MEASURES writes it."""
    text = words(re.sub(r"[()\[\]]", " ", name))
    return re.sub(r"(?<=bits|nats)_(?=(byte|char|character|token|word)(?![a-z]))", "_per_", text)


def _log_perplexity(found: Meaning, base: str) -> Meaning | None:
    """The loss of a column that holds a logarithm of its perplexity; None for a loss of another measure."""
    if found.transform != "perplexity":
        return None
    if base == "log2":
        return replace(found, transform="bits")
    return replace(found, transform="", scale=float(np.log(10))) if base == "log10" else replace(
        found, transform="log perplexity")  # fmt: skip


def no_loss(name: str) -> str:
    """What a column is by its name that is no loss though it speaks of one; empty for others.

    >>> no_loss("log10 loss"), no_loss("log loss")
    ('a logarithm of a loss', '')
    """
    name = name.rsplit("/", 1)[-1]
    text = _measure_words(name)
    parts = set(text.split("_"))
    if "%" in name or parts & {"percent", "pct"}:
        return "a percentage"
    if parts & {"delta", "\u03b4", "\u0394", "\u2206", "diff", "difference"}:
        return "a difference of losses"
    log = _LOG_WORD.search(re.sub(r"(?<![a-z])log_?(loss|likelihood|prob)", "", text))  # log loss is cross-entropy
    of_perplexity = re.search(r"ppl(?![a-z])|perplexity", text)
    return "a logarithm of a loss" if log and not of_perplexity else ""


def _plain(text: str) -> Meaning | None:
    for quantity, names in ALIASES.items():
        if quantity != "loss" and text in names:
            return Meaning(quantity)
    if text == "l":
        return Meaning("loss", loss_unit=NATS_PER_TOKEN)
    measure = "_".join(word for word in text.replace("held_out", "heldout").split("_") if word not in HELD_OUT)
    if measure not in _LOSSES:
        return None
    unit, transform = _LOSSES[measure]
    return Meaning("loss", transform=transform, loss_unit=unit)


def suffix(text: str) -> tuple[str, float]:
    """A name without the scale that ends it, and the scale; 0 without one."""
    match = re.fullmatch(r"(.*?)_(?:in_)?([a-z]+|1e\d+|10\^\d+)", text)
    return (match[1], _SCALES.get(match[2]) or _power_of_ten(match[2])) if match else (text, 0.0)


def _power_of_ten(text: str) -> float:
    """The value of 1e18 or 10^18; 0 for another text."""
    match = re.fullmatch(r"(?:1e|10\^)(\d{1,2})", text)
    return 10.0 ** int(match[1]) if match else 0.0


def _times(found: Meaning | None, scale: float) -> Meaning | None:
    return None if found is None or found.quantity == "loss" else Meaning(found.quantity, scale)


def _logarithm(base: str, text: str) -> Meaning | None:
    found = _plain(text)
    if found is None or found.quantity == "loss":
        return found and _log_perplexity(found, base)
    return Meaning(found.quantity, transform=base)  # type: ignore[arg-type]  # one of _LOG


def in_unit(found: Meaning | None, unit: str) -> Meaning | None:
    """A quantity with its unit in brackets."""
    if found is None:
        return None
    text = unit.strip().lower().replace("\u00d7", "x").removeprefix("x").removeprefix("in ").strip()
    if found.quantity == "loss":
        return None if found.transform else measured_in(text)
    if text in _LOG:
        return Meaning(found.quantity, transform=text)  # type: ignore[arg-type]  # one of _LOG
    first = text.split()[0] if text.split() else ""
    scale = _SCALES.get(first) or _power_of_ten(first)
    if scale and (text == first or re.fullmatch(r"\S+ (of )?(params|parameters|tokens|steps|sequences|flops?)", text)):
        return Meaning(found.quantity, scale)
    if found.quantity == "flops":
        if re.fullmatch(r"(pf|pflops?|petaflops?)[/\s-]*s?[\s-]*days?", text):
            return Meaning("flops", _PF_DAYS)
        if match := re.fullmatch(rf"{_FLOP}[\s-]?flops?", text):
            return Meaning("flops", _FLOP_SCALES[match[1]])
    alone = ("count", "tokens", "params", "parameters", "steps", "sequences", "flops", "flop")
    return found if words(text) in alone else None


def measured_in(unit: str) -> Meaning | None:
    """What values of a loss in a unit become (bits/byte, nats per token, ppl); None for an unknown unit."""
    measure = re.sub(r"^(bits|nats)_(byte|char|character|token|word)$", r"\1_per_\2", words(unit))
    if measure not in _MEASURES:
        return None
    loss_unit, transform = _MEASURES[measure]
    return Meaning("loss", transform=transform, loss_unit=loss_unit)


def number(text: str) -> float | None:
    """The number that a text says, None for none: 1M, 1.3B, 400K, 2 T, 1,238,144, 1_000_000, 1e9, 3 x 10^9.

    >>> number(" 1.3B "), number("1,238,144"), number("many")
    (1300000000.0, 1238144.0, None)
    """
    text = text.strip().replace("\u2212", "-")
    if (plain := text.translate(_RAISED)) != text:
        text = re.sub(r"10(?=[+-]?\d+$)", "10^", plain)
    if _GROUPED.fullmatch(text):
        text = _ungrouped(text)
    if match := _NUMBER.fullmatch(text):
        scale = _FLOP_SCALES[match[3].lower()] if match[3] else _SCALES[match[2].lower()] if match[2] else 1.0
        return float(match[1]) if scale == 1 else float(f"{float(match[1]) * scale:.15g}")
    if match := _PETAFLOP_DAYS.fullmatch(text):
        return float(match[1]) * _PF_DAYS
    if match := _POWER.fullmatch(text):
        return float(f"{match[1] or '1'}e{match[2]}")
    return float(text) if text.lower().lstrip("+-") in ("inf", "infinity") else None


def has_scale(text: str) -> bool:
    """Whether a written number has a scale of its own, as 1.3B, 2 ZFLOPs and 3 PF-days have and 1.3e9 has not."""
    match = _NUMBER.fullmatch(text.strip())
    return bool(match and (match[2] or match[3])) or _PETAFLOP_DAYS.fullmatch(text.strip()) is not None


def _ungrouped(text: str) -> str:
    """A number without the marks between its thousands; of several dots none is a decimal point."""
    dots = text.count(".") > 1
    return re.sub(rf"[,'_\u2019{_BLANKS}{'.' if dots else ''}]", "", text)


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
        elif isinstance(value, numbers.Real | Decimal) and not isinstance(value, bool):
            read.append(_float(value))
        else:
            read.append(np.nan if value is None or value is pd.NA or value is pd.NaT else None)
    wrong = pd.Series([value is None for value in read], index=column.index)
    return pd.Series([np.nan if value is None else value for value in read], index=column.index, dtype=float), wrong


def parse_percent(column: pd.Series) -> tuple[pd.Series, pd.Series]:
    """A column as `parse` reads it, its numbers without a percent sign behind them."""
    if is_numbers(column):
        return parse(column)
    return parse(column.map(lambda value: value.strip().removesuffix("%") if isinstance(value, str) else value))


def _float(value: numbers.Real | Decimal) -> float:
    try:
        return float(value)
    except OverflowError:
        return np.inf


def is_numbers(column: pd.Series) -> bool:
    """Whether a column holds numbers alone."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
