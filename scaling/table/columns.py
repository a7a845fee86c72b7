"""The columns that a table may have, their usual names elsewhere, and the nearest name to an unknown one."""

import difflib
from collections.abc import Iterable

QUANTITIES = ("n_params", "tokens", "flops", "loss")
OPTIONAL = ("run_id", "trunk_id", "seed", "arm", "unique_tokens", "vocab_size", "weight")
_ALIASES = {
    "n_params": ("n", "params", "parameters", "num_params", "nparams", "model_size", "n_parameters", "size"),
    "tokens": ("d", "n_tokens", "num_tokens", "train_tokens", "training_tokens", "tokens_seen", "data"),
    "flops": ("c", "compute", "training_flops", "train_flops", "flop", "total_flops"),
    "loss": ("l", "val_loss", "loss_val", "eval_loss", "test_loss", "final_loss", "validation_loss", "nll"),
}


class TableError(ValueError):
    """A table cannot be used as it is; the message says which column or rows, and the remedy."""


def near_match(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name`: a known alias first, else the closest spelling, else one that contains it."""
    candidates = list(candidates)
    lowered = {c.lower(): c for c in candidates}
    for alias in (name, *_ALIASES.get(name, ())):
        if alias in lowered:
            return lowered[alias]
    containing = [c for c in candidates if name in c.lower()]
    close = difflib.get_close_matches(name, lowered, n=1, cutoff=0.6)
    return lowered[close[0]] if close else (containing[0] if containing else None)


def hint(name: str, candidates: Iterable[str]) -> str:
    """The end of a message on an unknown name: "; did you mean ...?", empty where no candidate is like it."""
    near = near_match(name, candidates)
    return f"; did you mean {near!r}?" if near else ""
