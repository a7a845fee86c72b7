"""What older run tables do not state of a model is worked out from their counts, for every model there is."""

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

import isoflop
from isoflop.experiments.study.sizes import load_size, size_names
from isoflop.experiments.training.rows import _constants
from isoflop.models.config import ModelConfig, n_active, n_matrices
from isoflop.scaling.table.conventions import count_params, points
from isoflop.scaling.table.migrate import SHAPE, complete
from isoflop.scaling.table.read import read_table
from isoflop.scaling.table.runs import COLUMNS, NEEDED, PARAM_GROUPS, is_runs, read_runs, same_runs, write_table
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


@pytest.fixture
def as_csv(study_table, tmp_path):
    """Reads a study as a CSV of it, with what a person did to it before."""

    def read(change=lambda frame: frame):
        change(study_table.astype(object)).to_csv(tmp_path / "study.csv", index=False)
        return read_table(tmp_path / "study.csv")

    return read


def test_runs_in_a_csv_are_read_in_the_types_of_runs(as_csv, study_table):
    table = as_csv()
    assert is_runs(table)
    for name in (column.name for column in COLUMNS):
        kept = study_table[name]
        pd.testing.assert_series_equal(table[name].astype(kept.dtype), kept, check_names=False, check_index=False)
    assert table["final"].dtype == table["tied"].dtype == bool
    older = as_csv(lambda frame: frame.drop(columns=["weight_bits", "activation_bits", "mixture", "engine"]))
    assert set(older["weight_bits"]) == {32}
    assert set(older["mixture"]) == {""}


@pytest.mark.parametrize("column", [c for c in COLUMNS if c.dtype != "string"], ids=lambda c: c.name)
def test_a_word_among_the_numbers_of_runs_is_named(as_csv, column):
    def spoiled(frame):
        return frame.assign(**{column.name: frame[column.name].where(frame.index != 7, "many")})

    kind = "true or false" if column.dtype == "bool" else "a (whole )?number"
    with pytest.raises(ValueError, match=rf"study\.csv: {column.name} is not {kind} in 1 of \d+ rows .*'many'"):
        as_csv(spoiled)


BY_THESE = ("final", "state", "n_params_total", *(f"n_params_{group}" for group in PARAM_GROUPS))  # runs are known
NOT_LOSS = [name for name in NEEDED if name not in (*BY_THESE, "loss")]  # in its place train_loss is taken, and said


@pytest.mark.parametrize("column", NOT_LOSS)
def test_runs_without_what_every_run_has_are_refused_by_name(as_csv, column):
    with pytest.raises(ValueError, match=rf"study\.csv: .*{column}"):
        as_csv(lambda frame: frame.drop(columns=column))


@pytest.mark.parametrize(
    ("name", "value"), [("tied", None), ("n_layer", None), ("d_ff", 2.5), ("n_head", 1e300), ("seed", np.inf)]
)
def test_what_is_no_yes_or_no_and_no_whole_number_is_refused(as_csv, name, value):
    with pytest.raises(ValueError, match=rf"study\.csv: {name} is not (true or false|a whole number) in 1 of \d+ rows"):
        as_csv(lambda frame: frame.assign(**{name: frame[name].where(frame.index != 7, value)}))


def test_what_a_run_may_lack_may_be_empty(as_csv):
    table = as_csv(lambda frame: frame.assign(peak_memory_bytes=None, loss_floor=None, engine=None))
    assert table["peak_memory_bytes"].isna().all()
    assert set(table["engine"]) == {""}


def test_shapes_that_no_model_has_are_worked_out_to_nothing(as_csv):
    for name in ("n_layer", "d_model", "d_ff"):
        table = as_csv(lambda frame, name=name: frame.drop(columns=list(SHAPE)).assign(**{name: 0}))
        assert set(table["experts"]) == {0}


@pytest.mark.parametrize("change", [{"n_layer": "many"}, {"loss": "none"}, {"tokens": -1.0}])
def test_spoiled_runs_are_not_read_as_something_else(study_table, tmp_path, change):
    """An importer reads a CSV of curves by other conventions, in silence if the runs in it were taken for some."""
    spoiled = study_table.astype(object).assign(**change)
    spoiled.to_csv(tmp_path / "study.csv", index=False)
    with pytest.raises(ValueError, match=f"study\\.csv: .*{next(iter(change))}"):
        points(isoflop.read_table(tmp_path / "study.csv"))
