"""Finished runs on tasks, by EleutherAI's lm-eval on the exported folder: `isoflop evaluate`.

A task is one of `finished.tasks`, made from the held-out text; a YAML file of lm-eval's (examples in conf/task); or
the name of one of lm-eval's own, whose data it fetches itself.
"""

import difflib
import hashlib
import importlib.util
import io
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from isoflop.experiments.finished.card import export
from isoflop.experiments.finished.remeasure import corpus_of
from isoflop.experiments.finished.tasks import TASKS, TaskError, write_items
from isoflop.experiments.store.models import Trained
from isoflop.models.config import family_of
from isoflop.scaling.table.evaluations.task_scores import ITEMS, SCORES, write_scores

BATCH = 64  # sequences at once
_NUL = "\u0100"  # how byte-level tokenizers write the byte 0
RESAMPLES = 1000  # for scores that are no mean over items


@dataclass(frozen=True)
class TaskRequest:
    """Tasks to score runs on, by the names that were typed, and the most items of each."""

    tasks: tuple[str, ...]
    items: int

    @property
    def local(self) -> bool:
        """Whether every task's data is on this machine."""
        return all(task in TASKS or task.endswith((".yaml", ".yml")) for task in self.tasks)


def check(request: TaskRequest) -> None:
    """Raise TaskError for a missing package or task file, before anything is exported."""
    if importlib.util.find_spec("lm_eval") is None:
        raise TaskError("scoring tasks needs lm-eval; pip install 'isoflop[evaluate]'")
    for task in request.tasks:
        if task.endswith((".yaml", ".yml")) and not Path(task).is_file():
            raise TaskError(f"--tasks {task}: no such file; the examples are in {files('isoflop.conf') / 'task'}")
        near = difflib.get_close_matches(task, TASKS, n=1, cutoff=0.75)
        if near and task not in TASKS:
            raise TaskError(f"--tasks {task}: not known; did you mean {near[0]}?")


def score(trained: Trained, request: TaskRequest, *, corpora: Path, device: str = "cpu") -> pd.DataFrame:
    """Score a run on tasks, keep the scores in its folder, and return them: `task_scores.SCORES`.

    Raises TaskError for a task that is not known or does not suit the model.
    """
    if not family_of(trained.model.config).is_llama(trained.model.config):
        raise TaskError(
            f"run {trained.run_id} is a {trained.final['family']} that transformers has no class for; "
            "only the default Transformer can be scored"
        )
    with _quiet(offline=request.local, cache=trained.store.root / "tasks" / ".cache"):
        import lm_eval

        tasks = _load(trained, request, corpora)
        model = _model(trained, device)
        found = lm_eval.evaluate(model, tasks, limit=request.items, bootstrap_iters=RESAMPLES, verbosity="ERROR")
    about = {
        "run_id": trained.run_id,
        "lm_eval_version": lm_eval.__version__,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    scores = pd.DataFrame([row | about for name in found["results"] for row in _scores(found, name)])
    items = pd.DataFrame([row | about for name in found["samples"] for row in _items(found["samples"][name], name)])
    scores, items = scores[[c.name for c in SCORES]], items.reindex(columns=[c.name for c in ITEMS])
    write_scores(trained.store.run_file(trained.run_id).parent, scores, items)
    return scores


def _load(trained: Trained, request: TaskRequest, corpora: Path) -> dict[str, Any]:
    """lm-eval's task objects."""
    from lm_eval.tasks import TaskManager

    folders = [str(Path(task).resolve().parent) for task in request.tasks if task not in TASKS]
    manager = TaskManager(verbosity="ERROR", include_path=folders or None, include_defaults=not request.local)
    specs: list[str | dict[str, Any]] = []
    for task in request.tasks:
        if task in TASKS:
            specs.append(_made_here(task, trained, request.items, corpora))
        else:
            specs.append(_named_in(Path(task)) if task.endswith((".yaml", ".yml")) else task)
    for name in [spec for spec in specs if isinstance(spec, str)]:
        if not manager.match_tasks([name]):
            near = difflib.get_close_matches(name, manager.all_tasks, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            known = f"{', '.join(TASKS)}, .yaml files, and what `lm-eval ls tasks` lists"
            raise TaskError(f"--tasks {name}: not known; {hint}There are {known}")
    return manager.load(specs)


def _made_here(task: str, trained: Trained, count: int, corpora: Path) -> dict[str, Any]:
    """The configuration of a task whose items are made from the held-out text."""
    import yaml

    corpus = corpus_of(trained, corpora)
    context = corpus.eval_windows.shape[1] - 1
    path = trained.store.root / "tasks" / f"{corpus.eval_id}-{context}-{count}" / f"{task}.jsonl"
    write_items(task, corpus, trained.tokenizer, path, count=count)
    config = yaml.safe_load((files("isoflop.conf") / "task" / f"{task}.yaml").read_text(encoding="utf-8"))
    return config | {"dataset_kwargs": {"data_files": {"test": str(path)}}}


def _named_in(path: Path) -> str:
    """The name that a task's YAML file gives it. Raises TaskError for a file without one."""
    name = re.search(r"^task:\s*(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    if name is None:
        raise TaskError(f"--tasks {path}: no line `task: NAME`; the examples are in {files('isoflop.conf') / 'task'}")
    return name[1]


def _model(trained: Trained, device: str) -> Any:
    """The export as a model of lm-eval.

    The tokenizer has no special tokens, and lm-eval would add them beyond the vocabulary: the byte that no text has
    pads and ends, and a line break stands before a text without context.
    """
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = export(trained, trained.store.root / "exports" / trained.run_id)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.pad_token = tokenizer.eos_token = _NUL if _NUL in tokenizer.vocab else tokenizer.convert_ids_to_tokens(0)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    model = model.to(device)
    first = tokenizer("\n").input_ids[0]
    return HFLM(pretrained=model, tokenizer=tokenizer, device=device, batch_size=BATCH, prefix_token_id=first)


def _scores(found: dict, task: str) -> Iterable[dict]:
    """A row for each metric of a task, in the order of its configuration."""
    result, samples = found["results"][task], found["samples"].get(task, [])
    listed = [m["metric"] for m in found["configs"].get(task, {}).get("metric_list", [])]
    names = sorted(
        (name for name in result if "," in name and not name.partition(",")[0].endswith("_stderr")),
        key=lambda name: listed.index(name.partition(",")[0]) if name.partition(",")[0] in listed else len(listed),
    )
    hashes = "".join(sample["doc_hash"] + sample["prompt_hash"] for sample in samples)
    for name in names:
        metric, _, filtered = name.partition(",")
        stderr = result.get(f"{metric}_stderr,{filtered}")
        yield {
            "task": task,
            "metric": metric if filtered == "none" else name,
            "value": float(result[name]),
            "stderr": float(stderr) if isinstance(stderr, int | float) else np.nan,
            "items": len(samples),
            "chance": _chance(samples),
            "items_id": hashlib.sha256(hashes.encode()).hexdigest()[:12],
            "higher_is_better": bool(found["higher_is_better"].get(task, {}).get(metric, True)),
        }


def _chance(samples: Sequence[dict]) -> float:
    """The share that guessing gets right, where every item is a choice."""
    choices = [len(sample["arguments"]) for sample in samples]
    return float(np.mean([1 / n for n in choices])) if choices and min(choices) > 1 else np.nan


def _items(samples: Sequence[dict], task: str) -> Iterable[dict]:
    """A row for each item and metric that is a number."""
    for sample in samples:
        for metric in sample["metrics"]:
            if isinstance(sample[metric], int | float | np.number | bool):
                name = metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"
                yield {"task": task, "metric": name, "item": sample["doc_id"], "value": float(sample[metric])}


@contextmanager
def _quiet(*, offline: bool, cache: Path) -> Iterator[None]:
    """Silence the libraries, put their cache in `cache`, and forbid them the network with `offline`.

    Progress bars are shown on a terminal alone; what lm-eval prints goes to stderr.
    """
    if offline:
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    os.environ.setdefault("HF_DATASETS_CACHE", str(cache))
    for name in ("lm_eval", "lm-eval", "datasets", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with redirect_stderr(io.StringIO()) if not sys.stderr.isatty() else nullcontext(), redirect_stdout(sys.stderr):
        yield
