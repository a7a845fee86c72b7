"""Results of lm-evaluation-harness (results_*.json): one model a file, its loss from a task that measures one."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NotRequired, TypedDict

import pandas as pd

from isoflop.read_json import read_json
from isoflop.scaling.imports.columns import runs_of_table
from isoflop.scaling.imports.source import ForeignRun, LeftOut, SourceError

_LOSSES = ("bits_per_byte", "byte_perplexity", "word_perplexity", "perplexity")  # the first that a task has


class _Config(TypedDict):
    model_num_parameters: NotRequired[int | None]
    model_args: NotRequired[str | dict[str, object] | None]


class _Results(TypedDict):
    results: dict[str, dict[str, object]]
    config: _Config
    model_name: NotRequired[str | None]


class ResultsReader:
    """Reads the results of lm-eval: parameters from its config, the loss from bits per byte or a perplexity."""

    kinds = ("lm-eval",)
    suffixes = (".json",)

    def recognises(self, path: Path) -> bool:
        """Whether a file holds results by task and a configuration, as lm-eval writes them."""
        if not path.is_file() or path.suffix != ".json":
            return False
        try:
            return bool(_held(path))
        except SourceError:
            return False

    def read(
        self, path: Path, name: str, mapping: Mapping[str, str], notes: list[str]
    ) -> tuple[list[ForeignRun], list[LeftOut]]:
        """The model of one file, with every score. Raises SourceError where no task measures a loss, or several do."""
        held = _held(path)
        scores = _scores(held["results"])
        column = mapping.get("loss") or _loss(scores, path)
        model, revision = str(held.get("model_name") or name), _revision(held["config"])
        row: dict[str, object] = {"run_id": model, **scores}
        if revision:  # a checkpoint of the run that the model is of
            row |= {"run_id": f"{model}@{revision}", "trunk_id": model}
        if (held["config"].get("model_num_parameters") or 0) > 0:  # -1 where lm-eval could not count them
            row["n_params"] = held["config"]["model_num_parameters"]
        runs, left_out = runs_of_table(name, str(path), pd.DataFrame([row]), {**mapping, "loss": column}, notes)
        return [replace(run, scores=scores) for run in runs], left_out


def _revision(config: _Config) -> str:
    """The revision of the model that was measured; empty for the main one."""
    args = config.get("model_args") or {}
    pairs = dict(part.partition("=")[::2] for part in args.split(",")) if isinstance(args, str) else args
    revision = str(pairs.get("revision") or "").strip()
    return "" if revision == "main" else revision


def named_scores(path: Path) -> tuple[str, dict[str, float]]:
    """The name of the model in a file of results, "" for none, and its scores by column. Raises SourceError."""
    held = _held(path)
    return str(held.get("model_name") or ""), _scores(held["results"])


def measures_a_loss(scores: Mapping[str, float]) -> bool:
    """Whether scores hold one that a law may be of."""
    return any(name.endswith(f" {measure}") for name in scores for measure in _LOSSES)


def _scores(results: Mapping[str, Mapping[str, object]]) -> dict[str, float]:
    """The scores by task and metric, `arc_easy acc`, and their standard errors, `arc_easy acc_se`.

    A metric with several filters has the name of the filter too: `gsm8k exact_match,strict-match`.
    """
    found = {}
    for task, measured in results.items():
        plain = [key.partition(",")[0] for key in measured]
        for key, value in measured.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            metric, _, chosen = key.partition(",")
            filtered = f",{chosen}" if plain.count(metric) > 1 and chosen != "none" else ""
            base = metric.removesuffix("_stderr")
            found[f"{task} {base}{filtered}{'_se' if base != metric else ''}"] = float(value)
    return found


def _held(path: Path) -> _Results:
    """What a file holds. Raises SourceError where it holds no results of lm-eval."""
    held: _Results = read_json(path, _Results, nan=True, error=SourceError)
    return held


def _loss(scores: Mapping[str, object], path: Path) -> str:
    """The column of the one loss that is measured, by the first of _LOSSES that some task has."""
    for measure in _LOSSES:
        found = [name for name in scores if name.endswith(f" {measure}")]
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(found[:6])
            raise SourceError(f"{path}: {len(found)} losses ({listed}); name one with --map loss=COLUMN")
    listed = ", ".join(list(scores)[:8])
    raise SourceError(f"{path}: no task in it measures a loss ({listed}); `isoflop accuracy` is for scores")


RESULTS = ResultsReader()
