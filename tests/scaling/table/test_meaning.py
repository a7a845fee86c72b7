"""What names and cells of a table mean: quantities, units, scales, logarithms."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.scaling.imports.assemble import ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.meaning import meaning, meaning_as, number
from isoflop.scaling.table.read import TableError, read_table

N, D = np.meshgrid([1e8, 2e8, 4e8], [2e9, 8e9, 3.2e10])
KNOWN = pd.DataFrame({"n_params": N.ravel(), "tokens": D.ravel(), "loss": np.linspace(4, 3, 9)})
KNOWN["flops"] = 7.5 * KNOWN["n_params"] * KNOWN["tokens"]


@pytest.fixture
def save(tmp_path):
    def write(frame, name="runs.csv"):
        path = tmp_path / name
        frame.to_csv(path, index=False)
        return path

    return write


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1M", 1e6), ("1.3B", 1.3e9), ("400K", 4e5), ("2T", 2e12), ("1,238,144", 1238144), ("1_000_000", 1e6),
        ("1e9", 1e9), (" 70m ", 7e7), ("1.5 billion", 1.5e9), (".5", 0.5), ("many", None), ("1,23", None), ("", None),
        ("12,3456", None), ("1M2", None), ("inf", np.inf), (" 1 000 000 ", 1e6),
        ("1'238'144", 1238144), ("1.238.144", 1238144),
        ("3 x 10^9", 3e9), ("10**21", 1e21), ("300B tokens", 3e11), ("1.2 ZFLOPs", 1.2e21), ("31%", None), ("1.5", 1.5),
    ],
)  # fmt: skip
def test_numbers_as_people_write_them(text, value):
    assert number(text) == value


@given(st.integers(1, 10**15), st.sampled_from(["{:,}", "{:_}", " {} ", "{:.17g}"]))
def test_a_number_comes_back_from_every_spelling(value, spelling):
    assert number(spelling.format(value)) == value


@pytest.mark.parametrize(
    ("name", "quantity", "scale"),
    [
        ("Params (M)", "n_params", 1e6), ("Tokens (B)", "tokens", 1e9), ("mparams", "n_params", 1e6),
        ("total_gflops", "flops", 1e9), ("tokens_b", "tokens", 1e9), ("params [millions]", "n_params", 1e6),
        ("model_size_m", "n_params", 1e6), ("throughput/total petaflops", "flops", 1e15), ("TFLOPs", "flops", 1e12),
        ("compute (PF-days)", "flops", 8.64e19), ("N (M params)", "n_params", 1e6), ("nParamsB", "n_params", 1e9),
        ("# params", "n_params", 1), ("Number of tokens", "tokens", 1), ("FLOPs (1e18)", "flops", 1e18),
        ("Params, M", "n_params", 1e6), ("tokens_1e9", "tokens", 1e9), ("tokens (count)", "tokens", 1),
        ("Compute (EFLOPs)", "flops", 1e18),
    ],
)  # fmt: skip
def test_units_in_names(name, quantity, scale):
    reported = meaning(name)
    assert reported is not None
    assert (reported.quantity, reported.scale) == (quantity, scale)


@pytest.mark.parametrize(
    "name",
    ["d_model", "n_layer", "n_head", "loss_c4_val", "train_loss", "d_k", "loss_se", "n_params_embedding",
     "learning_rate", "unique_tokens", "batch_tokens", "tokens_per_step", "flops_per_token", "dataset",
     "val_accuracy", "N (layers)"],
)  # fmt: skip
def test_other_names_mean_no_quantity(name):
    assert meaning(name) is None


@pytest.mark.parametrize(
    ("name", "value", "nats", "unit"),
    [
        ("val_bpc", 2.836, 1.9658, "nats/character"), ("bpc", 2.836, 1.9658, "nats/character"),
        ("bpb", 1.0, 0.6931, "nats/byte"), ("bits_per_byte", 1.0, 0.6931, "nats/byte"),
        ("val_ppl", 17.05, 2.8362, "nats/token"), ("Perplexity", 17.05, 2.8362, "nats/token"),
        ("loss (bits/byte)", 1.0, 0.6931, "nats/byte"), ("loss (nats)", 2.0, 2.0, "nats/token"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mapped", [False, True])
def test_a_loss_in_another_unit_becomes_nats_and_its_unit_is_kept(save, name, value, nats, unit, mapped):
    path = save(KNOWN.drop(columns="loss").assign(**{name: value}))
    table = read_table(path, mapping={"loss": name} if mapped else {})
    assert table["loss"].to_numpy() == pytest.approx(nats, abs=5e-5)
    assert (table.attrs["loss_unit"], points(table).loss_unit) == (unit, unit)
    made = import_source(path, "auto", ImportOptions(), {"loss": name} if mapped else {}).table
    assert made["loss"].to_numpy() == pytest.approx(nats, abs=5e-5)
    assert set(made["loss_unit"]) == {unit}


@pytest.mark.parametrize("base", ["log", "ln", "log2", "log10"])
@pytest.mark.parametrize("form", ["{} ppl", "{}_perplexity", "{}(ppl)", "val_{}_ppl", "{}ppl", "{} val perplexity"])
def test_a_logarithm_of_a_perplexity_is_no_perplexity(save, base, form):
    name = form.format(base)
    log = {"log": np.log, "ln": np.log, "log2": np.log2, "log10": np.log10}[base]
    path = save(KNOWN.drop(columns="loss").assign(**{name: log(np.exp(KNOWN["loss"]))}))
    table = read_table(path, mapping={"loss": name})
    np.testing.assert_allclose(table["loss"], KNOWN["loss"])
    assert table.attrs["loss_unit"] == "nats/token"
    assert any(name in note and "nats/token" in note for note in table.attrs["notes"])
    made = import_source(path, "auto", ImportOptions(), {"loss": name}).table
    np.testing.assert_allclose(made["loss"], KNOWN["loss"])


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("log10 loss", "a logarithm of a loss"), ("ln loss", "a logarithm of a loss"), ("log2_nll", "a logarithm"),
        ("val_log10_loss", "a logarithm"), ("loss (log2)", "a logarithm"), ("ln(bpb)", "a logarithm"),
        ("loss (%)", "a percentage"), ("loss_pct", "a percentage"), ("delta loss", "a difference of losses"),
        ("val/loss diff", "a difference"),
    ],
)  # fmt: skip
def test_what_is_no_loss_by_its_name_is_not_proposed_and_refused_where_it_is_mapped(save, name, what):
    path = save(KNOWN.rename(columns={"loss": name}))
    with pytest.raises(TableError, match="no column 'loss'; name yours with --map loss=COLUMN"):
        read_table(path)
    for read in (lambda: read_table(path, mapping={"loss": name}),
                 lambda: import_source(path, "auto", ImportOptions(), {"loss": name})):  # fmt: skip
        with pytest.raises(ValueError, match=f"the column .* is {what}.*or rename this one"):
            read()


@pytest.mark.parametrize("name", ["log_loss", "val log loss", "neg_log_likelihood", "eval/diff/loss", "catalog loss"])
def test_names_of_cross_entropy_are_those_of_a_loss(save, name):
    table = read_table(save(KNOWN.rename(columns={"loss": name})), mapping={"loss": name})
    np.testing.assert_array_equal(table["loss"], KNOWN["loss"])


@pytest.mark.parametrize(
    ("name", "quantity", "scale", "transform", "unit"),
    [
        ("active_params_b", "n_params", 1e9, "", ""), ("non-embedding size (M)", "n_params", 1e6, "", ""),
        ("log10_nonemb", "n_params", 1, "log10", ""), ("wikitext_ppl", "loss", 1, "perplexity", "nats/token"),
        ("c4 bits/byte", "loss", 1, "bits", "nats/byte"), ("train_gflops_measured", "flops", 1e9, "", ""),
        ("my loss", "loss", 1, "", "nats/token"), ("size", "n_params", 1, "", ""),
    ],
)  # fmt: skip
def test_the_unit_in_a_name_that_the_user_maps(name, quantity, scale, transform, unit):
    reported = meaning_as(name, quantity)
    assert (reported.quantity, reported.scale, reported.transform, reported.loss_unit) == (
        quantity,
        scale,
        transform,
        unit,
    )
