"""Finished runs compared: losses, scores on tasks, and whether the run of lower loss has the higher scores."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from isoflop.experiments.finished.lm_eval import TaskRequest, check, score
from isoflop.experiments.finished.remeasure import evaluation_of
from isoflop.experiments.store.models import Trained
from isoflop.printable import loss_text
from isoflop.scaling.table.evaluations.evaluation import Paired, paired_loss
from isoflop.scaling.table.evaluations.task_scores import paired_score, read_items

_COLUMNS = ("run_id", "n_params_total", "tokens", "loss", "loss_se", "bits_per_byte", "accuracy")
_SCORED = ("task", "metric", "value", "stderr", "items", "chance")


def compare(
    runs: Sequence[Trained], request: TaskRequest | None, *, corpora: Path, device: str = "cpu"
) -> dict[str, Any]:
    """Losses of the runs and scores on the requested tasks; every run but the first also against the first, paired.

    JSON-ready, losses in nats/token. Raises TaskError before anything is scored if a task cannot be, ValueError for
    runs whose losses cannot be paired.
    """
    if request:
        check(request)
    _check_text(runs)
    evaluations = [evaluation_of(run, corpora) for run in runs]
    rows = [{name: _plain(run.final[name]) for name in _COLUMNS} | {"arm": run.final["arm"]} for run in runs]
    if request:
        scores = [score(run, request, corpora=corpora, device=device) for run in runs]
    else:
        scores = [pd.DataFrame()] * len(runs)
    for row, found in zip(rows, scores, strict=True):
        row["scores"] = [{name: _plain(value) for name, value in one.items()} for one in _rows(found)]
    pairs: list[dict[str, Any]] = []
    for i in range(1, len(runs)):
        loss = paired_loss(evaluations[i], evaluations[0])
        pairs.append({
            "run_id": runs[i].run_id, "against": runs[0].run_id, "loss": _paired(loss),
            "scores": list(_pairs(runs[i], runs[0], scores[i], scores[0], loss)),
        })  # fmt: skip
    return {"runs": rows, "pairs": pairs}


def _check_text(runs: Sequence[Trained]) -> None:
    """Raise ValueError where a run was measured on other held-out windows than the first, of whatever sizes."""
    for run in runs[1:]:
        ids = [str(one.final["eval_id"]) for one in (runs[0], run)]
        if ids[0] != ids[1]:
            raise ValueError(
                f"runs {runs[0].run_id} and {run.run_id} were measured on different held-out text (eval_id {ids[0]} "
                f"and {ids[1]}): their losses cannot be paired; name runs of one eval_id"
            )


def _rows(scores: pd.DataFrame) -> list[dict[str, Any]]:
    return scores[list(_SCORED)].to_dict("records") if len(scores) else []


def _pairs(
    run: Trained, first: Trained, scores: pd.DataFrame, of_first: pd.DataFrame, loss: Paired
) -> Iterator[dict[str, Any]]:
    """Each score less the first run's, item by item, with the verdict on whether it goes with the loss.

    Raises ValueError where the two answered different questions of a task.
    """
    if scores.empty:
        return
    questions = of_first.groupby("task")["items_id"].first().to_dict()
    for task, requested in scores.groupby("task")["items_id"].first().items():
        if questions.get(task, requested) != requested:
            raise ValueError(
                f"runs {first.run_id} and {run.run_id} answered different questions of task {task} (items_id "
                f"{questions[task]} and {requested}): their scores cannot be paired; score each alone"
            )
    own, other = (read_items(one.store.run_file(one.run_id).parent) for one in (run, first))
    for row in scores.to_dict("records"):
        difference = paired_score(own, other, row["task"], row["metric"])
        if difference is None:  # a score of all items together, such as BLEU
            continue
        better = difference.difference if row["higher_is_better"] else -difference.difference
        yield {
            "task": row["task"],
            "metric": row["metric"],
            **_paired(difference),
            "verdict": verdict(better, difference, loss),
        }


def verdict(better: float, difference: Paired, loss: Paired) -> str:
    """Whether a difference in score, `better` by so much, goes with the difference in loss."""
    if difference.within_error:
        return "within error"
    if loss.within_error:
        return "losses within error"
    return "goes with the loss" if (better > 0) == (loss.difference < 0) else "against the loss"


def compare_text(found: dict[str, Any]) -> str:
    """A line per run and score, then a line per pair."""
    lines = []
    for run in found["runs"]:
        bits = "" if run["bits_per_byte"] is None else f", {loss_text(run['bits_per_byte'])} bits/byte"
        lines.append(
            f"run {run['run_id']}: {run['n_params_total']:,} parameters, {run['tokens']:,} tokens, "
            f"loss {loss_text(run['loss'])} +- {loss_text(run['loss_se'], of=run['loss'])} nats/token{bits}, "
            f"next-token accuracy {run['accuracy']:.3f}"
        )
        for one in run["scores"]:
            chance = "" if one["chance"] is None else f", chance {one['chance']:.3f}"
            error = "" if one["stderr"] is None else f" +- {one['stderr']:.4f}"
            name = f"{one['task']} {one['metric']}"
            lines.append(f"  {name:24} {one['value']:.4f}{error} on {one['items']} items{chance}")
    for pair in found["pairs"]:
        lines.append(f"run {pair['run_id']} less run {pair['against']}: loss {_difference(pair['loss'])}")
        lines += [
            f"  {one['task'] + ' ' + one['metric']:24} {_difference(one)}: {one['verdict']}" for one in pair["scores"]
        ]
    return "\n".join(lines)


def _difference(pair: dict[str, Any]) -> str:
    return f"{pair['difference']:+.4f} +- {pair['se']:.4f} over {pair['units']} {pair['unit']}s"


def _paired(found: Paired) -> dict[str, Any]:
    return asdict(found) | {"within_error": found.within_error}


def _plain(value: object) -> object:
    """A value for JSON: numpy's numbers as Python's, NaN as None."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and value != value else value
