"""`isoflop mix`: known optima, caps, gains and proxies, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from isoflop.scaling.laws.mixtures.means import Term, mixture_law
from isoflop.scaling.mixtures.mix import mix
from isoflop.scaling.mixtures.optimum import best_mixture, within
from isoflop.scaling.mixtures.surrogate import surrogate
from isoflop.scaling.mixtures.table import NoMixtureError, mixtures
from isoflop.scaling.table.columns import TableError
from tests.support.fits.mixed_studies import best_of, study

LAW, TABLE = study(2, 3)
REPORTED = {"code": 4e9, "prose": 1e12}


@pytest.fixture(scope="module")
def found():
    return mix(TABLE, at={"n_params": 1e9}, tokens=25e9, unique=REPORTED)


def test_the_best_mixture_of_a_known_law_is_found_with_its_gain(found):
    best = best_of(LAW)
    assert found.weights == pytest.approx(best, abs=0.03)
    assert found.intervals[0, 0] <= best[0] <= found.intervals[0, 1]
    assert found.natural == pytest.approx([4 / 1004, 1000 / 1004])
    true = float(LAW(found.natural) - LAW(found.weights))
    assert found.gain == pytest.approx(true, rel=0.2)
    assert 0 < found.gain_interval[0] < found.gain < found.gain_interval[1]
    assert (found.flatness[:, 0] < found.weights).all()
    assert (found.weights < found.flatness[:, 1]).all()
    assert float(LAW([found.flatness[0, 1], 1 - found.flatness[0, 1]]) / LAW(best)) == pytest.approx(1.01, abs=0.01)


def test_the_answer_has_the_keys_that_programs_read(found):
    answer = json.loads(json.dumps(found.to_dict()))
    assert {"weights", "gain", "gain_interval", "flatness", "proxies", "findings", "conventions"} <= set(answer)
    assert sum(answer["weights"].values()) == pytest.approx(1.0)
    removed = [proxy["removes"] for proxy in answer["proxies"]]
    assert removed == sorted(removed)
    assert 0 < removed[0] <= 1
    codes = [f["code"] for f in answer["findings"]]
    assert codes.count("scale_not_varied") == 2
    assert "repeated" in str(found) or found.epochs[0] <= 4


@pytest.mark.slow
def test_a_cap_on_epochs_holds_and_is_named():
    held = mix(TABLE, tokens=25e9, cap=2, unique=REPORTED)
    assert held.weights[0] == pytest.approx(2 * 4e9 / 25e9, abs=1e-6)
    assert held.epochs[0] == pytest.approx(2.0)
    assert [f.message for f in held.findings if f.code == "epochs_capped"] == [
        "code is held at 0.320 by the cap: 2 epochs of it"
    ]
    assert float(LAW(held.weights)) > float(LAW(best_of(LAW)))


@pytest.mark.slow
def test_several_losses_are_minimised_together():
    code, prose = (study(2, seed)[0] for seed in (1, 2))
    h = TABLE[["weight_code", "weight_prose"]].to_numpy().T
    both = TABLE[["weight_code", "weight_prose"]].assign(loss_a=code(h), loss_b=prose(h))
    together = mix(both, {"a": 3.0, "b": 1.0})
    assert together.losses == {"loss_a": 0.75, "loss_b": 0.25}
    share = np.linspace(0, 1, 1001)
    line = np.stack([share, 1 - share])
    assert together.weights[0] == pytest.approx(share[np.argmin(3 * code(line) + prose(line))], abs=0.02)


@pytest.mark.slow
def test_runs_of_several_horizons_give_the_best_mixture_of_a_longer_one():
    form = mixture_law(("code", "prose"), (Term("power", "D"), Term("power", "D")))
    at = (1e6 / 1e10) ** 0.5
    law = form(1.5, 0.5, 0.3 * at, 1.2 * at, 0.5, 1.5 * at, 0.3 * at)
    code = np.repeat(np.linspace(0.05, 0.95, 13), 2)
    tokens = np.tile([5e5, 2e6], 13)
    h = np.stack([code, 1 - code])
    table = pd.DataFrame({"weight_code": code, "weight_prose": 1 - code, "tokens": tokens, "n_params": 1e6})
    table = table.assign(loss=law(tokens, h))
    found = mix(table, tokens=6e6)
    line = np.stack([np.linspace(0, 1, 2001), 1 - np.linspace(0, 1, 2001)])
    assert found.weights[0] == pytest.approx(line[0, np.argmin(law(6e6, line))], abs=0.03)
    assert float(law(6e6, found.weights)) == pytest.approx(law(6e6, line).min(), rel=1e-3)
    assert "outside_data" in {f.code for f in found.findings}


def test_columns_of_a_run_table_are_no_domains():
    known = mixtures(TABLE.assign(weight_bits=32, weight_decay=0.1), ["loss"])
    assert known.domains == ("code", "prose")


def test_shares_within_caps_and_a_corner():
    caps = np.array([0.3, 1.0, 0.5])
    assert within(np.array([0.8, 0.1, 0.1]), caps) == pytest.approx([0.3, 0.35, 0.35])
    corner = best_mixture(lambda h: 1.0 + h[1], np.full((3, 1), 1 / 3), np.ones(3))
    assert corner[1] == pytest.approx(0.0)
    assert corner.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "requested", "error", "says"),
    [
        ({"weight_code": 0.7, "weight_prose": 0.6}, {}, TableError, "add up to 1.3 and not to 1"),
        ({"weight_code": 0.5, "weight_prose": 0.5}, {}, NoMixtureError, "every run has the same mixture"),
        ({}, {"losses": "pile"}, TableError, "--loss pile: no such column.*losses there are: loss"),
        ({}, {"losses": {"loss": -1.0}}, ValueError, "--loss loss=-1: a weight must be positive"),
        ({}, {"at": {"n_param": 1e9}}, ValueError, "not one of n_params, tokens; did you mean 'n_params'"),
        ({}, {"at": {"tokens": 1e9}, "tokens": 1e9}, ValueError, "keep one of them"),
        ({}, {"cap": 4}, ValueError, "how many tokens does the run take"),
        ({}, {"cap": 4, "tokens": 1e9}, ValueError, "unique tokens of no domain are known"),
        (
            {},
            {"cap": 4, "tokens": 1e9, "unique": {"cod": 1e9}},
            ValueError,
            "--unique cod=1e.09: not one of code, prose",
        ),
        ({}, {"cap": 1, "tokens": 1e9, "unique": {"code": 1e8, "prose": 2e8}}, NoMixtureError, "together hold 3e.08"),
        ({}, {"unique": {"code": 1e9}}, ValueError, "--unique code: nothing follows from it"),
        ({}, {"natural": {"code": 0.9}}, ValueError, "--natural: the weights add up to 0.9"),
        ({}, {"level": 2.0}, ValueError, "it must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_answered_is_named(change, requested, error, says):
    with pytest.raises(error, match=says):
        mix(TABLE.assign(**change), **requested)


WEIGHTS = ["weight_code", "weight_prose"]


def test_a_table_without_weights_and_weights_of_another_sum():
    with pytest.raises(NoMixtureError, match="1 columns weight_NAME, and a mixture has two or more"):
        mix(TABLE.drop(columns="weight_code"))
    doubled = TABLE.assign(weight_code=2 * TABLE["weight_code"], weight_prose=2 * TABLE["weight_prose"])
    assert any(
        "--normalise: the weights of 60 of 60 rows" in note
        for note in mixtures(doubled, ["loss"], normalise=True).notes
    )
    percent = TABLE.assign(**{name: (100 * TABLE[name]).map("{:.4f}%".format) for name in WEIGHTS})
    normalised = mixtures(percent, ["loss"], normalise=True).frame
    np.testing.assert_allclose(normalised[WEIGHTS], TABLE[WEIGHTS], atol=1e-5)
    with pytest.raises(TableError, match=r"no share between 0 and 1 in .*divide each row by its sum, as isoflop mix"):
        mixtures(doubled, ["loss"])
    rounded = TABLE.round({"weight_code": 2})
    assert any("as rounding leaves them" in note for note in mixtures(rounded, ["loss"]).notes)


@pytest.mark.slow
def test_sixty_four_public_runs_rank_mixtures_at_sixty_times_the_size(public_data):
    folder = public_data / "regmix"
    train = mixtures(pd.read_csv(folder / "train_1m.csv").head(64), ["pile_cc"])
    test = mixtures(pd.read_csv(folder / "test_60m.csv"), ["pile_cc"])
    predicted = surrogate(train.of("loss_pile_cc"), train.domains).loss(test.shares)
    true = test.frame["loss_pile_cc"].to_numpy()
    assert spearmanr(predicted, true)[0] > 0.93
    assert (true < true[np.argmin(predicted)]).sum() < 3


def test_a_domain_that_no_run_contains_is_left_out_and_said_to_be():
    table = TABLE
    found, more = mix(table), mix(table.assign(weight_wiki=0.0))
    assert more.domains == found.domains
    assert more.weights == pytest.approx(found.weights)
    assert "wiki is left out: no run contains any of it" in more.notes


def test_a_share_that_no_run_changes_is_refused_and_the_remedy_works():
    table = TABLE
    fixed = table.assign(weight_code=table["weight_code"] * 0.9, weight_prose=table["weight_prose"] * 0.9)
    with pytest.raises(NoMixtureError, match=r"weight_wiki is 0\.1 in every run, .* and normalise the others"):
        mix(fixed.assign(weight_wiki=0.1))
    assert mix(fixed, normalise=True).weights == pytest.approx(mix(table).weights)


def noisy_study(seed: int = 4) -> pd.DataFrame:
    """Twenty-four mixtures of three domains, of a loss that no law of the family has."""
    rng = np.random.default_rng(seed)
    a, b, c = h = rng.dirichlet(np.ones(3), 24).T
    loss = 2.2 + 0.5 * np.exp(-3 * a - 0.8 * b) + 0.4 * np.exp(-2.5 * b - 0.6 * c) + 0.3 * np.exp(-2 * c)
    table = pd.DataFrame(h.T, columns=["weight_a", "weight_b", "weight_c"])
    return table.assign(loss=loss * np.exp(rng.normal(0, 0.003, 24)))


@pytest.fixture(scope="module")
def plain_answer():
    return mix(noisy_study(), proxies=0)


@pytest.mark.parametrize(
    ("factor", "names", "order"),
    [(1.7, "abc", 0), (1 / np.log(2), "abc", 0), (1.0, "zyx", 0), (1.0, "bca", 0), (1.0, "abc", 1)],
)
def test_units_names_and_the_order_of_rows_are_no_part_of_the_answer(plain_answer, factor, names, order):
    """Losses in bits gave other weights, and names of domains another noise, gain and interval."""
    table = noisy_study()
    changed = table.rename(columns={f"weight_{old}": f"weight_{new}" for old, new in zip("abc", names, strict=True)})
    changed = changed.assign(loss=factor * table["loss"]).sample(frac=1, random_state=order)
    found, expected = mix(changed if order else changed.sort_index(), proxies=0), plain_answer
    at = [found.domains.index(name) for name in names]
    assert found.weights[at] == pytest.approx(expected.weights, abs=2e-3)
    assert found.intervals[at] == pytest.approx(expected.intervals, abs=5e-3)
    assert found.rise == pytest.approx(expected.rise, rel=1e-3)
    assert found.gain == pytest.approx(factor * expected.gain, rel=2e-2)
    assert found.gain_interval == pytest.approx([factor * end for end in expected.gain_interval], rel=2e-2, abs=1e-3)


def test_the_gain_is_the_middle_of_what_its_interval_is_of(plain_answer):
    """It was that of the likeliest law at the mixture that it likes best, and often lay at the upper end."""
    middle = mix(noisy_study(), proxies=0, level=1e-6).gain_interval
    assert middle[0] <= plain_answer.gain <= middle[1] + 1e-9
    lo, hi = plain_answer.gain_interval
    assert lo < plain_answer.gain < hi
    assert plain_answer.natural_loss - plain_answer.loss == pytest.approx(plain_answer.gain)
