"""Columns of a run table that may not vary inside one fit."""

import shlex

import numpy as np
import pytest

from isoflop.scaling.findings.diagnose import diagnose
from isoflop.scaling.fitting.fit import fit
from isoflop.scaling.table.where import matching_rows


@pytest.mark.slow
def test_losses_a_byte_may_be_of_several_tokenizers_each_with_windows_of_its_own(study_table):
    table = study_table.copy()
    other = table["n_params_total"] > 20_000
    table.loc[other, ["tokenizer_id", "eval_id"]] = "another"
    table.loc[other, "vocab_size"] = 512
    reported = {}
    for unit, windows in (("nats/token", "another"), ("nats/byte", "another"), ("nats/byte", "a third")):
        table.loc[table.index[other][-1], "eval_id"] = windows
        table.attrs["loss_unit"] = unit
        found = diagnose(fit("chinchilla", table), None, table)
        reported[unit, windows] = {f.code: f.message for f in found if f.code.startswith("mixed_")}
    assert all(
        name in reported["nats/token", "another"]["mixed_conventions"] for name in ("tokenizer_id", "vocab_size")
    )
    assert set(reported["nats/byte", "another"]) == {"mixed_experiment"}
    assert "tokenizer_id" in reported["nats/byte", "another"]["mixed_experiment"]
    assert "eval_id" in reported["nats/byte", "a third"]["mixed_conventions"]


@pytest.mark.slow
def test_the_remedy_for_mixed_experiments_leaves_one(study_table):
    table = study_table.assign(optimizer=np.where(study_table["n_params_total"] > 20_000, "adamw's", "muon"))
    (found,) = (f for f in diagnose(fit("chinchilla", table), None, table) if f.code == "mixed_experiment")
    kept = table[matching_rows(table, shlex.split(found.remedy.split("--where ")[1])[0])]
    assert kept["optimizer"].nunique() == 1


@pytest.mark.slow
def test_runs_of_few_steps_are_counted_in_one_of_two_ranges(study_table):
    table = study_table.assign(step=5000)
    ends = table.index[table["final"]]
    table.loc[ends[:3], "step"], table.loc[ends[3:5], "step"] = 299, 300
    said = [f.message for f in diagnose(fit("chinchilla", table), None, table) if f.code == "few_steps"]
    assert [message.split(" (")[0].split(": ")[0] for message in said] == [
        f"3 of {len(ends)} runs took fewer than 300 steps",
        f"2 of {len(ends)} runs took 300 to 999 steps",
    ]
