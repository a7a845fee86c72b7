"""A column under another name, in another unit or with numbers as people write them is what its name says."""

import shlex

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.scaling.fitting.fit import FitError, Huber, fit
from isoflop.scaling.imports.assemble import ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.imports.source import SourceError
from isoflop.scaling.selection.law_weights import NoLawError, weigh_laws
from isoflop.scaling.table.columns import absent, parse
from isoflop.scaling.table.conventions import points
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
    ("quantity", "alias"),
    [
        ("tokens", "n_tokens"), ("tokens", "num_tokens"), ("tokens", "total_tokens"), ("tokens", "D"),
        ("n_params", "parameter_count"), ("n_params", "N"), ("n_params", "Num Params"), ("flops", "C"),
        ("flops", "budget"), ("loss", "L"), ("loss", "val_loss"), ("loss", "eval/loss"), ("loss", "valLoss"),
    ],
)  # fmt: skip
def test_a_known_alias_is_taken_and_said_by_fit_and_import_alike(save, quantity, alias):
    path = save(KNOWN.rename(columns={quantity: alias}))
    table = points(read_table(path))
    pd.testing.assert_frame_equal(table.frame[list(KNOWN)], KNOWN)
    assert f"{quantity}: column {alias}" in table.notes
    assert not any("missing" in note for note in table.notes)
    made = import_source(path, "auto", ImportOptions(), {})
    np.testing.assert_allclose(made.table[list(KNOWN)], KNOWN)
    assert any(alias in note for note in made.notes)


def test_points_of_a_data_frame_derive_nothing_that_stands_in_it():
    table = points(KNOWN.rename(columns={"tokens": "n_tokens"}))
    np.testing.assert_array_equal(table.frame["tokens"], KNOWN["tokens"])
    assert "tokens: column n_tokens" in table.notes


def test_two_candidates_stop_and_a_map_decides(save):
    path = save(KNOWN.drop(columns="tokens").assign(n_tokens=KNOWN["tokens"], train_tokens=2 * KNOWN["tokens"]))
    with pytest.raises(TableError, match=r"2 columns may be tokens \(n_tokens, train_tokens\).*--map tokens=COLUMN"):
        read_table(path)
    with pytest.raises(ValueError, match="2 columns may be tokens"):
        import_source(path, "auto", ImportOptions(), {})
    chosen = read_table(path, mapping={"tokens": "train_tokens"})
    np.testing.assert_array_equal(chosen["tokens"], 2 * KNOWN["tokens"])
    same = read_table(save(KNOWN.drop(columns="tokens").assign(n_tokens=KNOWN["tokens"], D=KNOWN["tokens"])))
    np.testing.assert_array_equal(same["tokens"], KNOWN["tokens"])


def test_a_vague_name_is_proposed_and_nothing_derived(save):
    table = read_table(save(KNOWN.rename(columns={"tokens": "data"})))
    with pytest.raises(TableError, match="--map tokens=data"):
        points(table)


def test_written_numbers_are_read_by_fit_and_import_alike(save):
    written = KNOWN.assign(
        n_params=KNOWN["n_params"].map(lambda n: f"{n / 1e6:g}M"),
        tokens=KNOWN["tokens"].map(lambda d: f"{int(d):,}"),
        flops=KNOWN["flops"].map(lambda c: f" {c!r} "),
    )
    np.testing.assert_allclose(read_table(save(written))[list(KNOWN)], KNOWN)
    np.testing.assert_allclose(import_source(save(written), "auto", ImportOptions(), {}).table[list(KNOWN)], KNOWN)


def test_a_word_among_numbers_names_column_row_and_value(save):
    bad = KNOWN.astype({"tokens": object}).rename(columns={"tokens": "D"})
    bad.loc[4, "D"] = "many"
    message = r"D is not a number in 1 of 9 rows \(row 5\): 'many'"
    with pytest.raises(TableError, match=message):
        read_table(save(bad))
    with pytest.raises(ValueError, match=message):
        import_source(save(bad), "auto", ImportOptions(), {})
    assert len(read_table(save(bad), where="n_params != 2e8")) == 6


_DIALECTS = {
    "n_params": [("Params (M)", 1e-6), ("mparams", 1e-6), ("params_b", 1e-9), ("N", 1), ("log10_n", "log10")],
    "tokens": [("Tokens (B)", 1e-9), ("n_tokens", 1), ("btokens", 1e-9), ("log10(tokens)", "log10")],
    "flops": [("total_gflops", 1e-9), ("Compute (PFLOPs)", 1e-15), ("C", 1), ("ln_flops", "ln")],
    "loss": [("val_loss", 1), ("L", 1), ("loss (bits)", 1 / np.log(2)), ("val_ppl", "exp"), ("valid/nll", 1)],
}


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_known_table_comes_back_from_every_dialect_of_names_and_units(tmp_path_factory, data):
    frame = pd.DataFrame(index=KNOWN.index)
    for quantity in data.draw(st.permutations(list(_DIALECTS))):
        name, unit = data.draw(st.sampled_from([(quantity, 1), *_DIALECTS[quantity]]))
        transforms = {"log10": np.log10, "ln": np.log, "exp": np.exp}
        known = KNOWN[quantity]
        frame[name] = transforms[unit](known) if isinstance(unit, str) else known * unit
    path = tmp_path_factory.mktemp("dialect") / "runs.csv"
    frame.to_csv(path, index=False)
    table = points(read_table(path))
    np.testing.assert_allclose(table.frame[list(KNOWN)], KNOWN, rtol=1e-9)
    np.testing.assert_allclose(import_source(path, "auto", ImportOptions(), {}).table[list(KNOWN)], KNOWN, rtol=1e-9)
    for name in set(frame) - set(KNOWN):
        assert any(name in note for note in table.notes)


def test_a_map_to_a_name_with_a_unit_converts_and_says_so(save):
    path = save(KNOWN.assign(n_params=KNOWN["n_params"] / 1e6).rename(columns={"n_params": "Params (M)"}))
    table = read_table(path, mapping={"n_params": "Params (M)"})
    np.testing.assert_allclose(table["n_params"], KNOWN["n_params"])
    assert "n_params is the column Params (M) (times 1e+06)" in table.attrs["notes"]


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("some", [False, True])
@pytest.mark.parametrize(
    ("quantity", "name", "unit", "suffix"),
    [
        ("n_params", "Params (M)", 1e6, "M"), ("n_params", "mparams", 1e6, " million"),
        ("tokens", "Tokens (B)", 1e9, "B"), ("flops", "Compute (PF-days)", 8.64e19, " PF-days"),
        ("flops", "total_gflops", 1e9, " GFLOPs"),
    ],
)  # fmt: skip
def test_a_scale_in_a_name_and_in_its_cells_counts_once(save, quantity, name, unit, suffix, some, mapped):
    numbers = (KNOWN[quantity] / unit).map(repr)
    cells = numbers + np.where((KNOWN.index % 2 == 0) | (not some), suffix, "")
    path = save(KNOWN.drop(columns=quantity).assign(**{name: cells}))
    table = read_table(path, mapping={quantity: name} if mapped else {})
    np.testing.assert_allclose(table[quantity], KNOWN[quantity])
    assert any(f"such as {cells[0]}, keep that alone" in note for note in table.attrs["notes"])
    np.testing.assert_allclose(import_source(path, "auto", ImportOptions(), {}).table[quantity], KNOWN[quantity])


@pytest.mark.parametrize(
    ("quantity", "name", "value", "made"),
    [
        ("n_params", "Params (M)", 1.5e9, r"which makes 1.5e\+15 parameters \(times 1e\+06\)"),
        ("tokens", "Tokens (B)", 2e10, r"which makes 2e\+19 tokens \(times 1e\+09\)"),
        ("flops", "Compute (PF-days)", 1.8e20, r"which makes 1.56e\+40 flops"),
        ("n_params", "log10_n", 124.0, r"which makes 1e\+124 parameters \(from its log10\)"),
    ],
)
def test_a_number_in_another_unit_than_its_columns_is_refused_by_row(save, quantity, name, value, made):
    cells = pd.Series(2.0, index=KNOWN.index)
    cells[7] = value
    path = save(KNOWN.drop(columns=quantity).assign(**{name: cells}))
    with pytest.raises(TableError, match=rf"is {value!r} in row 8, {made}".replace("+20", r"\+20")):
        read_table(path)
    with pytest.raises(ValueError, match=made):
        import_source(path, "auto", ImportOptions(), {})


@pytest.mark.parametrize("column", ["state", "run_state", "Status"])
def test_runs_that_did_not_finish_are_left_out_and_counted(save, column):
    states = ["finished", "FAILED", "crashed", "Killed", "running", *["Finished"] * 4]
    path = save(KNOWN.assign(**{column: states}))
    table = read_table(path)
    assert table.index.tolist() == [0, 5, 6, 7, 8]
    (note,) = (note for note in table.attrs["notes"] if "left out" in note)
    assert note.startswith("4 of 9 rows are left out, their runs did not finish")
    assert all(f"1 {state}" in note for state in ("failed", "crashed", "killed", "running"))
    assert len(read_table(path, where=f"{column} != 'running'")) == 8
    made = import_source(path, "auto", ImportOptions(), {})
    assert (len(made.table), len(made.left_out)) == (5, 4)
    with pytest.raises(TableError, match="no run finished"):
        read_table(save(KNOWN.assign(**{column: "crashed"})))


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(
    st.lists(
        st.sampled_from(["finished", "CRASHED", "Failed", "killed", "Running", "timed out"]), min_size=9, max_size=9
    )
)
def test_what_is_left_is_what_finished(tmp_path_factory, states):
    path = tmp_path_factory.mktemp("states") / "runs.csv"
    KNOWN.assign(state=states).to_csv(path, index=False)
    done = [k for k, state in enumerate(states) if state == "finished"]
    if done:
        assert read_table(path).index.tolist() == done
    else:
        with pytest.raises(TableError, match="no run finished"):
            read_table(path)


def test_a_column_of_other_states_says_nothing_of_runs(save):
    assert len(read_table(save(KNOWN.assign(state=list("abcabcabc"))))) == 9


def test_booleans_and_missing_words_are_no_numbers():
    parsed, wrong = parse(pd.Series([True, "NA", None, "2", 3, [1]], dtype=object))
    assert parsed.isna().tolist() == [True, True, True, False, False, True]
    assert wrong.tolist() == [True, False, False, False, False, True]


@pytest.mark.parametrize(
    ("absent", "value"),
    [("tokens", 7.5 / 6 * KNOWN["tokens"]), ("n_params", 7.5 / 6 * KNOWN["n_params"])],
)
@pytest.mark.parametrize("empty", [False, True])
def test_of_two_the_third_is_derived_by_fit_and_import_alike_and_said(save, absent, value, empty):
    path = save(KNOWN.assign(**{absent: None}) if empty else KNOWN.drop(columns=absent))
    table = points(read_table(path))
    np.testing.assert_allclose(table.frame[absent], value)
    (reported,) = (note for note in table.notes if "missing" in note)
    assert reported.startswith(absent)
    made = import_source(path, "auto", ImportOptions(), {})
    np.testing.assert_allclose(made.table[absent], value)
    assert reported in made.notes


def test_what_may_be_the_third_stops_the_derivation(save):
    with pytest.raises(TableError, match="--map n_params=size"):
        points(read_table(save(KNOWN.rename(columns={"n_params": "size"}))))
    words = KNOWN.rename(columns={"n_params": "model_size"}).assign(model_size=["small"] * 8 + ["1B"])
    with pytest.raises(TableError, match="model_size is not a number in 8 of 9 rows"):
        read_table(save(words))


def test_all_that_is_missing_is_told_at_once(save):
    path = save(KNOWN.set_axis(["Groesse", "Menge", "Verlust", "Aufwand"], axis=1))
    with pytest.raises(TableError) as printed:
        read_table(path)
    assert all(f"no column '{name}'" in str(printed.value) for name in ("loss", "n_params", "tokens"))
    twice = KNOWN.drop(columns=["tokens", "n_params"]).assign(N=1e6, num_params=2e6, D=1e9, n_tokens=2e9)
    with pytest.raises(TableError, match=r"2 columns may be n_params \(N, num_params\).*2 columns may be tokens"):
        read_table(save(twice))


@pytest.mark.parametrize(("reached", "plan"), [("tokens", "planned_tokens"), ("step", "max_steps")])
def test_runs_far_below_their_plan_are_left_out_and_counted(save, reached, plan):
    table = KNOWN.assign(run_id=[f"r{k}" for k in range(9)], **{plan: KNOWN["tokens"]})
    table = table if reached == "tokens" else table.assign(step=table["tokens"])
    table.loc[[2, 5], plan] *= 1.5
    table.loc[7, plan] *= 1.02
    path = save(table)
    read = read_table(path)
    assert read.index.tolist() == [0, 1, 3, 4, 6, 7, 8]
    (note,) = (note for note in read.attrs["notes"] if "left out" in note)
    assert note == f"2 of 9 rows are left out, their runs ended below 90% of their plan (column {plan})"
    assert len(read_table(path, where=f"{plan} > 0")) == 9
    made = import_source(path, "auto", ImportOptions(), {})
    assert (len(made.table), [one.run for one in made.left_out]) == (7, ["r2", "r5"])


@pytest.mark.parametrize(
    ("quantity", "names", "printed"),
    [
        ("loss", ["flops", "loss_c4_val", "tokens"], "did you mean 'loss_c4_val'"),
        ("loss", ["flops", "floss"], "did you mean 'floss'"),
        ("loss", ["flops", "n_params"], "name yours"),
        ("tokens", ["batch_tokens", "unique_tokens", "tokens_per_step", "warmup_tokens"], "name yours"),
        ("n_params", ["n_params_embedding", "vocab_size"], "name yours"),
        ("tokens", ["Tokens/param", "loss_2.5B_tokens", "flops per token"], "name yours"),
        ("n_params", ["Tokens/param", "params per expert", "loss at 1B params"], "name yours"),
        ("loss", ["loss_2.5B_tokens", "loss (%)", "compute-matched loss"], "name yours"),
        ("n_params", ["n_params_embedding", "n_params_non_embedding"], "did you mean 'n_params_non_embedding'"),
        ("loss", ["metrics/train/loss", "metrics/val/loss"], "--map loss=metrics/val/loss"),
        ("loss", ["loss_train", "c4 loss"], "did you mean 'c4 loss'?"),
        ("loss", ["router loss", "loss_of_training"], "(no loss of held-out text by its name)? Use --map"),
        ("tokens", ["2.5B tokens", "n"], "name yours"),
        ("tokens", ["2.5B tokens", "5B tokens"], "'2.5B tokens' and '5B tokens' are of two runs: write a row for each"),
        ("loss", ["1e9 params", "2e9 params"], "'1e9 params' and '2e9 params' are of two runs"),
        ("tokens", ["1e9 params", "2e9 params"], "name yours"),
    ],
)
def test_no_message_proposes_a_column_that_holds_something_else(quantity, names, printed):
    assert printed in absent(quantity, names)


@pytest.mark.parametrize("read", [read_table, lambda path: import_source(path, "auto", ImportOptions(), {})])
def test_the_loss_that_a_message_proposes_is_that_of_held_out_text(save, read):
    frame = KNOWN.rename(columns={"loss": "metrics/val/loss"}).assign(**{"metrics/train/loss": KNOWN["loss"] - 0.2})
    with pytest.raises((TableError, SourceError), match=r"Use --map loss=metrics/val/loss"):
        read(save(frame[frame.columns[::-1]]))


@pytest.mark.parametrize("other", ["PPL", "bpb", "bits per byte", "val_ppl"])
def test_a_column_of_layers_is_no_loss(save, other):
    undo = np.exp if "ppl" in other.lower() else lambda loss: loss / np.log(2)
    layers = KNOWN.drop(columns="loss").assign(L=np.resize([12, 24, 48], 9))
    table = read_table(save(layers.assign(**{other: undo(KNOWN["loss"])})))
    np.testing.assert_allclose(table["loss"], KNOWN["loss"])
    with pytest.raises(TableError, match="no column 'loss'; did you mean 'c4_loss'"):
        read_table(save(layers.assign(c4_loss=KNOWN["loss"])))


@pytest.mark.parametrize(
    ("columns", "listed"),
    [
        ({"val_loss": -1.0, "val_ppl": "exp"}, r"val_loss, val_ppl"),
        ({"L": -1.0, "PPL": "exp"}, r"L, PPL"),
        ({"L": -1.0, "bpb": 1.0}, r"L, bpb"),
        ({"L": -1.0, "c4_loss": 1.0}, r"L, c4_loss"),
    ],
)
def test_measures_that_order_the_rows_in_another_way_are_not_one_loss(save, columns, listed):
    made = {name: np.exp(KNOWN["loss"]) if how == "exp" else how * KNOWN["loss"] + 8.5 for name, how in columns.items()}
    path = save(KNOWN.drop(columns="loss").assign(**made))
    with pytest.raises(TableError, match=rf"2 columns may be loss \({listed}\): name one with --map loss=COLUMN"):
        read_table(path)
    first, second = columns
    np.testing.assert_allclose(read_table(path, mapping={"loss": first})["loss"], made[first])
    in_order = {first: KNOWN["loss"] + 0.01 * np.resize([1.0, -1.0], 9), second: made[second]}
    np.testing.assert_allclose(read_table(save(KNOWN.drop(columns="loss").assign(**in_order)))["loss"], in_order[first])


def test_a_loss_per_token_and_one_per_byte_may_differ(save):
    tokenizers = KNOWN.drop(columns="loss").assign(val_loss=KNOWN["loss"], bpb=KNOWN["loss"].to_numpy()[::-1])
    np.testing.assert_array_equal(read_table(save(tokenizers))["loss"], KNOWN["loss"])


def test_other_counts_of_parameters_are_named_also_as_text(save):
    path = save(KNOWN.rename(columns={"n_params": "total_params"}).assign(active_params="1B"))
    assert (
        "n_params: the table also has active_params (choose with --map n_params=COLUMN)"
        in read_table(path).attrs["notes"]
    )


@pytest.mark.parametrize("name", ["my loss", "loss $x", "loss 'c4'", "loss (c4, seen)"])
def test_an_advised_map_is_typed_in_a_shell_as_it_stands(save, name):
    path = save(KNOWN.rename(columns={"loss": name}))
    with pytest.raises(TableError) as printed:
        read_table(path)
    option, pair = shlex.split(str(printed.value).split("Use ")[1].split(" (columns")[0])
    assert (option, pair) == ("--map", f"loss={name}")
    np.testing.assert_array_equal(read_table(path, mapping={"loss": name})["loss"], KNOWN["loss"])


def test_a_law_without_its_tokens_says_which_columns_there_are(save):
    path = save(KNOWN[["n_params", "loss"]].assign(batch=32, updates=100))
    with pytest.raises(FitError) as printed:
        fit("chinchilla", read_table(path))
    assert "no column 'tokens'; name yours with --map tokens=COLUMN (columns: n_params, " in str(printed.value)
    with pytest.raises(NoLawError, match=r"^no law .*: chinchilla, kaplan: it needs the column 'tokens'"):
        weigh_laws(points(read_table(path)), ("chinchilla", "kaplan"), Huber("auto"))
