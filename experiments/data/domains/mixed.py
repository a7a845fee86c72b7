"""The corpus of a mixture, from those of its domains: `data.mixture` has their shares, `data.domains` their text."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from isoflop.experiments.config import DataSpec, HubSpec, SyntheticSpec
from isoflop.experiments.data import CorpusError
from isoflop.experiments.data.batches import Corpus, Domain, spread_windows
from isoflop.experiments.files import NAME_RULE, is_name

ALONE = ("python-source", "synthetic")  # sources that name their text by themselves
SUM = 1e-6  # that shares may miss 1 by
FEWEST = 2  # domains of a mixture
KEYS = tuple(f.name for f in fields(DataSpec) if f.name not in ("mixture", "domains"))
TAKEN = ("bits", "decay", "floor", "se")  # weight_decay, loss_se, ... are columns of their own
ONE_FOR_ALL = ("context_length", "eval_tokens")


def domains_of(data: DataSpec) -> dict[str, DataSpec]:
    """The data of each domain of data.mixture, in alphabetical order. Raises CorpusError naming the key."""
    check_mixture(data)
    return {name: _domain(data, name) for name in sorted(data.mixture)}


def check_mixture(data: DataSpec) -> None:
    """Raise CorpusError for shares that are none, or domains that say nothing of their text."""
    shares = data.mixture
    if len(shares) < FEWEST:
        raise CorpusError(f"data.mixture={shares}: {len(shares)} domain; a mixture has two or more")
    for name, share in shares.items():
        if not is_name(name):
            raise CorpusError(f"data.mixture: {name!r} is no name of a domain: {NAME_RULE}")
        if name in TAKEN:
            raise CorpusError(
                f"data.mixture: a domain called {name} would have a column that the run table has already"
            )
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise CorpusError(f"data.mixture.{name} must be a share from 0 to 1; not {share!r}")
    if abs((total := sum(shares.values())) - 1) > SUM:
        raise CorpusError(f"data.mixture: the shares of {', '.join(shares)} add up to {total:.6g} and not to 1")
    if data.unique_tokens is not None:
        raise CorpusError(
            f"data.unique_tokens={data.unique_tokens} with data.mixture: set it for a domain, with "
            f"data.domains.{min(shares)}.unique_tokens"
        )
    for name in (*shares, *data.domains):
        _domain(data, name)


def _domain(data: DataSpec, name: str) -> DataSpec:
    given = data.domains.get(name, {"source": name} if name in ALONE else None)
    if given is None:
        raise CorpusError(
            f"data.mixture names {name}, and data.domains does not say what that is: add "
            f"'data.domains.{name}=[/path/**/*.txt]', or the keys of data that it sets"
        )
    if isinstance(given, str | list):
        given = {"source": "files", "files": [given] if isinstance(given, str) else given}
    if not isinstance(given, Mapping):
        raise CorpusError(f"data.domains.{name} must be globs of files or keys of data; not {given!r}")
    for key in given:
        if key not in KEYS or key in ONE_FOR_ALL:
            known = "one for all domains" if key in ONE_FOR_ALL else f"one of {', '.join(KEYS)}"
            raise CorpusError(f"data.domains.{name}.{key}: no key of a domain ({known})")
    nested = {"hub": HubSpec, "synthetic": SyntheticSpec}
    try:
        own = {key: nested[key](**value) if key in nested and isinstance(value, Mapping) else value
               for key, value in given.items()}  # fmt: skip
    except TypeError as error:
        raise CorpusError(f"data.domains.{name}: {error}") from error
    return replace(data, **{"mixture": {}, "domains": {}, "name": f"{data.name}-{name}", **own})


def check_alike(parts: Mapping[str, Corpus]) -> None:
    """Raise CorpusError where the tokens of domains are not of one tokenizer."""
    (first, one), *others = parts.items()
    for name, other in others:
        if (other.tokenizer_id, other.vocab_size) != (one.tokenizer_id, one.vocab_size):
            raise CorpusError(
                f"data.mixture: {first} has tokens of {one.tokenizer_id} ({one.vocab_size}) and {name} of "
                f"{other.tokenizer_id} ({other.vocab_size}); give both one data.tokenizer, bytes or a tokenizer.json"
            )


def mixed_windows(available: list[int], data: DataSpec) -> int:
    """Held-out windows of each domain: as many as data.eval_tokens shared among them, or the fewest that one has."""
    wanted = -(-data.eval_tokens // (data.context_length * len(available)))
    return min(wanted, *available)


def mixed_manifest(parts: Mapping[str, Corpus], held_out: int, context_length: int) -> dict[str, Any]:
    """What the manifest of a mixture states beside its two sides."""
    one = next(iter(parts.values()))
    domains = [
        Domain(name=name, corpus_id=part.corpus_id, windows=len(part.train) // (context_length + 1),
               held_out_windows=held_out)
        for name, part in parts.items()
    ]  # fmt: skip
    per_token = np.mean([part.bytes_per_token for part in parts.values()])
    losses = [part.manifest["losses"] for part in parts.values() if "losses" in part.manifest]
    return {
        "tokenizer_id": one.tokenizer_id, "vocab_size": one.vocab_size,
        "licence": "; ".join(sorted({part.manifest["licence"] for part in parts.values()})), "domains": domains,
        "bytes_per_token": float(per_token) if np.isfinite(per_token) else None,
        **({"losses": losses[0]} if losses else {}),
    }  # fmt: skip


def mixed_documents(
    parts: Mapping[str, Corpus], held_out: int, context_length: int
) -> Iterator[tuple[np.ndarray, bool, int]]:
    """(tokens, whether held out, 0 bytes): both sides of each domain, cut to whole windows."""
    length = context_length + 1
    for part in parts.values():
        yield part.train[: len(part.train) // length * length], False, 0
        windows = spread_windows(part.held_out, context_length=context_length, n_tokens=held_out * context_length)
        yield windows.reshape(-1), True, 0
