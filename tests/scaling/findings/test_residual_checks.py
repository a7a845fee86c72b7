"""Which runs far off a law are warned of."""

import numpy as np
import pytest
from scipy.stats import t as student

from isoflop.scaling.findings.diagnose import diagnose
from isoflop.scaling.findings.residual_checks import FAR, SCALES, TAIL, TAILS, _tail_probabilities, beyond_tails
from isoflop.scaling.fitting.fit import fit
from isoflop.scaling.fitting.search.search import robust_scale
from isoflop.scaling.fitting.uncertainty import jackknife
from tests.support.fits.simulated import BESIROGLU, isoflop_table

pytestmark = pytest.mark.usefixtures("kept_searches")

RUNS, FREE = 43, 5  # rows, and parameters of a law whose residuals these could be


def warned(sizes: np.ndarray) -> np.ndarray:
    return np.array([beyond_tails(one, FAR * robust_scale(one, FREE)).sum() for one in sizes])


def test_the_probability_is_the_mean_over_tails_and_scales_of_draws_that_lie_as_far_out():
    """By plain loops over scipy's t, for one, two and three runs far off."""
    size = np.sort(np.abs(np.random.default_rng(3).standard_t(4, 30)))[::-1]
    for count in (1, 2, 3):
        weight, lying = [], []
        for freedom in TAILS:
            for step in SCALES:
                scale = np.median(size) / student.ppf(0.75, freedom) * np.exp(1.2 * step / np.sqrt(30))
                drawn = student(freedom, scale=scale)
                beyond = drawn.sf(size[count])
                weight.append(np.sum(drawn.logpdf(size[count:])) + count * np.log(beyond))
                lying.append((drawn.sf(size[count - 1]) / beyond) ** count)
        expected = np.average(lying, weights=np.exp(np.array(weight) - max(weight)))
        assert _tail_probabilities(size, np.array([count]))[0] == pytest.approx(expected, rel=1e-6)


def test_all_counts_at_once_and_any_unit_say_the_same():
    size = np.sort(np.abs(np.random.default_rng(3).standard_t(3, 60)))[::-1]
    together = _tail_probabilities(size, np.array([4, 3, 2, 1]))
    alone = [_tail_probabilities(size, np.array([count]))[0] for count in (4, 3, 2, 1)]
    assert together == pytest.approx(alone, rel=1e-12)
    assert _tail_probabilities(1e-3 * size, np.array([4, 3, 2, 1])) == pytest.approx(together, rel=1e-9)


def test_the_first_run_far_off_has_the_level_and_each_further_one_half_of_it():
    """Moved out until their probability is just under and just over what is asked."""
    rest = np.linspace(0.05, 2.0, 40)
    for count in (1, 2, 4):
        for factor in (0.9, 1.1):
            low, high = 2.01, 100.0
            for _ in range(60):
                far = np.sqrt(low * high)
                found = _tail_probabilities(np.append(np.full(count, far), rest[::-1]), np.array([count]))[0]
                low, high = (far, high) if found > factor * TAIL / 2 ** (count - 1) else (low, far)
            size = np.append(rest, np.full(count, far))
            assert beyond_tails(size, 1.0)[40:].all() == (factor < 1)
            assert not beyond_tails(size, 1.01 * far).any()


def test_of_runs_most_of_which_the_law_meets_none_is_far():
    """Residuals of nothing tell no tails."""
    assert not beyond_tails(np.r_[np.zeros(30), 1.0, 5.0], 0.0).any()
    assert not beyond_tails(np.array([3.0]), 0.0).any()


@pytest.mark.parametrize(("runs", "far"), [(9, 1), (19, 1), (20, 2), (29, 2), (30, 3), (2000, 200)])
def test_a_tenth_of_the_runs_may_be_far_or_one(runs, far):
    """Those beyond are seen among any number of runs, and one more than a tenth hides them all."""
    rest = np.random.default_rng(0).uniform(0.5, 1.0, runs)
    for count in (far, far + 1):
        size = np.r_[np.full(count, 1e6), rest[count:]]
        assert beyond_tails(size, 2.0).sum() == (far if count == far else 0)


@pytest.mark.parametrize(
    ("tails", "runs", "least", "most"),
    [("normal", 43, 0.0, 0.002), ("t(3)", 43, 0.005, 0.04), ("t(5)", 43, 0.001, 0.03), ("t(3)", 200, 0.005, 0.06)],
)
def test_noise_of_any_tails_is_rarely_warned_of(tails, runs, least, most):
    """Of 1,000 studies .000, .019, .002; of 300 with 200 runs .017."""
    rng = np.random.default_rng(0)
    shape = (1000 if runs == RUNS else 300, runs)
    drawn = rng.normal(size=shape) if tails == "normal" else rng.standard_t(int(tails[2]), shape)
    assert least <= np.mean(warned(np.abs(drawn)) > 0) <= most


@pytest.mark.parametrize(
    ("off", "runs", "least"), [(7.0, 1, 0.25), (10.0, 1, 0.6), (20.0, 1, 0.95), (7.0, 2, 0.6), (10.0, 4, 0.97)]
)
def test_runs_far_off_normal_noise_are_warned_of_and_no_others(off, runs, least):
    """Of 300 studies .29, .66, .97, .71, 1.0."""
    drawn = np.abs(np.random.default_rng(0).normal(size=(300, RUNS)))
    drawn[:, :runs] = off
    found = warned(drawn)
    assert np.mean(found == runs) >= least
    assert np.mean(found > runs) <= 0.01


def test_an_outlier_lies_above_the_law_by_a_share():
    table = isoflop_table(BESIROGLU, seed=0)
    table.loc[20, "loss"] *= 1.5
    fitted = fit("chinchilla", table)
    (said,) = [f.message for f in diagnose(fitted, jackknife(fitted), table) if f.code == "outliers"]
    assert f"row 21 ({np.expm1(fitted.residuals[20]):+.1%})" in said
    assert fitted.residuals[20] < 0.45 < np.expm1(fitted.residuals[20])
