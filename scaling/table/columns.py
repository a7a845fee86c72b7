"""The columns of a table as quantities: which column holds which, and its values as numbers.

Every command that reads a table and every importer resolves columns by `resolve`. A column under another name, or in
another unit, is taken only where its name has one meaning (see `meaning`), and a note says which one was taken.
"""

import difflib
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from isoflop.scaling.table.formats.counts import count_as, counts_in, is_count
from isoflop.scaling.table.formats.products import with_sizes, with_tokens, without_one_epoch
from isoflop.scaling.table.meaning import (
    ALIASES,
    HELD_OUT,
    NATS_PER_TOKEN,
    QUANTITIES,
    SPEEDS,
    VAGUE,
    Meaning,
    has_scale,
    is_numbers,
    meaning,
    meaning_as,
    no_loss,
    parse,
    words,
)

OPTIONAL = ("run_id", "trunk_id", "seed", "arm", "gate_pair", "unique_tokens", "vocab_size", "weight")
_NUMERIC = (*QUANTITIES, "unique_tokens", "vocab_size", "weight")
# A validation loss as loggers name it: val/loss, eval/c4/crossentropyloss.
VALIDATION = re.compile(
    r"^((val|valid|validation|eval|test|heldout|held_out)[/_. ](.*[/_. ])?(loss|crossentropyloss|ce loss|cross_entropy)"
    r"|loss[/_. ](val|valid|validation|eval|test))$"
)
_FAMILIES = {"n_params": r"(^|_)(params?|parameters?)(_|$)", "tokens": r"(^|_)(tokens?|toks?)(_|$)",
             "flops": r"flops?(_|$)|(^|_)compute(_|$)",
             "loss": r"loss(_|$)|(^|_)(nll|ppl|perplexity|bpb|bpc)(_|$)"}  # fmt: skip
_OTHER_LOSS = re.compile(r"train|aux|balance|router|z_loss")  # losses beside that of held-out text
_AT_A_VALUE = re.compile(r"[\d.]+(e\d+)?\s?[kmbgt]?[\s_]?(tokens|toks|params|parameters|flops)", re.I)  # 2.5B tokens
_PARTS = {"batch", "unique", "warmup", "per", "vocab", "vocabulary", "se", "std", "embeddings"}  # of no quantity
FAR = 1.5  # decades
SAME_ORDER = 0.9  # rank correlation of one loss in two units
LEAST_SIZE = 1e4  # parameters or tokens of a run
MOST = {"n_params": 1e13, "tokens": 1e16, "flops": 1e30}  # of a run: more are in another unit


class TableError(ValueError):
    """A table cannot be used as it is; the message says which column or rows, and the remedy, in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


@dataclass(frozen=True)
class Resolved:
    """A table with a column of numbers for every quantity that it has; the columns of the file stay.

    `wrong` (bool, as long as the table) marks values that are no numbers, NaN in `frame`, by quantity; `columns` names
    the file's column of each quantity, `meanings` what was read from its name, `written` is the table as it came.
    """

    frame: pd.DataFrame
    written: pd.DataFrame
    wrong: pd.DataFrame
    columns: Mapping[str, str]
    meanings: Mapping[str, Meaning]

    @property
    def loss_unit(self) -> str:
        """The unit of the loss by the name of its column."""
        meant = self.meanings.get("loss")
        return meant.loss_unit if meant and meant.loss_unit else NATS_PER_TOKEN


def resolve(
    frame: pd.DataFrame,
    mapping: Mapping[str, str],
    notes: list[str],
    *,
    source: str,
    needs: Iterable[tuple[str, ...]] = (),
) -> Resolved:
    """The quantities of a table: the one place where a file's columns get their meaning, for fit and import alike.

    `mapping` names columns (ours -> the file's) and goes before any alias; of each of `needs` one must be there.
    Says in `notes` which column was taken and how it was converted. Raises TableError naming at once every quantity
    that several columns may be, and every one that is needed and absent.
    """
    if "loss" in mapping and (what := no_loss(mapping["loss"])):
        raise TableError(
            f"{source}: the column {mapping['loss']} is {what} by its name; name a column of the loss itself with "
            "--map loss=COLUMN, or rename this one if it holds that"
        )
    frame = with_sizes(frame, mapping, notes)
    found, problems, several = dict(mapping), [], []
    for name in _NUMERIC:
        if name in mapping:
            continue
        candidates = columns_for(frame, name) if name in QUANTITIES else [name] * (name in frame)
        if len(candidates) > 1:
            several.append(name)
            problems.append(_several(name, candidates))
        elif candidates:
            found[name] = candidates[0]
            _say_others(frame, name, candidates[0], notes)
            _say_like(frame, name, candidates[0], notes)
    for name, candidates in counts_in(str(column) for column in frame).items():
        if name in found or name in frame:
            continue
        if len(candidates) > 1:
            problems.append(_several(name, candidates))
        else:
            found[name] = candidates[0]
    _drop_speed(frame, found, mapping, notes)
    names = [str(column) for column in frame.columns]
    known = {*found, *names, *several}
    problems += [_lacking(frame, any_of[0], names) for any_of in needs if not known & set(any_of)]
    if problems and not known & {"tokens", "flops"}:
        problems.append(_lacking(frame, "tokens", names))
    if problems:
        raise TableError(f"{source}: {'; '.join(problems)} (columns: {', '.join(names)})")
    frame = with_tokens(frame, found, notes)
    return _converted(frame, found, mapping, notes, source)


def _several(name: str, candidates: list[str]) -> str:
    return f"{len(candidates)} columns may be {name} ({', '.join(candidates)}): name one with --map {name}=COLUMN"


def _lacking(frame: pd.DataFrame, quantity: str, names: list[str]) -> str:
    """What a message says of a quantity that no column holds; a column of its name without a number is named."""
    named = [name for name in names if (meant := meaning(name)) is not None and meant.quantity == quantity]
    for name in (name for name in named if name in frame):
        if frame[name].notna().any() and parse(frame[name])[0].isna().all():
            return f"column {name} holds no number for {quantity} ({frame[name].dropna().iloc[0]!r})"
    return absent(quantity, [name for name in names if name not in named])


def _drop_speed(frame: pd.DataFrame, found: dict[str, str], mapping: Mapping[str, str], notes: list[str]) -> None:
    """Take a column called tflops and no more for no compute where it is far from 6 x n_params x tokens: a speed."""
    held = [found.get(name) for name in ("n_params", "tokens", "flops")]
    if None in held or "flops" in mapping or words(str(held[2])) not in SPEEDS:
        return
    n, d, c = (values(frame, str(column), name) for column, name in zip(held, QUANTITIES, strict=False))
    ratio = float((c / (6.0 * n * d)).median())
    if ratio > 0 and abs(np.log10(ratio)) > FAR:
        notes.append(f"flops: column {held[2]} is not taken, it is {ratio:.2g} times 6 x n_params x tokens: a speed?")
        del found["flops"]


def _refuse_mixed(column: pd.Series, own: pd.Series, parsed: pd.Series, name: str, source: str) -> None:
    """Raise TableError where some sizes have a scale of their `own` (1.3B) and others are too small to be without."""
    alone = ~own & (parsed < LEAST_SIZE)
    if name in ("n_params", "tokens") and own.any() and alone.any():
        rows = row_names(column.to_frame().reset_index(drop=True), alone.to_numpy())
        raise TableError(
            f"{source}: {column.name} is written with a scale in some rows ({column[own].iloc[0]}) and without in "
            f"{rows} ({column[alone].iloc[0]}); write all of them alike"
        )


def _scaled(
    column: pd.Series, parsed: pd.Series, meant: Meaning, name: str, notes: list[str], source: str
) -> pd.Series:
    """A quantity's numbers in its unit: by the scale of the column's name, or of the cell where that has its own.

    Raises TableError naming rows that lack either among others, and rows that are then beyond MOST.
    """
    own = column.map(lambda value: isinstance(value, str) and has_scale(value)).astype(bool)
    if meant.scale == 1:
        _refuse_mixed(column, own, parsed, name, source)
    elif own.any():
        notes.append(
            f"{column.name}: numbers with a scale of their own, such as {column[own].iloc[0]}, keep that alone"
        )
    made = meant.convert(parsed).where(~own, parsed)
    over = (made > MOST.get(name, np.inf)).to_numpy()
    if over.any() and meant.note:
        rows = row_names(column.to_frame().reset_index(drop=True), over)
        raise TableError(
            f"{source}: {column.name} is {column[over].iloc[0]} in {rows}, which makes {made[over].iloc[0]:.3g} "
            f"{'parameters' if name == 'n_params' else name} ({meant.note}); write all of its numbers in the unit of "
            "its name, or rename it"
        )
    return made


def _converted(
    frame: pd.DataFrame, found: Mapping[str, str], mapping: Mapping[str, str], notes: list[str], source: str
) -> Resolved:
    made: dict[str, pd.Series] = {}
    meanings: dict[str, Meaning] = {}
    wrong = pd.DataFrame(index=frame.index)
    for name, column in found.items():
        meant = meanings[name] = count_as(column, name) if is_count(name) else meaning_as(column, name)
        if name not in _NUMERIC and not meant.note:
            made[name] = frame[column]
        elif column != name or not is_numbers(frame[column]):
            parsed, wrong[name] = parse(frame[column])
            made[name] = _scaled(frame[column], parsed, meant, name, notes, source)
        how = f" ({meant.note})" if meant.note and (name in QUANTITIES or is_count(name)) else ""
        if name in mapping:
            notes.append(f"{name} is the column {column}{how}")
        elif column != name:
            notes.append(f"{name}: column {column}{how}")
    return Resolved(frame.assign(**made), frame, wrong, found, meanings)


def columns_for(frame: pd.DataFrame, quantity: str) -> list[str]:
    """The columns that may be a quantity: the one of that name, else those with an alias of it that differ."""
    found = [str(name) for name in frame if isinstance(name, str) and _holds(frame, name, quantity)]
    if quantity in frame and quantity != "loss":
        return [quantity]
    if quantity == "loss":
        found = _losses(frame, found)
    if quantity == "tokens":
        found = without_one_epoch(frame, found)
    if len(found) > 1:
        first = values(frame, found[0], quantity)
        found = [found[0], *(name for name in found[1:] if not _same(values(frame, name, quantity), first))]
    return found if len(found) != 1 or quantity not in frame else [quantity]


def _losses(frame: pd.DataFrame, found: list[str]) -> list[str]:
    """Of the columns with an alias of a loss those that may be it; where none has one, those of a validation loss.

    One in nats goes before a perplexity or bits, unless they order the rows in another way: then they are not the same
    loss. Losses per token and per byte may, unless the first is called L, which says little.
    """
    nats = [name for name in found if _nats(name)]
    if not nats:
        return found or [str(c) for c in frame if VALIDATION.match(str(c).lower()) and not no_loss(str(c))]
    vague = [*map(words, nats)] == ["l"]
    others = [c for c in found if c not in nats and (vague or meaning_as(c, "loss").loss_unit == NATS_PER_TOKEN)]
    others += [c for c in like(frame, "loss") if not _OTHER_LOSS.search(words(c))] if vague else []
    first = values(frame, nats[0], "loss")
    return nats + [name for name in others if not _one_order(values(frame, name, "loss"), first)]


def _one_order(one: pd.Series, other: pd.Series) -> bool:
    """Whether two columns put the rows that both know into nearly one order."""
    both = one.notna() & other.notna()
    return not one[both].rank().corr(other[both].rank()) < SAME_ORDER


def _same(one: pd.Series, other: pd.Series) -> bool:
    return bool(np.allclose(one.astype(float), other.astype(float), rtol=1e-6, equal_nan=True))


def _say_others(frame: pd.DataFrame, quantity: str, taken: str, notes: list[str]) -> None:
    """Note columns that have another name of a quantity and other values than the column of its own name."""
    if taken != quantity or quantity == "loss" or quantity not in QUANTITIES:
        return
    held = values(frame, taken, quantity)
    others = [name for name in frame if isinstance(name, str) and name != taken and _holds(frame, name, quantity)]
    others = [name for name in others if not _same(values(frame, name, quantity), held)]
    if others:
        notes.append(
            f"{quantity}: column {taken}; the table also has {', '.join(others)} (choose with --map {quantity}=COLUMN)"
        )


def like(frame: pd.DataFrame, quantity: str) -> list[str]:
    """Columns of numbers that may be a quantity by a word in their name, and have none of their own."""
    found = re.compile(_FAMILIES.get(quantity, "$^"))
    return [
        name for name in frame
        if isinstance(name, str) and found.search(words(name)) and _may_be(name, quantity)
        and not _PART.search(name.lower()) and meaning(name) is None and some_numbers(frame[name])
    ]  # fmt: skip


def _say_like(frame: pd.DataFrame, quantity: str, taken: str, notes: list[str]) -> None:
    """Note other counts of parameters, which a law may be of as well: active, without embeddings."""
    others = like(frame, "n_params")
    if quantity == "n_params" and others and taken not in others:
        notes.append(f"n_params: the table also has {', '.join(others)} (choose with --map n_params=COLUMN)")


def _nats(name: str) -> bool:
    meant = meaning(name)
    return meant is not None and (meant.transform, meant.scale, meant.loss_unit) == ("", 1.0, NATS_PER_TOKEN)


def _holds(frame: pd.DataFrame, name: str, quantity: str) -> bool:
    """Whether a column's name is one of the quantity's and some of its values are numbers."""
    meant = meaning(name)
    if meant is None or meant.quantity != quantity or isinstance(frame[name], pd.DataFrame):
        return False
    if name == quantity:
        return True
    if words(name) == "l" and (parse(frame[name])[0].dropna() % 1 == 0).all():  # layers
        return False
    return some_numbers(frame[name])


def some_numbers(column: "pd.Series | pd.DataFrame") -> bool:
    """Whether some values of a column are numbers, also as people write them (8B)."""
    return isinstance(column, pd.Series) and bool(parse(column)[0].notna().any())


def values(frame: pd.DataFrame, column: str, quantity: str) -> pd.Series:
    """A column as numbers in the unit of its quantity, NaN where it holds none."""
    return meaning_as(column, quantity).convert(parse(frame[column])[0])


def absent(name: str, names: list[str]) -> str:
    """What a message says of a column that is not among `names`."""
    wide = [other for other in names if _AT_A_VALUE.fullmatch(other)]
    if len(wide) > 1 and (name == "loss" or re.search(_FAMILIES.get(name, "$^"), words(wide[0]))):
        return (
            f"no column {name!r}; {wide[0]!r} and {wide[1]!r} are of two runs: write a row for each (pandas.melt does)"
        )
    ranks = [[c for c in names if _may_be(c, name) and (name != "loss" or _rank(c) == rank)] for rank in range(3)]
    near, rank = next(((near, k) for k, ranked in enumerate(ranks) if (near := near_match(name, ranked))), ("", 0))
    if near:
        what = " (no loss of held-out text by its name)" if rank == 2 else ""
        return f"no column {name!r}; did you mean {near!r}{what}? Use {map_option(name, near)}"
    return f"no column {name!r}; name yours with --map {name}=COLUMN"


def _rank(column: str) -> int:
    """The place of a column among those proposed as the loss: of held-out text first, of training and the like last."""
    return 2 if _OTHER_LOSS.search(words(column)) else int(not HELD_OUT & set(words(column).split("_")))


def map_option(ours: str, yours: str) -> str:
    """The option that names the column of a quantity, as it is typed in a shell."""
    return f"--map {shlex.quote(f'{ours}={yours}')}"


def _may_be(column: str, quantity: str) -> bool:
    """Whether a message may propose a column for a quantity: not where it is another, of two, or a part of one."""
    meant, parts = meaning(column), set(words(column).split("_"))
    if column in _NUMERIC or (meant is not None and meant.quantity != quantity):
        return False
    if (quantity == "loss" and no_loss(column)) or any(
        re.search(pattern, words(column)) for other, pattern in _FAMILIES.items() if other != quantity
    ):
        return False
    return not column[:1].isdigit() and not parts & _PARTS and ("embedding" not in parts or "non" in parts)


def refuse_words(resolved: Resolved, frame: pd.DataFrame, *, source: str) -> None:
    """Raise TableError naming the column, rows and a value where `frame` (rows of the resolved table) holds no number.

    Rows are named by run_id, or by their number from 1.
    """
    for name in resolved.wrong:
        bad = resolved.wrong.loc[frame.index, name].to_numpy()
        if bad.any():
            column = resolved.columns[str(name)]
            value = resolved.written.loc[frame.index[bad][0], column]
            raise TableError(
                f"{source}: {column} is not a number in {bad.sum()} of {len(frame)} rows ({row_names(frame, bad)}): "
                f"{value!r}; correct them"
            )


def row_names(frame: pd.DataFrame, mask: np.ndarray, limit: int = 5) -> str:
    """The rows selected by `mask` (bool, n): by run_id where all have one, else by their number from 1."""
    if "run_id" in frame and frame["run_id"][mask].notna().all():
        names, what = [str(r) for r in pd.unique(frame["run_id"][mask])], "run"
    else:
        names, what = [str(i + 1) if isinstance(i, int) else str(i) for i in frame.index[mask]], "row"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{what}{'s' if len(names) > 1 else ''} {', '.join(names[:limit])}{more}"


def texts(column: pd.Series) -> pd.Series:
    """A column as text, empty where a value is missing: what can be sorted."""
    return column.astype(object).where(column.notna(), "").astype(str)


def floats(column: pd.Series) -> pd.Series:
    """A column as floats: NaN for what is no number, infinite for whole numbers beyond all floats."""
    return parse(column)[0].astype(float)


# Parameters of a part of a model, which are not its size.
_PART = re.compile(
    r"(?<!no)(?<!non)(?<!without)(?:^|[_\W])(?:wte|wpe|emb|embed|embeds|embeddings?|lm_head|scalars?)(?:[_\W]|$)"
)


def near_match(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name`: a known alias first, else the closest spelling, else one that contains it."""
    candidates = [c for c in candidates if name != "n_params" or not _PART.search(c.lower())]
    lowered = {c.lower(): c for c in candidates}
    kin = [alias for ours, theirs in VAGUE.items() if name in theirs for alias in (ours, *theirs)]
    for alias in (name, *ALIASES.get(name, ()), *VAGUE.get(name, ()), *kin):
        if alias in lowered:
            return lowered[alias]
    containing = [c for c in candidates if name in c.lower()]
    close = difflib.get_close_matches(name, lowered, n=1, cutoff=0.6)
    return lowered[close[0]] if close else (containing[0] if containing else None)


def hint(name: str, candidates: Iterable[str]) -> str:
    """The end of a message on an unknown name: "; did you mean ...?", empty where no candidate is like it."""
    near = near_match(name, candidates)
    return f"; did you mean {near!r}?" if near else ""
