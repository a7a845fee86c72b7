"""Names a user may type: the sizes in `conf/model`, and the nearest one to a mistyped name."""

import difflib
from collections.abc import Iterable
from dataclasses import astuple
from functools import cache
from importlib.resources import files

from isoflop.experiments.config import ModelSpec
from isoflop.models.config import family_named


def suggest(name: str, allowed: Iterable[str]) -> str:
    """'; did you mean d16? allowed: d8, d16, ...' for an error message."""
    allowed = list(allowed)
    initials = [other for other in allowed if _initials(other) == _last(name)]
    near = initials or difflib.get_close_matches(name, allowed, n=1)
    return (f"; did you mean {near[0]!r}?" if near else ";") + f" allowed: {', '.join(allowed) or 'nothing'}"


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _initials(name: str) -> str:
    return "".join(word[:1] for word in _last(name).split("_"))


@cache
def size_names() -> tuple[str, ...]:
    """The names in conf/model, each family's narrowest first."""
    names = [f.name.removesuffix(".yaml") for f in files("isoflop.conf.model").iterdir() if f.name.endswith(".yaml")]
    return tuple(sorted(names, key=lambda name: (name.rstrip("0123456789"), len(name), name)))


def load_size(name: str, base: ModelSpec | None = None) -> ModelSpec:
    """The shape in conf/model/<name>.yaml; what that file does not state is as in `base`.

    Raises ValueError with the near match.
    """
    return _load(name, astuple(base or ModelSpec()))


@cache
def _load(name: str, base: tuple) -> ModelSpec:
    if name not in size_names():
        raise ValueError(f"study.sizes: no model size {name!r}{suggest(name, size_names())}")
    from omegaconf import OmegaConf  # here, because a forecast from a published table needs no size and no Hydra
    from omegaconf.errors import OmegaConfBaseException

    raw = OmegaConf.create(files("isoflop.conf.model").joinpath(f"{name}.yaml").read_text())
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelSpec(*base)), raw))
    except OmegaConfBaseException as error:
        raise ValueError(f"conf/model/{name}.yaml: {str(error).splitlines()[0]}") from error


def name_of(spec: ModelSpec) -> str:
    """The first name in conf/model that has this shape, else the prefix of its family's sizes and its width."""
    same = (name for name in size_names() if load_size(name) == spec)
    return next(same, f"{family_named(spec.family).size_prefix}d{spec.d_model}")
