"""Settings pooled in one law are named; seeds and replicates are not."""

import re

import numpy as np
import pandas as pd
import pytest

import isoflop
from isoflop.scaling.design.simulate import simulate_points
from isoflop.scaling.findings.diagnose import diagnose
from isoflop.scaling.findings.settings import setting_findings
from isoflop.scaling.fitting.fit import fit
from isoflop.scaling.laws.chinchilla import Chinchilla
from isoflop.scaling.laws.mixtures.means import SHARES
from isoflop.scaling.table.conventions import points
from isoflop.scaling.table.where import matching_rows

pytestmark = pytest.mark.usefixtures("kept_searches")

LAW = Chinchilla(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)
BUDGETS = np.geomspace(1e18, 1e21, 5)
N = np.array([LAW.optimal(c).N * np.geomspace(1 / 4, 4, 5) for c in BUDGETS]).ravel()
D = np.repeat(BUDGETS, 5) / 6 / N
BOWL = np.array([0.06, 0.01, 0.0, 0.02, 0.08])  # ln loss at five rates


def grid(repeats: int, noise: float = 0.005, seed: int = 0) -> pd.DataFrame:
    return simulate_points(LAW, np.repeat(N, repeats), np.repeat(D, repeats), noise=noise, seed=seed)


def found(table: pd.DataFrame) -> dict:
    return {f.code: f for f in diagnose(fit("chinchilla", table), None, table)}


@pytest.mark.slow
def test_rates_in_one_law_are_named_with_the_remedies():
    table = grid(5).assign(learning_rate=np.tile([0.001, 0.002, 0.004, 0.008, 0.016], 25))
    reported = found(
        table.assign(loss=table["loss"] * np.exp(np.tile(BOWL, 25))).rename(columns={"learning_rate": "lr"})
    )
    assert "5 values of lr" in reported["pooled_settings"].message
    assert "--best-of lr" in reported["pooled_settings"].remedy
    assert "--by lr" in reported["pooled_settings"].remedy


@pytest.mark.slow
def test_two_arms_in_one_law_are_named_whatever_their_labels():
    table = grid(2, noise=0.002).assign(variant=np.tile(["None", "new"], 25))
    table["loss"] *= np.where(table["variant"] == "new", 0.97, 1.0)
    assert "2 values of variant" in found(table)["pooled_settings"].message


def as_curves(ends: pd.DataFrame) -> pd.DataFrame:
    """Training curves that end in these rows, with a schedule's rate and a step that a logger adds."""
    share = np.array([0.25, 0.5, 0.75, 1.0])
    rows = ends.loc[np.repeat(ends.index, 4)].reset_index(drop=True)
    along = np.tile(share, len(ends))
    rows = rows.assign(tokens=rows["tokens"] * along, loss=rows["loss"] * along**-0.1, step=along * 1000)
    return rows.assign(logged_rate=np.tile([1e-3, 5e-4, 2e-4, 1e-4], len(ends)) / (1 + np.arange(len(rows)) % 3))


@pytest.mark.parametrize("setting", ["lr", "learning_rate", "optimizer"])
@pytest.mark.parametrize("written", ["a row a run", "curves", "another order", "a row without a loss", "another name"])
def test_settings_are_named_however_the_rows_are_written(setting, written):
    values = [1e-3, 2e-3, 4e-3] if setting != "optimizer" else ["adamw", "muon", "sgd"]
    table = grid(3).assign(**{setting: np.tile(values, 25)}, run_id=[f"r{k}" for k in range(75)])
    table["loss"] *= np.exp(np.tile(BOWL[:3], 25))
    if written == "curves":
        table = as_curves(table)
    elif written == "another order":
        table = table.sample(frac=1, random_state=0)
    elif written == "a row without a loss":
        table.loc[4, "loss"] = np.nan
    elif written == "another name":
        table = table.rename(columns={"loss": "val_loss"})
    (named,) = setting_findings(table, points(table))
    assert (named.code, named.columns) == ("pooled_settings", (setting,))


def test_the_last_rate_of_a_run_of_ours_is_no_setting():
    table = isoflop.example("hp_law")
    columns = [found.columns for found in setting_findings(table, points(table))]
    assert ("peak_learning_rate",) in columns
    assert ("learning_rate",) not in columns


@pytest.mark.parametrize("column", ["seed", "data_seed", "batch"])
def test_seeds_and_settings_that_change_nothing_are_not_named(column):
    table = grid(3, noise=0.01).assign(**{column: np.tile([0, 1, 2], 25)})
    assert "pooled_settings" not in found(table)


def test_steps_say_how_far_a_run_is_and_what_they_explain_is_said_of_the_batch():
    """A batch whose best value moves with tokens: seen by steps, which are no setting where a batch is known."""
    table = grid(4, noise=0.002)
    table["batch_tokens"] = np.tile([1e4, 2e4, 4e4, 8e4], 25)
    early = np.arange(100) // 4 % 2 == 0
    slope = np.tile([-0.03, -0.01, 0.01, 0.03], 25)
    table["loss"] *= np.exp(np.where(early, slope, -slope))
    table["step"] = np.tile([800, 400, 200, 100], 25) * np.where(early, 1, 4)
    assert _named(table) == ["4 values of batch_tokens"]
    assert [found.columns for found in setting_findings(table, points(table))] == [("batch_tokens",)]
    assert _named(table.drop(columns="batch_tokens")) == ["6 values of step"]


def swept(rates: np.ndarray) -> pd.DataFrame:
    """Five sizes on four lengths each at every rate, with a bowl around 3e-3 and 0.3% of noise."""
    n, d, rate = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 4), rates))
    table = simulate_points(LAW, n, d, noise=0.003, seed=1).assign(lr=rate)
    return table.assign(loss=table["loss"] * np.exp(0.02 * np.log10(rate / 3e-3) ** 2))


@pytest.mark.parametrize("count", [2, 12, 13, 40])
def test_a_setting_is_named_however_many_values_were_tried(count):
    assert _named(swept(np.geomspace(1e-4, 1e-1, count))) == [f"{count} values of lr"]


@pytest.mark.parametrize("kind", ["a rate of its own in every run", "many names"])
def test_a_setting_with_a_value_for_every_run_and_many_names_are_named(kind):
    table = swept(np.geomspace(1e-4, 1e-1, 20))
    if kind == "many names":
        best = np.random.default_rng(0).permutation(20)
        table = table.assign(lr=[f"recipe {best[int(i)]}" for i in pd.factorize(table["lr"], sort=True)[0]])
    else:
        table["lr"] *= np.random.default_rng(0).uniform(0.9, 1.1, len(table))
    assert _named(table) == [f"{table['lr'].nunique()} values of lr"]


def test_a_score_of_many_values_follows_the_loss_and_is_no_setting():
    table = grid(4, noise=0.02)
    assert _named(table.assign(score=(9 - table["loss"]).round(2))) == []


def _named(table: pd.DataFrame) -> list[str]:
    return [found.message.split(" stand ")[0] for found in setting_findings(table, points(table))]


@pytest.mark.parametrize(("law", "reader"), [("experts", "experts-joint"), ("power-n", "chinchilla")])
def test_lengths_under_a_law_without_tokens_are_named_as_what_they_are_with_remedies_that_work(law, reader):
    table = isoflop.example("experts")
    found = {f.code: f for f in diagnose(fit(law, table), None, table)}
    assert "pooled_settings" not in found  # step, epochs and horizon follow from the tokens
    assert found["unread_input"].message.startswith("3 values of tokens stand in one law, which reads n_params ")
    condition = re.search(r'--where "(.*?)"', found["unread_input"].remedy)[1]
    kept = table[matching_rows(table, condition)]
    assert "unread_input" not in {f.code for f in diagnose(fit(law, kept), None, kept)}
    assert f"--law {reader})" in found["unread_input"].remedy
    assert "unread_input" not in {f.code for f in diagnose(fit(reader, table), None, table)}


def test_the_remedy_of_pooled_settings_keeps_one_value():
    table = swept(np.array([1e-3, 3e-3, 1e-2])).assign(width=64)
    (named,) = setting_findings(table, points(table))
    condition = re.search(r'--where "(.*?)"', named.remedy)[1]
    assert table[matching_rows(table, condition)]["lr"].nunique() == 1


@pytest.mark.slow
def test_mixtures_in_one_law_are_named_by_fits_and_by_what_comes_before_them():
    table = grid(1)
    code = np.round(np.random.default_rng(0).uniform(0.1, 0.9, len(table)), 3)
    mixed = table.assign(weight_code=code, weight_prose=1 - code)
    reported = found(mixed)["pooled_mixtures"]
    assert reported.severity == "warn"
    assert reported.columns == ("weight_code", "weight_prose")
    assert f"{len(set(code))} mixtures of data (weight_code, weight_prose)" in reported.message
    assert [f.code for f in setting_findings(mixed, points(mixed))] == ["pooled_mixtures"]
    assert setting_findings(mixed, points(mixed), [SHARES]) == ()
    for other in (table.assign(weight_code=0.3, weight_prose=0.7), mixed.assign(weight_prose=code)):
        assert "pooled_mixtures" not in found(other)


@pytest.mark.slow
def test_replicates_are_equal_in_everything_but_the_seed():
    """Two sizes off the law: seen against the seeds within a rate, hidden where the rates pass for seeds."""
    table = grid(4, noise=0.002).assign(lr=np.tile([0.01, 0.01, 0.02, 0.02], 25), seed=np.tile([0, 1], 50))
    table["loss"] *= np.exp(0.03 * (table["lr"] == 0.02) + 0.012 * np.sin(np.arange(100) // 4 * 2.4))
    assert "times the seed noise 0.18%" in found(table)["lack_of_fit"].message
    assert "lack_of_fit" not in found(table.drop(columns="lr"))
