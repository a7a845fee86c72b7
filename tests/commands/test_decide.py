"""The deciding commands, as typed: compare, multiplier, predict, suggest."""

import json
import shlex
import subprocess
from importlib.resources import files

import pandas as pd
import pytest
import yaml

from tests.support.fits.mixed_studies import study
from tests.support.fits.simulated import BESIROGLU, cheaper, isoflop_table, two_arms

pytestmark = pytest.mark.usefixtures("kept_searches")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "runs.csv"
    isoflop_table(BESIROGLU, seed=0).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "arms.csv"
    two_arms(cheaper(1.5), seed=0).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def tables(runs, arms, tmp_path_factory):
    """What refusals are tried on: arms whose losses never meet, a third such arm, a table of three runs."""
    folder, two = tmp_path_factory.mktemp("tables"), pd.read_csv(arms)
    made = {
        "APART": two.assign(loss=two["loss"].where(two["arm"] == "base", 3 * two["loss"])),
        "THREE": pd.concat([two, two[two["arm"] == "rival"].assign(arm="stub", loss=9.0 + two["loss"])]),
        "FEW": pd.read_csv(runs).head(3),
        "MIXED": study(2, 3, runs=24)[1].rename(columns={"loss": "loss_all"}),
    }
    for name, table in made.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    results = files("isoflop.experiments") / "results"
    named = {
        "QUICK": "quick",
        "TUNED": "hp_law",
        "REPEATED": "repeated_data",
        "EXPERTS": "experts",
        "BITS": "precision",
    }
    kept = {name: results / f"{table}.parquet" for name, table in named.items()}
    return {"RUNS": runs, "ARMS": arms, **kept, **{name: folder / f"{name}.csv" for name in made}}


@pytest.mark.slow
def test_compare(typed, runs):
    code, out, _ = typed("compare", runs, "--laws", "chinchilla,power-n", "--json")
    value = json.loads(out)
    assert code == 0
    assert value["preferred"] == "chinchilla"
    code, out, _ = typed("compare", runs, "--laws", "chinchilla,power-n", "--holdout-above", "1e19")
    assert code == 0
    assert "* preferred" in out


@pytest.mark.slow
def test_multiplier(typed, arms):
    code, out, _ = typed("multiplier", arms, "--by", "arm", "--baseline", "base", "--flops", "1e15", "--json")
    (pair,) = json.loads(out)["pairs"]
    assert code == 0
    assert [r["flops"] for r in pair["at_compute"]][-1] == 1e15
    assert all(1.2 < r["multiplier"] < 1.9 for r in pair["at_loss"])
    assert "crossover" in typed("multiplier", arms)[1]


@pytest.mark.slow
def test_gate(typed, arms):
    code, out, _ = typed("gate", arms, "--by", "arm", "--baseline", "base", "--target", "1e14", "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["decision"] == "promote"
    assert 1.2 < answer["multiplier"] < 1.9
    assert answer["multiplier_interval"][0] > 1
    reported = typed("gate", arms, "--target", "1e14", "--error", "1e-9")
    assert reported[0] == 0  # undecided is an answer
    assert "UNDECIDED" in reported[1]


@pytest.mark.slow
def test_mix(typed, tables):
    code, out, _ = typed("mix", tables["MIXED"], "--loss", "all", "--unique", "code=4e9", "--unique", "prose=1e12",
                         "--tokens", "2e10", "--cap", "epochs=2", "--json")  # fmt: skip
    answer = json.loads(out)
    assert code == 0
    assert answer["weights"]["code"] == pytest.approx(0.4, abs=1e-6)
    assert answer["epochs"]["code"] == pytest.approx(2)
    assert {"weights", "gain", "gain_interval", "flatness", "proxies", "findings", "conventions"} <= set(answer)


@pytest.mark.slow
def test_predict_register_score(typed, runs, tmp_path):
    claim = tmp_path / "claim.json"
    ask = ("predict", runs, "--flops", "1e21", "--laws", "chinchilla,chinchilla-tied", "--inference-tokens", "1e13")
    code, out, _ = typed(*ask, "--register", claim)
    assert code == 0
    assert "to serve" in out
    later = tmp_path / "later.csv"
    isoflop_table(BESIROGLU, seed=1, largest=1e21).to_csv(later, index=False)
    code, out, _ = typed("predict", later, "--score", claim, "--json")
    assert code == 0
    assert json.loads(out)["covered"]["0.95"]
    code, _, err = typed(*ask, "--register", claim)
    assert code == 1
    assert "never overwritten" in err


@pytest.mark.slow
def test_suggest_plans_for_the_best_settings_of_a_sweep(typed, tables):
    ask = ("suggest", tables["TUNED"], "--budget", "1e13", "--target", "1e14")
    code, out, _ = typed(*ask, "--best-of", "peak_learning_rate,batch_tokens")
    assert code == 0
    assert "best peak_learning_rate, batch_tokens of each cell" in out
    code, out, _ = typed("suggest", tables["ARMS"], "--budget", "1e20", "--target", "1e22", "--json")
    assert code == 0
    assert [found["code"] for found in json.loads(out)["findings"]] == [
        "mixed_experiment", "pooled_settings",
    ], "arms are said"  # fmt: skip


@pytest.mark.slow
def test_suggest_without_runs(typed):
    code, out, _ = typed("suggest", "--from-law", "besiroglu-2024", "--budget", "6e19", "--target", "8e20", "--json")
    value = json.loads(out)
    assert code == 0
    assert value["sd"]["after"] < value["sd"]["grid"]
    assert value["sd"]["now"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "reported"),
    [
        (("predict", "RUNS"), 2, "a target is either"),
        (("predict", "RUNS", "--flops", "1e10"), 1, "below all the data"),
        (("predict", "RUNS", "--score", "nowhere.json"), 1, "no such registration"),
        (("predict", "RUNS", "--flops", "1e21", "--laws", "power"), 1, "no law of n_params and tokens"),
        (
            ("predict", "RUNS", "--flops", "1e21", "--laws", "chinchilla,experts"),
            1,
            "--at tokens=VALUE --at experts=VALUE",
        ),
        (("predict", "FEW", "--flops", "1e21"), 1, "no law of n_params and tokens can be fitted"),
        (("compare", "FEW"), 1, "add runs"),
        (("compare", "RUNS", "--holdout-above", "1e30"), 1, "choose a threshold between"),
        (("compare", "RUNS", "--laws", "nolaw"), 2, "nolaw"),
        (("compare", "RUNS", "--laws", "data-constrained"), 1, "no law can be compared"),
        (("compare", "RUNS", "--holdout-by", "size"), 2, "choose flops, n_params or tokens"),
        (("multiplier", "RUNS"), 1, "no column 'arm'"),
        (("multiplier", "ARMS", "--baseline", "x"), 1, "not among the arms"),
        (("multiplier", "ARMS", "--where", "arm == 'base'"), 1, "one arm only (base)"),
        (("multiplier", "APART"), 1, "no loss that both arms reach inside their data"),
        (("multiplier", "APART"), 1, "the largest budget of both, base is ahead"),
        (("gate", "RUNS", "--target", "1e22"), 1, "no column 'arm'"),
        (("gate", "ARMS", "--target", "1e15", "--baseline", "x"), 1, "not among the arms"),
        (("gate", "ARMS", "--target", "1e15", "--where", "arm == 'base'"), 1, "one arm only (base)"),
        (("gate", "ARMS", "--target", "1e15", "--learn", "ARMS"), 1, "--learn"),
        (("gate", "ARMS", "--target", "0"), 2, "must be positive"),
        (("gate", "ARMS"), 2, "--target"),
        (("gate", "ARMS", "--target", "1e15", "study.name=x"), 2, "study.name=x: no argument of a gate on a TABLE"),
        (("gate", "ARMS", "--target", "1e15", "--nope"), 2, "--nope"),
        (("gate", "ARMS", "--target", "1e15", "--spend", "1e9"), 2, "--spend"),
        (
            ("gate", "experiment=smoke", "--target", "1e15", "--by", "kind"),
            2,
            "and no TABLE: leave out --by",
        ),
        (("gate", "experiment=smoke", "--target", "1e15"), 2, "needs a candidate"),
        (("gate", "ARMS", "--target", "1e15", "--error", "1.5"), 2, "between 0 and 1"),
        (("gate", "ARMS", "--target", "1e15", "--least", "0.9"), 2, "at least 1"),
        (("mix", "RUNS"), 1, "0 columns weight_NAME, and a mixture has two or more"),
        (("mix", "MIXED", "--loss", "al"), 2, "loss_all"),
        (("mix", "MIXED", "--loss", "all=x"), 2, "--loss all="),
        (("mix", "MIXED", "--loss", "all", "--cap", "4"), 2, "--cap"),
        (("mix", "MIXED", "--loss", "all", "--cap", "epochs=4"), 2, "Add --tokens"),
        (("mix", "MIXED", "--loss", "all", "--natural", "code=.5"), 2, "add up to 0.5"),
        (("suggest", "RUNS", "--budget", "1e20", "--target", "1e19"), 1, "not above the largest run"),
        (("suggest", "RUNS", "--budget", "1", "--target", "1e23"), 1, "affords no cell: the cheapest cell costs"),
        (("suggest", "QUICK", "--budget", "1e9", "--target", "1e14"), 1, "affords no cell: the cheapest cell costs"),
        (("suggest", "QUICK", "--budget", "1e12", "--target", "1e11"), 1, "not above the largest run"),
        (("suggest", "FEW", "--budget", "1e20", "--target", "1e23"), 1, "no law of n_params and tokens can be fitted"),
        (("suggest", "RUNS", "--budget", "-1", "--target", "1e23"), 2, "must be positive"),
        (("suggest", "RUNS", "--budget", "1e20", "--target", "1e22", "--goal", "mixture"), 1, "two or more"),
        (("suggest", "RUNS", "--budget", "1e20", "--target", "1e22", "--goal", "fame"), 2, "choose n_opt"),
        (("suggest", "RUNS", "--budget", "1e20", "--target", "1e22", "--out", "x.yaml"), 1, "needs a table of runs"),
        (("suggest", "--budget", "1e20", "--target", "1e22"), 2, "--from-law"),
        (
            ("suggest", "TUNED", "--budget", "1e13", "--target", "1e14"),
            1,
            "5 values of peak_learning_rate stand in one",
        ),
        (
            ("suggest", "TUNED", "--budget", "1e13", "--target", "1e14"),
            1,
            "(--best-of peak_learning_rate,batch_tokens)",
        ),
        (("suggest", "REPEATED", "--budget", "1e13", "--target", "1e14"), 1, "saw their text 32 times"),
        (("suggest", "REPEATED", "--budget", "1e13", "--target", "1e14"), 1, "--where 'epochs <= 4'"),
        (("suggest", "EXPERTS", "--budget", "1e13", "--target", "1e14"), 1, "different experts (experts: 1, 2, 4, 8)"),
        (("suggest", "BITS", "--budget", "1e13", "--target", "1e14"), 1, '--where "weight_bits == 2"'),
        (("suggest", "--from-law", "besiroglu", "--budget", "1e20", "--target", "1e22"), 2, "did you mean"),
    ],
)
def test_refusals_are_one_line(typed, tables, arguments, code, reported):
    got, _, err = typed(*(tables.get(a, a) for a in arguments))
    assert (got, reported in err, len(err.strip().splitlines())) == (code, True, 1), err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "reported", "kept"),
    [
        (
            ("compare", "RUNS", "--laws", "chinchilla,data-constrained"),
            "data-constrained: law data-constrained needs the column",
            "chinchilla",
        ),
        (
            ("predict", "RUNS", "--flops", "1e21", "--laws", "chinchilla,power"),
            "power: it does not weigh",
            "nats/token",
        ),
        (
            ("predict", "RUNS", "--flops", "1e21", "--laws", "kaplan", "--token-cap", "1e9"),
            "--token-cap: no law of",
            "95%",
        ),
        (("multiplier", "THREE", "--baseline", "base"), "stub: no loss that both arms reach", "rival against base"),
    ],
)
def test_what_has_an_answer_is_printed_before_what_has_none(typed, tables, arguments, reported, kept):
    code, out, err = typed(*(tables.get(a, a) for a in arguments))
    assert (code, reported in err, kept in out, len(err.strip().splitlines())) == (1, True, True, 1), err


@pytest.mark.process
@pytest.mark.slow
def test_what_is_suggested_runs_as_it_is_and_is_not_suggested_again(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = ("study.sizes=[d8,d10,d12,d16]", "study.budgets=[1e9,2e9,4e9]", "data.eval_tokens=4096")
    code, _, err = typed("run", "experiment=smoke", *study, "hydra/launcher=basic")
    assert code == 0, err
    ask = ("suggest", "runs", "--budget", "5e9", "--target", "1e12", "--out", "mine/experiment/next.yaml", "--json")
    code, out, err = typed(*ask)
    assert code == 0, err
    first = json.loads(out)
    study = yaml.safe_load((tmp_path / "mine/experiment/next.yaml").read_text())
    assert study["data"]["eval_tokens"] == 4096
    assert [c["size"] for c in study["study"]["cells"]] == [c["size"] for c in first["cells"]]
    n = sum(len(c["seeds"]) for c in first["cells"])
    program, *words = shlex.split(first["command"])
    code, out, err = typed(*words, "hydra/launcher=basic")  # no pool of processes
    assert (program, code, f"{n} done" in out) == ("isoflop", 0, True), out + err
    typed(*[a.replace("mine/experiment/next.yaml", "after.yaml") for a in ask])
    command = (tmp_path / "after.yaml").read_text().splitlines()[1].removeprefix("# ").split("    ")[0]
    before, _, words = command.partition("isoflop run ")  # puts the file where it is found by its name
    subprocess.run(before + "true", shell=True, check=True)
    code, planned, err = typed("plan", "--json", *shlex.split(words))
    assert code == 0, err
    assert (tmp_path / "conf/experiment/after.yaml").exists()
    assert json.loads(planned)["studies"][0]["study"] == "after"
    second = json.loads(typed(*ask)[1])
    before = {(c["size"], c["budget"]) for c in first["cells"]}
    assert before.isdisjoint((c["size"], c["budget"]) for c in second["cells"])
