"""What older run tables do not state of a model is worked out from their counts, for every model there is."""

from dataclasses import asdict, replace

import pandas as pd
import pytest

from isoflop.experiments.study.sizes import load_size, size_names
from isoflop.experiments.training.rows import _constants
from isoflop.models.config import ModelConfig, n_active, n_matrices
from isoflop.scaling.table.conventions import count_params
from isoflop.scaling.table.formats.run_columns import COLUMNS
from isoflop.scaling.table.migrate import SHAPE, complete
from isoflop.scaling.table.runs import read_runs, same_runs, write_table
from tests.support.root import RESULTS
from tests.support.sweep.studies import only, single
from tests.support.training.tracked import CORPUS

BASE = ModelConfig("transformer", 256, 64, n_layer=3, d_model=24, n_head=2)
VARIANTS = {
    "gelu": {"activation": "gelu", "d_ff": None},
    "gelu-narrow": {"activation": "gelu", "d_ff": 40},
    "layernorm": {"norm": "layernorm"},
    "learned": {"positions": "learned"},
    "experts-of-swiglu": {"experts": 5, "experts_per_token": 1},
    "experts-of-gelu": {"experts": 4, "experts_per_token": 3, "activation": "gelu", "d_ff": None},
    "tied": {"tied": True},
}
MODELS = {
    **{
        name: ModelConfig(vocab_size=256, context_length=64, **asdict(load_size(name))) for name in size_names()
    },
    **{name: replace(BASE, **fields) for name, fields in VARIANTS.items()},
}  # fmt: skip


def constants(model: ModelConfig) -> pd.DataFrame:
    return pd.DataFrame([_constants(replace(only(single(flops=3e9)), model=model), CORPUS)])


@pytest.mark.parametrize("name", MODELS)
def test_parts_show_in_the_counts(name):
    row = constants(MODELS[name])
    older = complete(row.drop(columns=list(SHAPE)))
    pd.testing.assert_frame_equal(older[list(SHAPE)], row[list(SHAPE)], check_dtype=False)


@pytest.mark.parametrize("name", MODELS)
def test_active_parameters_are_those_that_a_token_meets(name):
    model, row = MODELS[name], constants(MODELS[name])
    assert count_params(row, "active").tolist() == row["n_params_active"].tolist() == [n_active(model)]
    assert count_params(row, "matrices").tolist() == [n_matrices(model)]
    assert (n_active(model) < n_matrices(model)) == bool(model.experts > model.experts_per_token)


def test_a_store_may_hold_older_and_newer_runs():
    old, new = (constants(MODELS[name]).assign(run_id=name, engine="c") for name in ("d16", "moe-d16"))
    engines = complete(pd.concat([old.drop(columns="engine"), new], ignore_index=True))["engine"]
    assert engines.tolist() == ["", "c"]
    lacking = ["weight_bits", "activation_bits", "weight_decay"]
    bits = complete(pd.concat([old.drop(columns=lacking), new.assign(weight_bits=4)], ignore_index=True))
    assert bits["weight_bits"].tolist() == [32, 4]
    assert bits["weight_decay"].isna().tolist() == [True, False]
    both = complete(pd.concat([old.drop(columns=list(SHAPE)), new], ignore_index=True))
    assert both["experts"].tolist() == [0, MODELS["moe-d16"].experts]
    assert both["n_params_active"].tolist() == [n_active(MODELS["d16"]), n_active(MODELS["moe-d16"])]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.parquet")), ids=lambda p: p.stem)
def test_committed_results_read_with_every_column(path, tmp_path):
    table = read_runs(path)
    known = [column.name for column in COLUMNS]
    assert list(table)[: len(known)] == known
    of_domains = list(table)[len(known) :]  # of runs on a mixture
    assert all(name.startswith(("weight_", "loss_", "epochs_", "unique_tokens_")) for name in of_domains)
    assert bool(of_domains) == table["mixture"].ne("").any()
    active, matrices = table["n_params_active"], count_params(table, "matrices")
    assert (active == matrices)[table["experts"] == 0].all()
    assert (active < matrices)[table["experts"] > table["experts_per_token"]].all()
    write_table(table, tmp_path / "again.parquet")
    assert same_runs(table, read_runs(tmp_path / "again.parquet"))
