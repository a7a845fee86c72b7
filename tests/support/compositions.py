"""Hydra's work shared by the tests of a session: files of the package are read, listed and merged once.

What a test types is parsed and applied by Hydra as ever. Only what depends on nothing but the package's own files is
kept, each a copy for each composition; a folder of the user's (--config-dir) is read anew.
"""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from typing import Any

import pytest
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.defaults_list import DefaultsTreeNode, Overrides, ResultDefault
from omegaconf import DictConfig

READ, MERGE = ConfigRepository.load_config, ConfigLoaderImpl._compose_config_from_defaults_list
LIST = defaults_list._create_defaults_list


@contextmanager
def shared_compositions() -> Iterator[None]:
    """Inside, Hydra reads and merges nothing of the package twice."""
    files: dict[tuple[object, ...], Any] = {}
    trees: dict[tuple[object, ...], bytes] = {}  # of OmegaConf, pickled: a deep copy takes ten times as long
    lists: dict[tuple[object, ...], tuple[bytes, DefaultsTreeNode]] = {}  # what is chosen of each group, pickled

    def copied(self: CachingConfigRepository, delegate: Any) -> None:
        self.delegate, self.cache = copy(delegate), {}  # a new search path gives the copy new sources

    def listed(
        repo: Any, config_name: str | None, overrides: Overrides, prepend_hydra: bool, skip_missing: bool
    ) -> tuple[list[ResultDefault], DefaultsTreeNode]:
        if (own := _package(repo.delegate)) is None:
            return LIST(repo, config_name, overrides, prepend_hydra, skip_missing)
        chosen = {name: value for name, value in vars(overrides).items() if name != "config_overrides"}
        key = (own, config_name, prepend_hydra, skip_missing, pickle.dumps(chosen))
        if key not in lists:
            found, tree = LIST(repo, config_name, overrides, prepend_hydra, skip_missing)
            lists[key] = pickle.dumps((found, chosen)), tree  # what was chosen is written to
        kept, tree = lists[key]
        found, chosen = pickle.loads(kept)
        vars(overrides).update(chosen)
        return found, tree

    def read(self: ConfigRepository, config_path: str) -> Any:
        if (own := _package(self)) is None:
            return READ(self, config_path)
        if (key := (own, config_path)) not in files:
            files[key] = READ(self, config_path)
        found = copy(files[key])
        if found is not None:
            found.defaults_list = deepcopy(found.defaults_list)  # it is written to
        return found

    def merge(self: ConfigLoaderImpl, defaults: list[Any], repo: CachingConfigRepository) -> DictConfig:
        if (own := _package(repo.delegate)) is None:
            return MERGE(self, defaults, repo)
        key = (own, *((one.config_path, one.package, one.primary, one.is_self) for one in defaults))
        if key not in trees:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ConfigRepository, "load_config", READ)  # a tree takes the nodes of what it merges
                trees[key] = pickle.dumps(MERGE(self, defaults, repo.delegate))
        return pickle.loads(trees[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigRepository, "load_config", read)
        patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", merge)
        patch.setattr(CachingConfigRepository, "__init__", copied)
        patch.setattr(defaults_list, "_create_defaults_list", listed)
        yield


def _package(repo: Any) -> tuple[str, ...] | None:
    """Where a repository of Hydra looks; None where not all of that is of installed packages."""
    found = tuple(source.full_path() for source in repo.get_sources())
    return found if all(path.startswith(("pkg://", "structured://")) for path in found) else None
