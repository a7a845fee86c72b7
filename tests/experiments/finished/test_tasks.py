"""Multiple-choice items made of held-out text: answerable from the document alone, without giveaways."""

import json
import re

import numpy as np
import pytest

from isoflop.experiments.config import DataSpec, SyntheticSpec
from isoflop.experiments.data.corpus import prepare
from isoflop.experiments.data.tokenizer import Bytes, Numbers
from isoflop.experiments.finished.tasks import CHOICES, TASKS, TaskError, write_items

ROOM = 64


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Texts in which every line and every word says which document it is of."""
    root = tmp_path_factory.mktemp("tasks")
    for i in range(24):
        lines = [f"    mark{i}x{j} = \u00e9lan{i}x{j % 7} + 1\n" for j in range(60)]
        (root / f"{i}.txt").write_text("".join(lines), encoding="utf-8")
    spec = DataSpec(name="t", source="files", files=[f"{root}/*.txt"], held_out_fraction=0.4, context_length=ROOM)
    return prepare(spec, root / "corpora")


def items(corpus, task, path, count=80):
    assert write_items(task, corpus, Bytes(), path, count=count) == count
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("task", TASKS)
def test_the_answer_follows_the_context_in_the_text_and_no_distractor_does(corpus, task, tmp_path):
    text = bytes(corpus.held_out.astype(np.uint8)).decode()
    for item in items(corpus, task, tmp_path / "x.jsonl"):
        follows = [item["context"] + choice in text for choice in item["choices"]]
        assert follows[item["answer"]]
        assert sum(follows) == 1
        assert len(item["choices"]) == len(set(item["choices"])) == CHOICES


@pytest.mark.parametrize("task", TASKS)
def test_distractors_are_of_the_same_document(corpus, task, tmp_path):
    for item in items(corpus, task, tmp_path / "x.jsonl"):
        assert len({re.search(r"(mark|\u00e9lan)(\d+)x", choice)[2] for choice in item["choices"]}) == 1


@pytest.mark.parametrize("task", TASKS)
def test_context_and_every_choice_fit_the_window(corpus, task, tmp_path):
    lengths = []
    for item in items(corpus, task, tmp_path / "x.jsonl"):
        lengths += [len((item["context"] + choice).encode()) for choice in item["choices"]]
    assert max(lengths) <= ROOM
    assert max(lengths) > ROOM - 4  # and no room is wasted


@pytest.mark.parametrize("task", TASKS)
def test_the_place_of_the_answer_gives_nothing_away(corpus, task, tmp_path):
    answers = [item["answer"] for item in items(corpus, task, tmp_path / "x.jsonl", count=200)]
    assert np.bincount(answers, minlength=CHOICES).min() > 30


@pytest.mark.parametrize("task", TASKS)
def test_items_are_a_function_of_the_text_and_spread_over_documents(corpus, task, tmp_path):
    first, again = (items(corpus, task, tmp_path / name) for name in ("a.jsonl", "b.jsonl"))
    assert first == again
    few = items(corpus, task, tmp_path / "few.jsonl", count=8)
    documents = {choice.split("x")[0] for item in few for choice in item["choices"]}
    assert len(documents) >= 5


def test_text_without_items_and_tokens_without_text_are_refused(tmp_path):
    (tmp_path / "t").mkdir()
    for i in range(10):
        (tmp_path / "t" / f"{i}.txt").write_text(f"{i % 10}" * 900)
    flat = prepare(
        DataSpec(name="f", source="files", files=[f"{tmp_path}/t/*"], held_out_fraction=0.4, context_length=ROOM),
        tmp_path / "corpora",
    )
    with pytest.raises(TaskError, match="has no item for task next_line"):
        write_items("next_line", flat, Bytes(), tmp_path / "x.jsonl", count=9)
    assert not (tmp_path / "x.jsonl").exists()
    spec = DataSpec(
        name="s", source="synthetic", tokenizer="none", context_length=16,
        synthetic=SyntheticSpec(vocab_size=16, tokens=20_000, chains=40),
    )  # fmt: skip
    with pytest.raises(TaskError, match="tokens without any"):
        write_items("identifier", prepare(spec, tmp_path / "corpora"), Numbers(16), tmp_path / "x.jsonl", count=9)
