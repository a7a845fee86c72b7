"""A forecast and the answers beside it say one thing."""

import re
from dataclasses import replace

import numpy as np
import pytest

from isoflop.scaling.laws.axes.data_constrained import Repeats
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.cost import SIX_ND
from isoflop.scaling.prediction.forecast import LEVELS, Target, forecast_losses
from isoflop.scaling.prediction.predict import predict, predict_from_law
from isoflop.scaling.prediction.spending.serving import repeated
from isoflop.scaling.selection.averaging import average
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.runs import read_runs
from tests.support.root import RESULTS

pytestmark = pytest.mark.usefixtures("kept_searches")

LAWS = ("chinchilla", "chinchilla-tied", "chinchilla-no-floor", "kaplan")
KAPPA = Chinchilla(1.1, 3.0, 20.0, 0.4, 0.35, 0.7)


@pytest.fixture(scope="module")
def quick():
    return read_runs(RESULTS / "quick.parquet")


@pytest.fixture(scope="module")
def far(quick):
    """Forecasts by each law alone and by all, at 3 to 1,000 times the largest compute."""
    largest = points(quick).frame["flops"].max()
    targets = [Target(times * largest) for times in (3.0, 30.0, 1000.0)]
    return [found for laws in (*([law] for law in LAWS), LAWS) for found in forecast_losses(quick, targets, laws)]


@pytest.mark.slow
def test_the_best_size_lies_inside_its_interval(far):
    """It was of the law preferred by held-out runs alone, the interval of all laws with their breaks."""
    for found in far:
        lo, hi = found.n_interval
        assert lo < found.n_opt < hi
        assert found.n_opt == pytest.approx(float(np.exp(found.n_average.quantile(0.5)[0])))
        assert found.intervals[max(LEVELS)][0] < found.loss < found.intervals[max(LEVELS)][1]


@pytest.mark.slow
def test_the_row_of_a_law_alone_says_what_the_answer_says(far):
    for found in far:
        assert ((found.laws["breaks"] >= 0) & (found.laws["breaks"] < 1)).all()
        if len(found.laws) == 1 and not found.discrepancy:
            assert found.laws["broken"].iloc[0] == pytest.approx(found.loss, rel=1e-3)
        straight = average([found.members[law].members[0] for law in found.laws.index], found.laws["weight"])
        assert found.laws["loss"].tolist() == pytest.approx([float(np.exp(f.mean[0])) for f in straight.members]) or (
            len(straight.members) < len(found.laws)
        )


@pytest.mark.slow
@pytest.mark.slow
def test_a_small_loss_keeps_its_digits_in_every_line(far):
    """Losses of another unit, such as an error squared."""
    far = far[-1]
    share = 6e-5 / far.loss
    laws = far.laws.assign(loss=far.laws["loss"] * share, broken=far.laws["broken"] * share)
    intervals = {level: (lo * share, hi * share) for level, (lo, hi) in far.intervals.items()}
    text = str(replace(far, loss=6e-5, intervals=intervals, laws=laws))
    assert len(re.findall(r"\b\d\.\d{3}e-05\b", text)) == 1 + 2 * len(intervals) + 2 * len(laws)


def test_allocations_name_their_law_and_what_lies_beyond_the_data(quick):
    found = predict(quick, flops=1e13, laws="chinchilla-kappa", inference_tokens=1e12)
    assert "(chinchilla-kappa without a break)" in found.servings[0].note
    (ratio, reach) = [note for note in found.loss.notes if note.startswith("--inference-tokens: ")]
    assert "tokens per parameter, and the runs have 1.67 to 628" in ratio
    assert "times the largest compute" in reach
    near = predict(quick, flops=2e12, laws="chinchilla-kappa", inference_tokens=1e6)
    assert not any(note.startswith("--inference") for note in near.loss.notes)


@pytest.mark.slow
def test_unique_tokens_are_allocated_by_every_law_of_chinchillas_form(quick):
    found = predict(quick, flops=1e13, laws="chinchilla-kappa", unique_tokens=2e6)
    assert not found.failed
    (serving,) = found.servings
    assert serving.loss == pytest.approx(found.loss.laws.loc["chinchilla-kappa", "loss"], rel=1e-6)
    assert serving.epochs > 1
    both = predict(quick, flops=1e13, laws="chinchilla-kappa", unique_tokens=2e6, inference_tokens=1e12, token_cap=1e9)
    assert set(both.failed) == {"--inference-tokens", "--token-cap"}
    for reason in both.failed.values():
        assert "counts every token as new" in reason
        assert "ask for one of the two" in reason


@pytest.mark.parametrize("unique", [1e6, 1e7, 1e8, 1e12])
def test_the_best_run_on_few_unique_tokens_is_the_lowest_of_all_sizes(unique):
    found = repeated(KAPPA, 1e15, unique)
    sizes = found.n_params * np.geomspace(0.3, 3.0, 101)
    losses = Repeats(KAPPA, unique)(sizes, SIX_ND.tokens(1e15, sizes))
    assert losses.min() == pytest.approx(found.loss, rel=1e-5)
    assert losses.min() >= found.loss * (1 - 1e-6)


@pytest.mark.parametrize("name", ["besiroglu-2024", "hoffmann-2022", "deepseek-2024"])
def test_a_published_law_without_repeats_refuses_unique_tokens(name):
    with pytest.raises(ValueError, match="--unique-tokens"):
        predict_from_law(name, flops=1e20, unique_tokens=1e9)
