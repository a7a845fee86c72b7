"""Schema migration: columns that run tables of earlier versions lack; those of shapes follow from their counts."""

from functools import partial

import numpy as np
import pandas as pd

SHAPE = ("n_params_active", "norm", "activation", "positions", "experts", "experts_per_token")
BITS = ("weight_bits", "activation_bits")
FULL_BITS = 32  # before runs could round, none did
OF_OPTIMIZER = ("beta1", "beta2", "eps", "clip_norm", "momentum", "base_width", "base_depth")
OF_SCHEDULE = ("cooldown_fraction", "final_fraction")
KEPT = ("weight_decay", "noise_scale", *OF_OPTIMIZER, *OF_SCHEDULE)  # numbers that nothing else tells
TEXTS = ("engine", "mixture", "cooldown_shape")
ADDED = (*SHAPE, *TEXTS, *BITS, *KEPT)


def complete(frame: pd.DataFrame) -> pd.DataFrame:
    """A run table with the columns of ADDED in every row; rows that have them are left as they are.

    Of runs that do not state them the engine and the shape of the cooldown are unknown, "", and so are KEPT, NaN. Those
    without a mixture have none, "".
    """
    frame = frame.assign(**{name: frame[name].fillna("") if name in frame else "" for name in TEXTS})
    frame = frame.assign(**{name: frame[name].fillna(FULL_BITS) if name in frame else FULL_BITS for name in BITS})
    frame = frame.assign(**{name: frame.get(name, np.nan) for name in KEPT})
    missing = frame["n_params_active"].isna() if {*SHAPE} <= {*frame} else pd.Series(True, index=frame.index)
    if not missing.any():
        return frame
    known = [c for c in ("run_id", *_READ) if c in frame]
    shapes = frame.loc[missing, known].drop_duplicates("run_id").set_index("run_id")
    parts = pd.DataFrame([_parts(row) for row in shapes.itertuples()], index=shapes.index)
    for name in SHAPE:
        filled = frame.loc[missing, "run_id"].map(parts[name])
        frame = frame.assign(**{name: filled if name not in frame else frame[name].where(frame[name].notna(), filled)})
    return frame


_READ = (
    "family", "n_layer", "d_model", "d_ff", "tied", "n_params_embedding", "n_params_position", "n_params_attention",
    "n_params_recurrent", "n_params_mlp", "n_params_norm", "n_params_unembedding", "flops_token_blocks",
)  # fmt: skip


def _parts(row: object) -> dict[str, object]:
    """One model's added columns. An MLP of m matrices, E experts and a router has L (E m d d_ff + E d) parameters."""
    g = partial(getattr, row)
    head = g("n_params_unembedding") or (g("n_params_embedding") if g("tied") else 0)
    plain = {"norm": "rmsnorm", "activation": "swiglu", "positions": "rotary", "experts": 0, "experts_per_token": 0}
    found = plain | {"n_params_active": g("flops_token_blocks") // 2 + head}
    layers, width = g("n_layer"), g("d_model")
    if g("family") != "transformer" or not layers * width * g("d_ff"):
        return found
    found["positions"] = "learned" if g("n_params_position") else "rotary"
    found["norm"] = "layernorm" if g("n_params_norm") == 2 * (2 * layers + 1) * width else "rmsnorm"
    active = (g("flops_token_blocks") // 2 - g("n_params_attention") - g("n_params_recurrent")) / layers
    each = g("n_params_mlp") / layers
    for activation, matrices in (("swiglu", 3), ("gelu", 2)):
        one = matrices * width * g("d_ff")
        experts = each / (one + width)
        if each == one:
            return found | {"activation": activation}
        if experts >= 1 and np.isclose(experts, round(experts), rtol=0, atol=1e-9):
            chosen = round((active - round(experts) * width) / one)
            return found | {"activation": activation, "experts": round(experts), "experts_per_token": chosen}
    return found | {"activation": ""}
