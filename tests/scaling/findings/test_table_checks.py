"""Columns of a run table that may not vary inside one fit."""

import pytest

from isoflop.scaling.findings.diagnose import diagnose
from isoflop.scaling.fitting.fit import fit


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
