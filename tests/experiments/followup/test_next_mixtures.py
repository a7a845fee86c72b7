"""suggest --goal mixture: mixtures that narrow the best shares, their file, and what cannot be answered."""

import numpy as np
import pytest
import yaml

from isoflop.experiments.followup.next_study import next_runs
from isoflop.experiments.followup.template import NextStudyError
from isoflop.scaling.mixtures.mix import mix
from isoflop.scaling.mixtures.table import NoMixtureError
from isoflop.scaling.table.read import read_table
from tests.support.fits.mixed_studies import study
from tests.support.root import RESULTS

LAW, PLAIN = study(2, 3, runs=30)
COSTED = PLAIN.assign(n_params=1e6, tokens=2e7, flops=1.2e14)


@pytest.fixture(scope="module")
def own():
    return read_table(RESULTS / "mixture_known.parquet")


@pytest.mark.slow
def test_runs_of_the_mixtures_suggested_narrow_the_best_shares():
    reported = next_runs(COSTED, budget=1e15, target=1e17, goal="mixture")
    removed = [proxy.removes for proxy in reported.found.proxies]
    assert len(removed) == 8
    assert reported.spent == pytest.approx(8 * 1.2e14)
    assert removed == sorted(removed)
    assert 0.1 < removed[-1] < 1
    rng = np.random.default_rng(0)
    h = np.repeat([proxy.weights for proxy in reported.found.proxies], 8, axis=0)
    more = COSTED.iloc[: len(h)] if len(h) <= len(COSTED) else COSTED.sample(len(h), replace=True, random_state=0)
    more = more.assign(weight_code=h[:, 0], weight_prose=h[:, 1], loss=LAW(h.T) * np.exp(rng.normal(0, 0.01, len(h))))
    after = mix(COSTED.merge(more, how="outer"))
    assert np.ptp(after.intervals, axis=1)[0] < 0.7 * np.ptp(reported.found.intervals, axis=1)[0]
    assert "weights is gone" in str(reported.found)
    assert {"goal", "weights", "weight_intervals", "proxies", "findings", "spent"} <= set(reported.to_dict())
    assert "are taken to be those of the target" in str(reported)


@pytest.mark.slow
def test_the_study_file_lists_the_mixtures_of_the_size_and_tokens_of_the_runs(own, tmp_path):
    most = float(own["flops"].max())
    reported = next_runs(own, budget=3.5 * most, target=1e12, goal="mixture", out=tmp_path / "experiment" / "next.yaml")
    written = yaml.safe_load(reported.file.read_text())
    assert written["study"]["sizes"] == ["d16"]
    shares = written["study"]["mixtures"]["shares"]
    assert len(shares) == 3
    assert all(sum(one.values()) == pytest.approx(1, abs=1e-12) for one in shares)
    assert written["study"]["vary"] == {"budget.tokens": [int(own["horizon_tokens"].max())]}
    assert any("add data.domains to the study file" in note for note in reported.notes)
    assert "experiment=next" in reported.command


def test_what_cannot_be_suggested_is_named(tmp_path):
    with pytest.raises(NextStudyError, match=r"one run as the largest of the table takes 1\.2e\+14 FLOPs"):
        next_runs(COSTED, budget=1e14, target=1e17, goal="mixture")
    with pytest.raises(NextStudyError, match="what does a run cost"):
        next_runs(PLAIN, budget=1e14, target=1e17, goal="mixture")
    with pytest.raises(NoMixtureError, match="a mixture has two or more"):
        next_runs(COSTED.drop(columns=["weight_code"]), budget=1e15, target=1e17, goal="mixture")
    with pytest.raises(NextStudyError, match="--out needs runs that isoflop trained"):
        next_runs(COSTED, budget=1e15, target=1e17, goal="mixture", out=tmp_path / "x.yaml")
    with pytest.raises(ValueError, match="and from no published law"):
        next_runs(budget=1e15, target=1e17, goal="mixture", from_law="chinchilla")
