"""Every column of the run table says once what it is to a law; what is derived of it holds."""

import typing

import pandas as pd
import pytest

from isoflop.scaling.findings.settings import unlike_runs
from isoflop.scaling.imports.kept import KEPT
from isoflop.scaling.prediction.batch.batch_of_runs import MAY_VARY
from isoflop.scaling.table.formats.run_columns import COLUMNS, OF_ONE_RUN, Role, with_roles


def test_roles_part_the_columns():
    roles = typing.get_args(Role)
    assert sorted(name for role in roles for name in with_roles(role)) == sorted(c.name for c in COLUMNS)
    assert all(with_roles(role) for role in roles)


@pytest.mark.parametrize("name", with_roles("ruler", "experiment"))
def test_a_column_that_one_answer_has_one_value_of_is_named_where_it_varies(name):
    rows = pd.DataFrame({name: ["a", "b"]})
    (found,) = unlike_runs(rows)
    assert found.columns == (name,)
    assert (found.code, found.severity) == (
        ("mixed_conventions", "fail") if name in with_roles("ruler") else ("mixed_experiment", "warn")
    )
    assert not list(unlike_runs(rows, may_vary=[name]))
    assert name in KEPT or name in ("arm", "device")  # an import keeps it


@pytest.mark.parametrize("name", with_roles("setting"))
def test_a_setting_varies_between_scales_and_not_within_one(name):
    rows = pd.DataFrame({name: [1.0, 2.0, 2.0, 3.0]})
    assert not list(unlike_runs(rows))
    assert not list(unlike_runs(rows, cell=pd.factorize(rows[name])[0]))
    (found,) = unlike_runs(rows, cell=pd.Series([0, 0, 1, 2]).to_numpy())
    assert (found.code, found.columns) == ("pooled_settings", (name,))


@pytest.mark.parametrize("role", ["scale", "identity", "seed", "outcome", "follows"])
def test_what_a_study_varies_or_a_run_brings_out_makes_no_two_experiments(role):
    assert not list(unlike_runs(pd.DataFrame({name: ["a", "b"] for name in with_roles(role)})))


def test_repeats_of_a_run_agree_in_all_that_is_not_theirs():
    assert not set(with_roles("scale", "ruler", "setting")) & set(OF_ONE_RUN)
    assert set(MAY_VARY) <= set(with_roles("ruler", "experiment"))
