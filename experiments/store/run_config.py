"""The configuration that a run's file holds beside its rows, checked before it is used: a store may be anybody's."""

from typing import Any, NotRequired, TypedDict, cast

from isoflop.experiments.config import DataSpec
from isoflop.experiments.store.store import Store, StoreError
from isoflop.read_json import JsonError, check_shape
from isoflop.scaling.table.runs import read_config


class _Schedule(TypedDict):
    name: NotRequired[str]
    cooldown_fraction: NotRequired[float]


class _What(TypedDict):
    optim: dict[str, Any]
    schedule: _Schedule
    precision: NotRequired[str]


class _Parent(TypedDict):
    run_id: str
    folder: str


class RunConfig(TypedDict):
    """What is used of the configuration in a run's file: `sweep.train_job.config_of` writes it."""

    what: _What
    data: dict[str, Any]
    study: str
    parent: NotRequired[_Parent | None]


def run_config(store: Store, run_id: str) -> RunConfig:
    """The configuration of a finished run. Raises StoreError naming the file and the key that cannot be used."""
    path = store.run_file(run_id)
    config = read_config(path)
    try:
        check_shape(config, RunConfig, source=f"{path}: its configuration", nan=True)
        check_shape(config["data"], DataSpec, source=f"{path}: its configuration: data", nan=True)
    except JsonError as error:
        raise StoreError(f"{error}; delete its folder and run the study again to train it anew") from error
    return cast(RunConfig, config)
