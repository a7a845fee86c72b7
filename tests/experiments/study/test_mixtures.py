"""The mixtures of a study: listed, on a grid, drawn; their cells, epochs and identity."""

from dataclasses import replace

import pytest

from isoflop.experiments.config import BudgetSpec, DataSpec, ExperimentConfig, MixturesSpec, StudySpec, WindowSpec
from isoflop.experiments.study.arms import variants
from isoflop.experiments.study.cell import from_plain, to_plain
from isoflop.experiments.study.check import StudyError, check_study, checked_study
from isoflop.experiments.study.mixtures import DesignError, design
from tests.support.sweep.studies import FakeCorpus

DATA = DataSpec(domains={"code": ["c/*"], "prose": ["p/*"], "web": ["w/*"]})


def config(mixtures, data=DATA, **study):
    return ExperimentConfig(data=data, budget=BudgetSpec(tokens=300_000), study=StudySpec(
        name="m", sizes=["d8"], window=WindowSpec(min_steps=1), mixtures=mixtures, **study))  # fmt: skip


def test_a_grid_has_every_mixture_once_and_draws_repeat():
    grid = design(MixturesSpec(grid=4), DATA)
    assert len({tuple(one.values()) for one in grid}) == len(grid) == 15
    assert all(sum(one.values()) == pytest.approx(1) and list(one) == ["code", "prose", "web"] for one in grid)
    drawn = design(MixturesSpec(draws=30, seed=3), DATA)
    assert drawn == design(MixturesSpec(draws=30, seed=3), DATA) != design(MixturesSpec(draws=30, seed=4), DATA)
    assert all(abs(sum(one.values()) - 1) < 1e-12 for one in drawn)
    both = design(MixturesSpec(shares=[{"code": 1.0}], grid=1, draws=2), DATA)
    assert both[0] == {"code": 1.0, "prose": 0.0, "web": 0.0}
    assert len(both) == 5


def test_each_mixture_has_each_cell_and_its_own_identity():
    spec = config(MixturesSpec(draws=5), vary={"budget.tokens": [200_000, 300_000]})
    study = checked_study(spec, FakeCorpus())
    assert len(study.cells) == 10
    assert len({cell.run_id for cell in study.cells}) == 10
    assert sorted(map(len, study.trunks.values())) == [2] * 5  # budgets of a mixture share their trunk
    assert all(from_plain(to_plain(cell)) == cell for cell in study.cells)
    first = study.cells[0]
    assert first.what()["mixture"] == first.data.mixture
    assert f"code {first.data.mixture['code']:.3g}" in first.label
    assert "mixture" not in replace(first, data=DataSpec()).what()


def test_the_domain_that_is_repeated_most_decides_and_is_named():
    spec = config(MixturesSpec(shares=[{"code": 0.8, "prose": 0.2, "web": 0.0}]), replace(DATA, max_epochs=6.0))
    corpus = FakeCorpus(train_tokens=3 * 650 * 65)
    study = checked_study(spec, corpus)
    (cell,) = study.cells
    windows = cell.steps * cell.optim.batch_size
    assert study.epochs_by_domain(cell)["code"] == pytest.approx(0.8 * windows / 650, rel=1e-3)
    assert study.epochs_by_domain(cell)["web"] == 0
    assert study.epochs(cell) == study.epochs_by_domain(cell)["code"] > 5
    assert "in domain code (data.mixture.code=0.8)" in study.warnings[0]
    with pytest.raises(StudyError, match=r"in domain code .* epochs, more than data\.max_epochs=1; add text"):
        checked_study(replace(spec, data=replace(DATA, max_epochs=1.0)), corpus)


@pytest.mark.parametrize(
    ("mixtures", "data", "error", "says"),
    [
        (MixturesSpec(draws=2), DataSpec(), DesignError, "0 domains; name two or more in data.domains"),
        (MixturesSpec(shares=[{"cod": 1.0}]), DATA, DesignError, "names cod, which is none of code, prose, web"),
        (MixturesSpec(shares=[{"code": "x"}]), DATA, DesignError, "code must be a share from 0 to 1; not 'x'"),
        (MixturesSpec(grid=500), DATA, DesignError, "has 125,751 mixtures; at most 10,000"),
        (MixturesSpec(shares=[{"code": 0.4}]), DATA, ValueError, r"add up to 0\.4 and not to 1"),
        (MixturesSpec(), DATA, StudyError, "data.domains without data.mixture"),
    ],
)
def test_what_describes_no_mixtures_is_refused(mixtures, data, error, says):
    with pytest.raises(error, match=says):
        check_study(config(mixtures, data))


def test_without_mixtures_nothing_changes():
    spec = config(MixturesSpec(), DataSpec())
    assert list(variants(spec)) == [spec]
