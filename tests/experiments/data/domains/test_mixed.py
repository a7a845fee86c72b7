"""The corpus of a mixture: both sides of each domain, whatever the shares; what describes none is refused."""

from dataclasses import replace

import numpy as np
import pytest

from isoflop.experiments.config import DataSpec
from isoflop.experiments.data import CorpusError
from isoflop.experiments.data.batches import corpus_key, reopen
from isoflop.experiments.data.corpus import Corpora, prepare
from isoflop.experiments.data.domains.mixed import TAKEN
from isoflop.scaling.table.evaluations.domains import PARTS
from isoflop.scaling.table.formats.run_columns import NAMES
from tests.support.texts import write_texts
from tests.support.training.cells import DATA

SPEC = DataSpec(name="t", context_length=32, eval_tokens=640, held_out_fraction=0.3, mixture={"a": 0.25, "b": 0.75})
PYTHON = {"source": "python-source"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    write_texts(folder / "a")
    write_texts(folder / "b", files=20, words=300)
    return folder


def data(folder, **changed):
    return replace(SPEC, domains={"a": f"{folder}/a/*.txt", "b": [f"{folder}/b/*.txt"]}, **changed)


def test_both_sides_hold_the_domains_one_after_the_other(folder):
    spec = data(folder)
    corpus = prepare(spec, folder / "corpora")
    parts = [prepare(replace(spec, name=f"t-{name}", source="files", files=[f"{folder}/{name}/*.txt"], mixture={},
                             domains={}), folder / "corpora") for name in "ab"]  # fmt: skip
    cut = [part.train[: len(part.train) // 33 * 33] for part in parts]
    assert np.array_equal(corpus.train, np.concatenate(cut))
    assert [one["windows"] for one in corpus.domains] == [len(one) // 33 for one in cut]
    assert [one["name"] for one in corpus.domains] == ["a", "b"]
    assert [one["held_out_windows"] for one in corpus.domains] == [10, 10]
    assert corpus.eval_windows.shape == (20, 33)
    for part, windows in zip(parts, np.split(corpus.eval_windows, 2), strict=True):
        assert {bytes(row) for row in windows} <= {
            bytes(row)
            for row in part.held_out[:-33].repeat(1).reshape(-1)[: len(part.held_out[:-33]) // 33 * 33].reshape(-1, 33)
        } | {bytes(row) for row in part.eval_windows}
    assert corpus.mixture(spec) == ((0.25, 0.75), tuple(len(one) // 33 for one in cut))


def test_mixtures_of_the_same_domains_share_one_corpus_and_a_job_opens_it_again(folder):
    corpora = Corpora(folder / "corpora")
    first, second = corpora(data(folder)), corpora(data(folder, mixture={"b": 0.0, "a": 1.0}))
    assert first is second
    odd = data(folder, eval_tokens=608)  # 19 windows, 10 of each domain
    assert reopen(odd, corpora(odd).prepared).eval_id == corpora(odd).eval_id == first.eval_id
    again = reopen(data(folder), first.prepared)
    assert (again.corpus_id, again.eval_id, again.domains) == (first.corpus_id, first.eval_id, first.domains)
    assert np.array_equal(again.eval_windows, first.eval_windows)
    assert corpus_key(data(folder)) != corpus_key(SPEC)


def test_the_floor_of_synthetic_domains_is_the_mean_of_theirs(tmp_path):
    languages = {name: {"synthetic": {"vocab_size": 16, "tokens": 60_000, "chains": 100, "seed": seed}}
                 for name, seed in (("x", 7), ("y", 8))}  # fmt: skip
    corpus = prepare(replace(DATA, mixture={"x": 0.5, "y": 0.5}, domains=languages), tmp_path)
    assert 0 < corpus.loss_floor < np.log(16)


def test_names_whose_columns_are_taken_are_those_of_the_run_table():
    starts = tuple(f"{part}_" for part in PARTS)
    assert {name.split("_", 1)[1] for name in NAMES if name.startswith(("weight_", "loss_", "epochs_"))} == set(TAKEN)
    assert not {name for name in NAMES if name.startswith(starts)} - {f"{p}{n}" for p in starts for n in TAKEN}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"mixture": {"a": 0.5, "b": 0.6}}, r"the shares of a, b add up to 1\.1 and not to 1"),
        ({"mixture": {"a": 1.0}}, "1 domain; a mixture has two or more"),
        ({"mixture": {"a": -0.5, "b": 1.5}}, r"data\.mixture\.a must be a share from 0 to 1; not -0\.5"),
        ({"mixture": {"a": 0.5, "c": 0.5}}, r"names c, and data\.domains does not say what that is"),
        ({"mixture": {"a": 0.5, "../c": 0.5}}, "no name of a domain"),
        ({"mixture": {"a": 0.5, "decay": 0.5}}, "called decay would have a column that the run table has already"),
        ({"unique_tokens": 64}, r"set it for a domain, with data\.domains\.a\.unique_tokens"),
        ({"domains": {"a": PYTHON | {"parts": "code"}, "b": PYTHON}}, r"data\.domains\.a\.parts: no key of a domain"),
        ({"domains": {"a": PYTHON | {"context_length": 8}, "b": PYTHON}}, "context_length.*one for all domains"),
        ({"domains": {"a": 3, "b": PYTHON}}, "must be globs of files or keys of data; not 3"),
    ],
)
def test_what_describes_no_mixture_is_refused(folder, changed, says):
    with pytest.raises(CorpusError, match=says):
        prepare(replace(data(folder), **changed), folder / "corpora")


def test_domains_of_several_tokenizers_are_refused(folder):
    languages = {"synthetic": {"vocab_size": 16, "tokens": 60_000, "chains": 100}, "source": "synthetic"}
    mixed = {"a": f"{folder}/a/*.txt", "b": languages | {"tokenizer": "none"}}
    with pytest.raises(CorpusError, match=r"a has tokens of bytes \(256\) and b of none \(16\)"):
        prepare(replace(SPEC, domains=mixed), folder / "corpora")
