"""Languages of any order over any vocabulary: their samples follow them, and no model beats their exact floor."""

import json
import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from isoflop.experiments.config import (
    BudgetSpec,
    DataSpec,
    ExperimentConfig,
    OptimSpec,
    ScheduleSpec,
    StudySpec,
    SyntheticSpec,
    WhereSpec,
    WindowSpec,
)
from isoflop.experiments.data import CorpusError
from isoflop.experiments.data.corpus import Corpora, prepare
from isoflop.experiments.data.sources import source_of
from isoflop.experiments.data.synthetic import Language
from isoflop.experiments.study.study import expand
from isoflop.experiments.training.trainer import train_trunk
from isoflop.models.step.training_step import choose

SMALL = SyntheticSpec(vocab_size=12, tokens=60_000, chains=100)
KINDS = {"order-1": {"order": 1}, "order-2": {}, "order-3": {"order": 3, "vocab_size": 6}, "rank-2": {"rank": 2}}


def text_of(language, **size):
    return np.concatenate(list(language.sample(**size)))


def data(spec, **changes):
    return DataSpec(name="synthetic", source="synthetic", tokenizer="none", synthetic=spec, **changes)


def test_entropies_of_the_default_language():
    language = Language.draw(SyntheticSpec())
    assert [language.entropy(seen) for seen in range(3)] == pytest.approx([3.4795, 3.0220, 2.6356], abs=5e-5)
    assert language.entropy(9) == language.entropy(2)


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_samples_follow_the_language(changes):
    language = Language.draw(replace(SMALL, **changes))
    order, vocab = language.order, language.vocab_size
    text = text_of(language, chains=400, length=500, seed=0)
    assert (text.shape, text.dtype, text.max() < vocab) == ((400, 500), np.uint16, True)
    counts = np.zeros((vocab,) * (order + 1))
    np.add.at(counts, tuple(text[:, i : 500 - order + i] for i in range(order + 1)), 1)
    seen = counts.sum(-1)
    assert np.abs(seen / counts.sum() - language.stationary).max() < 5e-3
    often = seen > 3000
    assert np.abs(counts[often] / seen[often][:, None] - language.following[often]).max() < 0.04
    floor = language.reachable_loss(text.reshape(-1, 50)[:, :9])
    assert floor == pytest.approx(np.mean([language.entropy(seen) for seen in range(1, 9)]), rel=0.01)


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_the_exact_predictor_is_the_chain_rule(changes):
    """Losses of a window add up to minus the log of its probability, which one walk through the chain gives."""
    language = Language.draw(replace(SMALL, **changes))
    order = language.order
    (window,) = text_of(language, chains=1, length=9, seed=3)
    first = language.stationary.sum(tuple(range(1, order)))[window[0]]
    whole = language.stationary[tuple(window[:order])]
    for end in range(order, 9):
        whole *= language.following[tuple(window[end - order : end + 1])]
    assert language.window_losses(window[None]).sum() == pytest.approx(-math.log(whole / first))


def test_a_chain_does_not_depend_on_how_many_are_sampled_at_once(monkeypatch):
    language = Language.draw(SMALL)
    whole = text_of(language, chains=10, length=50, seed=0)
    monkeypatch.setattr("isoflop.experiments.data.synthetic._BLOCK", 4 * 50)
    blocks = list(language.sample(chains=10, length=50, seed=0))
    assert [len(block) for block in blocks] == [4, 4, 2]
    assert not (np.concatenate(blocks) == whole).all()
    assert len({block[0].tobytes() for block in blocks}) == 3


def test_a_corpus_keeps_its_id(tmp_path):
    """A changed id here orphans every run that was trained on a synthetic language."""
    corpus = prepare(data(SMALL, context_length=8), tmp_path)
    assert (corpus.corpus_id, corpus.folder.name) == ("9f94787b63cb", "synthetic-f48a1354e343")


def test_synthetic_corpus_knows_its_floor(tmp_path):
    corpus = prepare(data(SMALL, context_length=8), tmp_path)
    assert corpus.vocab_size == 12
    assert corpus.train.max() < 12
    assert math.isnan(corpus.bytes_per_token)
    assert corpus.loss_floor == pytest.approx(Language.draw(SMALL).reachable_loss(corpus.eval_windows))
    assert json.loads((corpus.folder / "manifest.json").read_text())["corpus_id"] == corpus.corpus_id


def test_twins_are_the_language_with_other_names_and_as_hard(tmp_path):
    known = prepare(data(SMALL), tmp_path)
    twin, both = (prepare(data(replace(SMALL, twins=twins)), tmp_path) for twins in ([5], [0, 5]))
    names = Language.draw(SMALL).twin(5)
    assert sorted(names) == list(range(12))
    assert (names != np.arange(12)).any()
    assert twin.corpus_id != known.corpus_id == prepare(data(replace(SMALL, twins=[0])), tmp_path).corpus_id
    assert twin.loss_floor == pytest.approx(known.loss_floor, rel=0.02)  # other texts are held out
    assert math.isnan(both.loss_floor)
    texts = [{t.tobytes() for _, t in source_of(data(replace(SMALL, twins=twins))).documents([])}
             for twins in ([0], [5], [0, 5])]  # fmt: skip
    assert texts[1] == {names.astype(np.uint16)[np.frombuffer(t, np.uint16)].tobytes() for t in texts[0]}
    assert [len(texts[2] & one) for one in texts[:2]] == [50, 50]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 1}, "data.synthetic.vocab_size must be at least 2; not 1"),
        ({"order": 0}, "data.synthetic.order must be at least 1; not 0"),
        ({"rank": 0}, "data.synthetic.rank must be at least 1; not 0"),
        ({"vocab_size": 300}, "vocab_size=300 at order=2 is a table of 27,000,000 probabilities, above 16,777,216"),
        ({"twins": []}, r"data\.synthetic\.twins must be whole numbers from 0 on, one or more; not \[\]"),
        ({"tokens": 100}, "tokens=100 in chains=100 are 1 each, no more than order=2"),
    ],
)
def test_what_is_no_language_is_refused(tmp_path, changes, message):
    with pytest.raises(CorpusError, match=message):
        prepare(data(replace(SMALL, **changes)), tmp_path)
    assert not list(tmp_path.iterdir())


LANGUAGES = [  # vocabulary, order, rank, and which size learns it on how many tokens
    (4, 1, None, "d8", 200_000), (12, 1, None, "d8", 200_000), (8, 2, None, "d16", 200_000),
    (5, 3, None, "d16", 200_000),
    (128, 2, 4, "d16", 400_000),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("vocab_size", "order", "rank", "size", "tokens"), LANGUAGES)
def test_no_trained_model_beats_the_floor(tmp_path, vocab_size, order, rank, size, tokens):
    """Window by window against the exact predictor; small languages are learnt so well that their floor shows."""
    spec = replace(SMALL, vocab_size=vocab_size, order=order, rank=rank, tokens=700_000)
    config = ExperimentConfig(
        data=data(spec, context_length=16, eval_tokens=32_768),
        optim=OptimSpec(batch_size=32),
        schedule=ScheduleSpec(warmup_steps=20),
        budget=BudgetSpec(tokens=tokens),
        study=StudySpec(sizes=[size], window=WindowSpec(min_steps=1)),
    )
    corpora, kept = Corpora(tmp_path), []
    corpus, (cell,) = corpora(config.data), expand(config, corpora).cells
    ((_, rows),) = train_trunk(
        [cell], corpus, folder=None, where=WhereSpec(), keep=lambda cell, model, *_: kept.append(deepcopy(model))
    )
    windows = torch.from_numpy(corpus.eval_windows.astype("int64"))
    with torch.no_grad():
        scores = choose(kept[0]).logits(windows[:, :-1]).log_softmax(-1)
    losses = -scores.gather(-1, windows[:, 1:, None]).squeeze(-1).mean(1).double().numpy()
    above = losses - Language.draw(spec).window_losses(corpus.eval_windows).mean(1)
    error = above.std() / len(above) ** 0.5
    assert rows[-1]["loss"] == pytest.approx(losses.mean(), abs=1e-5)
    assert rows[-1]["loss_floor"] == pytest.approx((losses - above).mean())
    print(f"{vocab_size} {order}: {above.mean():.4f} +- {error:.4f} above {rows[-1]['loss_floor']:.4f}")
    assert above.mean() > -3 * error
    assert above.mean() < 0.15  # learnt: a floor that is too high by this much would have been beaten
    assert error < 0.01
