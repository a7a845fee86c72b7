"""The template of a next study: the parts of models and the settings that the runs of a table have in common.

A runs folder holds the settings of every run. A single file (a compacted table) holds some of them as columns: those
are repeated, and a note names the others. The parts of a model are columns of every table of runs.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import pandas as pd

from isoflop.experiments.config import DataSpec, ModelSpec, OptimSpec, ScheduleSpec, WhereSpec
from isoflop.experiments.store.run_config import RunConfig, run_config
from isoflop.experiments.store.store import Store, open_store
from isoflop.experiments.study.engine import PRECISIONS
from isoflop.experiments.study.rules import resolve
from isoflop.experiments.study.sizes import load_size, size_names
from isoflop.experiments.training.checkpoint import BRANCH, TRUNK, saved
from isoflop.models.config import FAMILIES, OPTIONS, PLAIN, ModelConfig, family_named
from isoflop.read_json import check_shape
from isoflop.scaling.table.bundle.manifest import CONFIGS_FILE, is_bundle, read_configs
from isoflop.scaling.table.migrate import OF_OPTIMIZER, OF_SCHEDULE
from isoflop.scaling.table.where import keeping

PARTS = (
    "family", "tied", "norm", "activation", "positions", "weight_bits", "activation_bits", "experts",
    "experts_per_token",
)  # fmt: skip
SHAPE = ("n_layer", "d_model", "n_head", "d_ff")
SECTIONS = {"data": DataSpec, "optim": OptimSpec, "schedule": ScheduleSpec, "where": WhereSpec}
COLUMNS = {
    "data.context_length": "context_length", "optim.name": "optimizer", "optim.parametrization": "parametrization",
    "optim.learning_rate": "peak_learning_rate", "optim.weight_decay": "weight_decay",
    "optim.batch_size": "batch_size", "schedule.name": "schedule",
    "schedule.warmup_steps": "warmup_steps",
    **{f"optim.{name}": name for name in OF_OPTIMIZER},
    **{f"schedule.{name}": name for name in (*OF_SCHEDULE, "cooldown_shape")},
}  # fmt: skip
UNRECORDED = ("data.source", "data.eval_tokens")
NOT_RECORDED = "the table does not record "


class NextStudyError(ValueError):
    """No study can be written for these runs."""

    exit_code = 1


@dataclass(frozen=True)
class Template:
    """What a next study repeats of the runs of a table."""

    settings: dict[str, dict[str, Any]]  # by section of the configuration: data, optim, schedule, where
    parts: ModelSpec  # of the models: all but depth and widths
    cooldown: float  # share of a cell after the branch point of its trunk; 1 without trunks
    trained: dict[int, float]  # tokens at which the trunk of a size (n_params_total) can go on
    notes: tuple[str, ...]  # on settings that differ between runs or that the table does not record

    @cached_property
    def base(self) -> ModelSpec:
        """The model that sizes of conf/model change: the schema's default where a size has these parts by itself."""
        parts = parts_in(self.parts)
        own = any(parts_in(load_size(name)) == parts for name in size_names())
        return ModelSpec() if own else self.parts

    @property
    def model_section(self) -> dict[str, Any]:
        """The parts that a study file must state because no size of conf/model does."""
        default, stated = asdict(ModelSpec()), [name for name in PARTS if self.base.experts or "experts" not in name]
        return {name: v for name, v in asdict(self.base).items() if name in stated and v != default[name]}


def source_of(table: pd.DataFrame) -> Path:
    """Where a table was read; "table", no file, of one that pandas made and that does not know."""
    return Path(table.attrs.get("source", "table"))


def template_of(runs: pd.DataFrame, path: Path, apart: Sequence[str] = ()) -> Template:
    """The template of the final rows `runs` of the table at `path`, without the keys of `data` that are set `apart`.

    Raises NextStudyError for models of two kinds.
    """
    parts = parts_of(runs)
    shared = _shared(Path(path)) if is_bundle(path) else {}
    if not Path(path).is_dir() or (is_bundle(path) and not shared):
        settings, mixed = _from_columns(runs)
        notes = (
            *mixed,
            f"{NOT_RECORDED}{', '.join(_unrecorded(runs))}: the study file leaves them at the defaults",
            f"its losses are of corpus {_most(runs['corpus_id'])} ({_most(runs['tokenizer_id'])}): "
            "add the data section that gives it, unless it is the default",
        )
        return Template(settings, parts, _cooldown(settings["schedule"]), {}, notes)
    store = None if shared else open_store(path)
    ids = runs["run_id"].unique()
    found = [_sections(run_config(store, i) if store else shared[i]) for i in ids if store or i in shared]
    for one in found:
        one["data"] = {key: value for key, value in one["data"].items() if key not in apart}
    import yaml

    texts = Counter(yaml.safe_dump(f) for f in found)
    settings = yaml.safe_load(texts.most_common(1)[0][0])
    horizons = runs.groupby("run_id")["horizon_tokens"].max()
    if rule := rule_of(found, [float(horizons[i]) for i in ids if store or i in shared]):
        del settings["optim"]["beta2"]
        settings["optim"] |= rule
    more = [f"runs differ in settings; the study file repeats the most common of {len(texts)}"] * (len(texts) > 1)
    if shared and settings["data"].get("files"):
        more.append("paths in a bundle have lost their folders: say where the text is in data.files of the study file")
    ends = _trunk_ends(runs, store) if store else {}
    return Template(settings, parts, _cooldown(settings["schedule"]), ends, tuple(more))


class _What(TypedDict):
    optim: dict[str, Any]
    schedule: dict[str, Any]


class _Config(TypedDict):
    """What is read of the configuration of a run."""

    data: dict[str, Any]
    what: _What


def _shared(bundle: Path) -> dict[str, dict[str, Any]]:
    """The configurations in a bundle, which may be anybody's: of the right shape, and with nothing to interpolate."""
    configs = read_configs(bundle)
    for run_id, config in configs.items():
        source = f"{bundle / CONFIGS_FILE}, run {run_id[:60]}"
        check_shape(config, _Config, source=source, nan=True)
        if "${" in json.dumps(config):
            raise NextStudyError(f"{source}: a setting holds ${{...}}, which would be looked up here")
    return configs


def _sections(config: RunConfig | dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of one run that are not the schema's own defaults, by section; names always."""
    what = config["what"]
    values = {"data": config["data"], "optim": what["optim"], "schedule": what["schedule"]}
    values["where"] = {"precision": what.get("precision", WhereSpec().precision)}
    return {section: _not_default(section, some) for section, some in values.items()}


def _not_default(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    default = asdict(SECTIONS[section]())
    return {k: v for k, v in values.items() if k == "name" or v != default.get(k)}


def rule_of(found: Sequence[Mapping[str, Mapping[str, Any]]], tokens: Sequence[float]) -> dict[str, Any]:
    """What gives beta2 of every batch, and the warm-up, where runs of several batches share one memory in tokens.

    `found` are the settings of the runs, by section, `tokens` their horizons. Empty where beta2 is one number, or each
    run's own.
    """
    runs = [(OptimSpec(**one["optim"]), ScheduleSpec(**one["schedule"]), DataSpec(**one["data"])) for one in found]
    if len({optim.beta2 for optim, _, _ in runs}) < 2 or any(not 0 < optim.beta2 < 1 for optim, _, _ in runs):
        return {}
    lives = [o.batch_size * data.context_length * math.log(0.5) / math.log(o.beta2) for o, _, data in runs]
    if max(lives) > min(lives) * (1 + 1e-9):
        return {}
    given: dict[str, Any] = {"beta2_half_life": float(f"{lives[0]:.9g}")}
    warm = given | {"rule": "untuned-warmup"}
    for (optim, schedule, data), horizon in zip(runs, tokens, strict=True):
        model = model_of(ModelSpec(), 256, data.context_length)
        if resolve(replace(optim, **warm), schedule, model, horizon)[1].warmup_steps != schedule.warmup_steps:
            return given
    return warm


def _from_columns(runs: pd.DataFrame) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The settings that are columns of a run table, the most common value of each; notes on those that differ."""
    columns = runs.assign(
        batch_size=runs["batch_tokens"] // runs["context_length"],
        warmup_steps=runs["warmup_tokens"] // runs["batch_tokens"],
    )
    settings: dict[str, dict[str, Any]] = {"data": {}, "optim": {}, "schedule": {}}
    mixed = []
    for key, column in COLUMNS.items():
        if _empty(columns[column]):
            continue
        section, _, name = key.partition(".")
        settings[section][name] = type(getattr(SECTIONS[section](), name))(_most(columns[column]))
        if columns[column].nunique() > 1:
            values = sorted(columns[column].unique())
            mixed.append(
                f"runs differ in {key} ({len(values)} values): the study file repeats {_most(columns[column])}"
            )
    if (precision := _most(columns["dtype"])) in PRECISIONS:
        settings["where"] = {"precision": precision}
    return {section: _not_default(section, values) for section, values in settings.items()}, mixed


def _unrecorded(runs: pd.DataFrame) -> list[str]:
    """The settings that a run table does not hold: those of UNRECORDED, and those whose column is empty."""
    return [*UNRECORDED, *(key for key, column in COLUMNS.items() if column in runs and _empty(runs[column]))]


def _empty(values: pd.Series) -> bool:
    """Whether no run has a value of a setting: a table of before it was kept."""
    return bool((values.isna() | (values == "")).all())


def _most(values: pd.Series) -> Any:
    return values.mode().tolist()[0]


def _cooldown(schedule: Mapping[str, Any]) -> float:
    default = ScheduleSpec().cooldown_fraction
    return float(schedule.get("cooldown_fraction", default)) if schedule.get("name") == "wsd" else 1.0


def _trunk_ends(runs: pd.DataFrame, store: Store) -> dict[int, float]:
    """Tokens at the furthest checkpoint of the first seed's trunk, by total parameters."""
    ends = {}
    for trunk_id, run in runs[runs["seed"] == 0].groupby("trunk_id").first().iterrows():
        states = saved(store.trunk_folder(str(trunk_id)), TRUNK, BRANCH)
        if states:
            ends[int(run["n_params_total"])] = float(states[0].step * run["batch_tokens"])
    return ends


def parts_of(runs: pd.DataFrame) -> ModelSpec:
    """The parts that all models of a table share. Raises NextStudyError when they differ, or are of no model here."""
    kinds = {parts_in(ModelSpec(**dict(zip(PARTS, row, strict=True)))) for row in runs[list(PARTS)].to_numpy().tolist()}
    if len(kinds) > 1:
        values = {name: sorted(set(held)) for name, held in zip(PARTS, zip(*kinds, strict=True), strict=True)}
        apart = {name: held for name, held in values.items() if len(held) > 1 and name != PARTS[-1]} or values
        several = "; ".join(f"{name}: {', '.join(map(str, held))}" for name, held in apart.items())
        name, (one, *_) = next(iter(apart.items()))
        raise NextStudyError(
            f"the runs are of models with different {', '.join(apart)} ({several}), and a study continues one kind: "
            f"keep one, e.g. {keeping({name: one})}"
        )
    parts = ModelSpec(**dict(zip(PARTS, kinds.pop(), strict=True)))
    unknown = [name for name, allowed in OPTIONS.items() if getattr(parts, name) not in allowed]
    if parts.family not in FAMILIES or unknown:
        raise NextStudyError(
            f"the runs are of a {parts.family!r} with parts that no size in conf/model can have "
            f"({', '.join(unknown) or 'its family'}): a study file can only name sizes of conf/model"
        )
    return parts


def parts_in(spec: ModelSpec) -> tuple[Any, ...]:
    """The parts of a size, in the order of PARTS; those that its family does not use are the default ones."""
    fields = family_named(spec.family).fields if spec.family in FAMILIES else PLAIN.keys()
    unused: dict[str, Any] = {name: value for name, value in PLAIN.items() if name not in fields}
    parts = replace(spec, **unused)
    parts = replace(parts, experts_per_token=parts.experts_per_token if parts.experts else 0)
    return tuple(getattr(parts, name) for name in PARTS)


def shape_in(model: Any) -> tuple[int, ...]:
    """Depth, width, heads and inner width of a model or of a row of the run table."""
    return tuple(int(getattr(model, name)) for name in SHAPE)


def model_of(spec: ModelSpec, vocab_size: int, context_length: int) -> ModelConfig:
    """The shape of a size on some data."""
    return ModelConfig(vocab_size=vocab_size, context_length=context_length, **asdict(spec))
