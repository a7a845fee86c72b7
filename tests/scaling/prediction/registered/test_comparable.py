"""A forecast is scored by runs of its own kind, in its own unit, at its own place."""

import json

import numpy as np
import pandas as pd
import pytest

from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.prediction.forecast import Target, forecast_loss
from isoflop.scaling.prediction.registered.ledger import register_in, score_ledger
from isoflop.scaling.prediction.registered.reading import Reading
from isoflop.scaling.prediction.registered.register import RegistrationError, register
from isoflop.scaling.prediction.registered.score import score

pytestmark = pytest.mark.usefixtures("kept_searches")

LAW = Chinchilla(E=1.0, A=406.0, B=411.0, alpha=0.34, beta=0.28)
NOISE = 0.003
BUDGETS, TARGET = (1e15, 4e15, 1.6e16, 6.4e16), 2.56e17
READING = Reading(where="arm == 'base'", best_of=("peak_learning_rate",))


def runs(budgets, seed: int, tokens: float = 1.0) -> pd.DataFrame:
    """Two arms and two learning rates of five sizes a budget; the second arm is 7% better, the second rate 5% worse."""
    rng, rows = np.random.default_rng(seed), []
    for flops in budgets:
        for n in 0.1 * flops**0.5 * np.exp([-1.2, -0.6, 0.0, 0.6, 1.2]):
            d = tokens * flops / 6 / n
            for arm, better in (("base", 1.0), ("new", 0.93)):
                for rate, worse in ((1e-3, 1.0), (4e-3, 1.05)):
                    loss = float(LAW(n, d)) * better * worse * np.exp(NOISE * rng.normal())
                    name = f"{arm}-{flops:g}-{n:.3g}-{rate}"
                    rows.append((name, arm, rate, n, d, loss))
    return pd.DataFrame(rows, columns=["run_id", "arm", "peak_learning_rate", "n_params", "tokens", "loss"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Registrations of the best run of TARGET and of one of given size, of the best rates of the arm base."""
    made = tmp_path_factory.mktemp("registered")
    runs(BUDGETS, 5).to_csv(made / "small.csv", index=False)
    table = READING.again(made / "small.csv", None)
    n = 0.1 * TARGET**0.5
    for name, target in (("best", Target(TARGET)), ("given", Target(TARGET, n, TARGET / 6 / n))):
        forecast = forecast_loss(table, target, ("chinchilla",))
        register(forecast, made / f"{name}.json", table=made / "small.csv", reading=READING)
        register_in(made / f"{name}.jsonl", forecast, table=made / "small.csv", reading=READING)
    return made


@pytest.mark.parametrize("name", ["best", "given"])
def test_runs_of_another_arm_or_rate_never_score(folder, name):
    big = runs([TARGET], 6)
    own = big[(big["arm"] == "base") & (big["peak_learning_rate"] == 1e-3)]
    found, alone = score(folder / f"{name}.json", big), score(folder / f"{name}.json", own)
    assert found.measured == alone.measured == pytest.approx(float(LAW.optimal(TARGET).loss), rel=0.01)
    assert set(found.runs) <= set(own["run_id"])
    assert found.left_out == {
        "whose arm is new, and base where the forecast was fitted": 10,
        "that are not the best peak_learning_rate of their size and tokens": 5,
    }
    assert not alone.left_out
    assert (found.notes, found.findings) == ((), ())


def test_a_ledger_keeps_the_score_of_the_right_runs(folder, tmp_path):
    for name in ("small.csv", "best.jsonl"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (entry,) = score_ledger(tmp_path / "best.jsonl", runs([TARGET], 6)).entries
    assert all(run.startswith("base") and run.endswith("-0.001") for run in entry.score["runs"])
    assert abs(entry.score["z"]) < 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arm": "other"}, r"20 runs whose arm is other, and base where"),
        ({"arm": np.nan, "peak_learning_rate": 1e-3}, ""),
        ({"arm": "base", "dtype": "bf16", "peak_learning_rate": 1e-3}, ""),
    ],
)
def test_what_the_table_does_not_tell_is_taken_and_what_it_tells_otherwise_refused(folder, change, message):
    big = runs([TARGET], 6)
    big = big[(big["arm"] == "base") & (big["peak_learning_rate"] == 1e-3)] if not message else big
    changed = big.assign(**change)
    if message:
        with pytest.raises(RegistrationError, match=message):
            score(folder / "best.json", changed)
    else:
        assert score(folder / "best.json", changed).measured == score(folder / "best.json", big).measured


def test_a_setting_that_a_condition_named_and_the_table_lacks_is_noted(folder, tmp_path):
    table = runs(BUDGETS, 5).rename(columns={"arm": "optim"})
    table.to_csv(tmp_path / "small.csv", index=False)
    reading = Reading(where="optim == 'base'", best_of=("peak_learning_rate",))
    forecast = forecast_loss(reading.again(tmp_path / "small.csv", None), Target(TARGET), ("chinchilla",))
    register(forecast, tmp_path / "claim.json", table=tmp_path / "small.csv", reading=reading)
    big = runs([TARGET], 6).rename(columns={"arm": "optim"})
    found = score(tmp_path / "claim.json", big)
    assert found.left_out["whose optim is new, and base where the forecast was fitted"] == 10
    own = big[big["optim"] == "base"].drop(columns=["optim", "peak_learning_rate"])
    noted = score(tmp_path / "claim.json", own).notes
    assert "the table has no column optim, which the forecast's runs were chosen by" in noted
    assert "the table has no column peak_learning_rate, the best of which the forecast is of" in noted


def test_settings_that_all_fitted_runs_share_are_named_where_those_that_score_differ(tmp_path):
    table = runs(BUDGETS, 5).query("arm == 'base' and peak_learning_rate == 1e-3").assign(batch_tokens=2**16)
    table.to_csv(tmp_path / "small.csv", index=False)
    register(forecast_loss(table, Target(TARGET), ("chinchilla",)), tmp_path / "c.json", table=tmp_path / "small.csv")
    big = runs([TARGET], 6).query("arm == 'base'").assign(batch_tokens=2**18)
    found = score(tmp_path / "c.json", big)
    assert "batch_tokens 262144 (fitted: 65536)" in " ".join(found.notes)
    assert "peak_learning_rate 0.001, 0.004 (fitted: 0.001)" in " ".join(found.notes)
    assert [finding.code for finding in found.findings] == ["pooled_settings"]
    assert "pooled_settings" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["findings"][0]["code"] == "pooled_settings"


@pytest.mark.parametrize("unit", ["nats/byte", "nats/word"])
def test_a_loss_in_another_unit_is_refused(folder, unit):
    other = runs([TARGET], 6)
    other.attrs = {"loss_unit": unit, "source": "big.csv"}
    with pytest.raises(RegistrationError, match=rf"best.json: .* loss in nats/token, and that of big.csv is in {unit}"):
        score(folder / "best.json", other)


@pytest.mark.parametrize("name", ["best", "given"])
@pytest.mark.parametrize("tokens", [0.96, 1.0, 1.04])
def test_runs_near_the_target_are_carried_to_it(folder, name, tokens):
    exact = runs([TARGET], 6, tokens).query("arm == 'base' and peak_learning_rate == 1e-3")
    exact = exact.assign(loss=LAW(exact["n_params"].to_numpy(), exact["tokens"].to_numpy()))
    found = score(folder / f"{name}.json", exact)
    best, n = LAW.optimal(TARGET), 0.1 * TARGET**0.5
    truth = best.loss if name == "best" else LAW(n, TARGET / 6 / n)
    assert found.measured == pytest.approx(float(truth), rel=5e-4)
    assert bool(found.notes) == (tokens != 1.0)
    if name == "best":
        assert found.n_measured == pytest.approx(float(best.N), rel=0.015)


def test_runs_of_several_budgets_near_the_target_are_one_profile(folder):
    mixed = pd.concat([runs([TARGET * (1 + 0.045 * k)], 6, 1.0).query("arm == 'base'") for k in (-2, 0, 2)])
    mixed = mixed.assign(loss=LAW(mixed["n_params"].to_numpy(), mixed["tokens"].to_numpy()), peak_learning_rate=1e-3)
    mixed = mixed.assign(run_id=[f"r{k}" for k in range(len(mixed))])
    found = score(folder / "best.json", mixed)
    assert found.how == f"minimum of the isoFLOP profile of {len(mixed)} runs"
    assert found.measured == pytest.approx(float(LAW.optimal(TARGET).loss), rel=1e-3)


def test_a_registration_without_slopes_says_what_it_cannot_do(folder, tmp_path):
    from isoflop.scaling.prediction.registered.register import _seal

    (tmp_path / "small.csv").write_bytes((folder / "small.csv").read_bytes())
    value = json.loads((folder / "best.json").read_text())
    del value["slopes"]
    (tmp_path / "old.json").write_text(json.dumps(value | {"seal": _seal(value)}))
    near = runs([TARGET], 6, 1.04).query("arm == 'base' and peak_learning_rate == 1e-3")
    found = score(tmp_path / "old.json", near)
    assert found.notes == (
        "flops of the runs lie up to +4.0% from the target, and the registration holds no slopes that would tell their "
        "losses at it",
    )
