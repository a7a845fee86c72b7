"""Sizes of conf/model that the runs of a table have, or that continue them."""

from collections import Counter
from typing import Any

import pandas as pd

from isoflop.experiments.config import OptimSpec
from isoflop.experiments.followup.template import NextStudyError, Template, model_of, parts_in, shape_in
from isoflop.experiments.study.optimizers import optimizer_flops
from isoflop.experiments.study.sizes import load_size, size_names
from isoflop.models.config import n_matrices, n_total, training_flops_per_token


def sizes_like(runs: pd.DataFrame, template: Template) -> pd.DataFrame:
    """Sizes of conf/model with the parts of the runs, of the series that the runs belong to."""
    vocab_size, context_length = int(runs["vocab_size"].iloc[0]), int(runs["context_length"].iloc[0])
    batch_tokens = int(runs["batch_tokens"].mode().iloc[0])
    optim = OptimSpec(**template.settings["optim"])
    rows = []
    for name in size_names():
        spec = load_size(name, template.base)
        if parts_in(spec) != parts_in(template.parts):
            continue
        model = model_of(spec, vocab_size, context_length)
        per_token = training_flops_per_token(model) + optimizer_flops(model, optim) / batch_tokens
        rows.append({
            "size": name, "series": name.rstrip("0123456789"), "n_params": n_matrices(model), "total": n_total(model),
            "flops_token": per_token, "batch_tokens": batch_tokens, "shape": shape_in(model),
        })  # fmt: skip
    sizes = pd.DataFrame(rows)
    run_shapes = set(map(shape_in, runs.itertuples()))
    used = Counter(s.series for s in sizes.itertuples() if s.shape in run_shapes)
    # The fewest series that hold every run's shape that has a name: d16 and w16 are one shape.
    kept = {max(named["series"], key=lambda s: used[s]) for shape in run_shapes
            if len(named := sizes[sizes["shape"] == shape])}  # fmt: skip
    if kept:
        sizes = sizes[sizes["series"].isin(kept)]
    return sizes.drop_duplicates("n_params", ignore_index=True)


def size_of(run: Any, runs: pd.DataFrame, template: Template) -> str:
    """The size of conf/model that a row of `runs` has. Raises NextStudyError where none has its shape."""
    sizes = sizes_like(runs, template)
    named = sizes["size"][[shape == shape_in(run) for shape in sizes["shape"]]]
    if named.empty:
        raise NextStudyError(f"no size of conf/model has the shape of run {run.run_id}, and a study names those alone")
    return str(named.iloc[0])
