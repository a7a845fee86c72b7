"""Critical batches: from exact hyperbolas, from published steps to a loss, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.prediction.batch.critical_batch import BatchError, critical_batch
from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.read import read_table

SIZES = {1e8: (2000.0, 4e5), 4e8: (3000.0, 9e5), 1.6e9: (4500.0, 2e6)}
BATCHES = np.array([3e4, 1e5, 3e5, 1e6, 3e6, 1e7])


def steps_table(noise: float = 0.0, **columns: object) -> pd.DataFrame:
    """Steps to a loss of three sizes at six batches, along hyperbolas."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "n_params": n,
            "batch_tokens": b,
            "steps_to_target": fewest * (1 + critical / b) * np.exp(rng.normal(0, noise)),
        }
        for n, (fewest, critical) in SIZES.items()
        for b in BATCHES
    ]
    return pd.DataFrame(rows).assign(**columns)


def test_exact_hyperbolas_are_found_with_the_exponent_of_their_growth():
    found = critical_batch(steps_table())
    assert [s.critical for s in found.sizes] == pytest.approx([c for _, c in SIZES.values()], rel=1e-6)
    samples = np.log([fewest * critical for fewest, critical in SIZES.values()])
    slope = np.polyfit(samples, np.log([c for _, c in SIZES.values()]), 1)[0]
    assert found.exponent.p == pytest.approx(slope, rel=1e-5)
    assert found.rms < 1e-8
    # At 20% overhead X = 1.2 X(smallest): B = .2 B_crit + 1.2 x the smallest, between neighbours
    assert found.sizes[0].overhead == pytest.approx(0.2 * 4e5 + 1.2 * 3e4, rel=0.05)


@pytest.mark.slow
def test_intervals_hold_the_truth_under_noise_and_sequences_become_tokens():
    table = steps_table(noise=0.03)
    found = critical_batch(table)
    inside = [lo < s.critical < hi for s in found.sizes for lo, hi in [s.interval]]
    assert all(inside)
    assert all(lo < c < hi for (lo, hi), (_, c) in zip([s.interval for s in found.sizes], SIZES.values(), strict=True))
    sequences = table.assign(batch_sequences=table["batch_tokens"] / 512, context_length=512).drop(
        columns="batch_tokens"
    )
    again = critical_batch(sequences)
    assert again.to_dict()["critical_batch"] == pytest.approx(found.to_dict()["critical_batch"])
    assert again.to_dict()["critical_batch_sequences"][0] == pytest.approx(found.sizes[0].critical / 512)
    alone = critical_batch(sequences.drop(columns="context_length")).to_dict()
    assert alone["critical_batch"] == [None] * 3
    assert alone["critical_batch_sequences"] == pytest.approx(again.to_dict()["critical_batch_sequences"])


def test_a_deadline_is_met_by_the_fewest_devices():
    found = critical_batch(steps_table(), devices=12, tokens_per_second=1e5, deadline=3600 * 6.0)
    frame = found.schedule
    assert frame["devices"].tolist() == [1, 2, 4, 8, 12]
    fewest, critical = SIZES[1.6e9]
    batch = 3e4 * frame["devices"]
    assert np.allclose(frame["steps"], fewest * (1 + critical / batch))
    assert np.allclose(frame["hours"], frame["steps"] * 3e4 / 1e5 / 3600)
    assert np.allclose(frame["waste"], batch / critical)
    assert found.meets == frame.loc[frame["hours"] <= 6, "devices"].min()
    assert "meets the deadline" in str(found)
    assert critical_batch(steps_table(), devices=2, tokens_per_second=1e3, deadline=60.0).meets is None


@pytest.mark.parametrize(
    ("table", "error", "says"),
    [
        (steps_table().drop(columns="steps_to_target"), TableError, "no column 'steps_to_target'"),
        (steps_table().drop(columns="batch_tokens"), TableError, "no column 'batch_tokens' or .*=COLUMN .columns: "),
        (steps_table().drop(columns="n_params"), TableError, "no column 'n_params'"),
        (steps_table(steps_to_target=0.0), TableError, "steps_to_target is zero or negative"),
        (steps_table(steps_to_target="many"), TableError, "steps_to_target is not a number in 18 of 18 rows"),
        (steps_table().query("batch_tokens < 4e5"), BatchError, "3 batches, and at least 4 are needed"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_line(table, error, says):
    with pytest.raises(error, match=says) as raised:
        critical_batch(table)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_half_a_schedule_is_refused_and_unfinished_rows_are_counted():
    with pytest.raises(ValueError, match="--devices and --tokens-per-second"):
        critical_batch(steps_table(), deadline=60.0)
    table = steps_table()
    table.loc[4, "steps_to_target"] = np.nan
    found = critical_batch(table)
    assert found.sizes[0].batches == 5
    assert any("1 of 18 rows are left out: steps_to_target is empty in row 5" in note for note in found.notes)


def test_a_critical_batch_far_beyond_the_batches_is_a_bound():
    table = steps_table()
    table["steps_to_target"] = 2000 * (1 + 1e9 / table["batch_tokens"])
    assert {f.code for f in critical_batch(table).findings} == {"unidentified", "narrow_span"}


def batches_of(exponent: float, span: float, noise: float, seed: int) -> pd.DataFrame:
    """Steps of five sizes at 512 to 32768 tokens; the fewest samples rise by `span`, the critical batch by a power."""
    rng = np.random.default_rng(seed)
    batch = np.tile(512 * 4.0 ** np.arange(4), 5)
    samples = np.repeat(1e6 * span ** np.linspace(0, 1, 5), 4)
    critical = 6000 * (samples / 1e6) ** exponent
    steps = samples / critical * (1 + critical / batch) * np.exp(rng.normal(0, noise, 20))
    sizes = np.repeat(1e5 * 2.0 ** np.arange(5), 4)
    return pd.DataFrame({"n_params": sizes, "batch_tokens": batch, "steps_to_target": steps})


@pytest.mark.slow
def test_batches_that_do_not_grow_give_no_exponent_out_of_the_noise_that_they_share_with_the_samples():
    """By least squares of B in D more than half of such intervals exclude 0."""
    found = [critical_batch(batches_of(0.0, 1.0, 0.04, seed)) for seed in range(5)]
    for f in found:
        assert np.isnan([f.exponent.p, f.overhead_exponent.p]).all()
        assert f.to_dict()["exponent"]["hyperbola"] == {"p": None, "interval": [None, None]}
        assert "narrow_span" in [one.code for one in f.findings]
        assert "B ~ D" not in str(f)
    grown = [critical_batch(batches_of(0.5, 100.0, 0.04, seed)) for seed in range(5)]
    assert all(f.exponent.interval[0] < 0.5 < f.exponent.interval[1] < 1 for f in grown)
    assert not any("narrow_span" in [one.code for one in f.findings] for f in grown)


def test_an_interval_of_a_factor_100_or_more_is_said():
    noise = np.exp(np.random.default_rng(1).normal(0, 0.15, 18))
    table = steps_table().query("batch_tokens > 1e5")
    table["steps_to_target"] *= noise[: len(table)]
    found = critical_batch(table)
    vague = [s.n_params for s in found.sizes if s.interval[1] > 100 * s.interval[0]]
    assert vague
    said = [f.message for f in found.findings if "is not known to a factor 100" in f.message]
    assert [f"{n:.4g} parameters" in text for n, text in zip(vague, said, strict=True)] == [True] * len(vague)


def test_published_steps_to_a_loss(public_data):
    """Zhang et al. 2024: 85M to 1.2B parameters; their exponent of 20% overhead is .47."""
    path = public_data / "critical_batch" / "steps_to_target.csv"
    found = critical_batch(read_table(path, outcome="steps_to_target"))
    answer = found.to_dict()
    assert answer["critical_batch_sequences"][0] == pytest.approx(2191, rel=0.03)
    assert answer["critical_batch_sequences"][-1] == pytest.approx(11131, rel=0.03)
    assert found.rms <= 0.055
    assert found.exponent.p == pytest.approx(0.62, abs=0.02)
    assert found.overhead_exponent.p == pytest.approx(0.47, abs=0.005)


def losses_of_sizes(sizes: int, losses: int, seed: int, noise: float = 0.05) -> pd.DataFrame:
    """Steps to several losses of each size, read off the same five runs; the critical batch does not grow."""
    rng, rows = np.random.default_rng(seed), []
    for s in range(sizes):
        batch, error = 1e3 * 4.0 ** np.arange(5), noise * rng.normal(size=5)
        for k in range(losses):
            steps = 1e7 * 6.0**s * 2.0**k / 3e4 * (1 + 3e4 / batch) * np.exp(error)
            rows += [(1e6 * 4.0**s, 3.5 - 0.1 * k - 0.3 * s, b, n) for b, n in zip(batch, steps, strict=True)]
    return pd.DataFrame(rows, columns=["n_params", "target_loss", "batch_tokens", "steps_to_target"])


def test_losses_of_one_size_count_once():
    """As points of their own, 90% intervals of the exponent held the truth in 73 of 100 studies."""
    found = [critical_batch(losses_of_sizes(3, 3, seed)).exponent for seed in range(12)]
    assert sum(one.interval[0] <= 0 <= one.interval[1] for one in found) >= 11
    for few in (1, 2):
        made = critical_batch(losses_of_sizes(few, 4, 0))
        assert np.isnan(made.exponent.interval).all()
        (said,) = [f for f in made.findings if f.code == "few_sizes"]
        assert f"{4 * few} critical batches of {few} sizes count as {few}" in said.message
    assert not [f for f in critical_batch(losses_of_sizes(3, 3, 0)).findings if f.code == "few_sizes"]


def test_seeds_are_no_further_batches():
    table = pd.concat([steps_table(0.02), steps_table(0.03)])
    assert [s.batches for s in critical_batch(table).sizes] == [len(BATCHES)] * len(SIZES)


@pytest.mark.parametrize(("unit", "column"), [("tokens", "batch_tokens"), ("sequences", "batch_sequences")])
def test_the_data_of_the_exponent_are_in_the_unit_of_the_batches(unit, column):
    found = critical_batch(steps_table().rename(columns={"batch_tokens": column}))
    assert f"by the hyperbola, D the fewest {unit}" in str(found)
    assert found.to_dict()["conventions"] == {"batch": unit, "exponent": f"in the fewest {unit}"}
