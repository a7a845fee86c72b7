"""Names a user may type: the sizes in `conf/model`, and the nearest one to a mistyped name."""

import difflib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config import ModelSpec


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
    """The names in conf/model, the narrowest first."""
    names = [f.name.removesuffix(".yaml") for f in files("conf.model").iterdir() if f.name.endswith(".yaml")]
    return tuple(sorted(names, key=lambda name: (len(name), name)))


def load_size(name: str) -> ModelSpec:
    """The shape in conf/model/<name>.yaml. Raises ValueError with the near match."""
    return _load(name)


@cache
def _load(name: str) -> ModelSpec:
    if name not in size_names():
        raise ValueError(f"study.sizes: no model size {name!r}{suggest(name, size_names())}")
    raw = OmegaConf.create(files("conf.model").joinpath(f"{name}.yaml").read_text())
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelSpec), raw))
    except OmegaConfBaseException as error:
        raise ValueError(f"conf/model/{name}.yaml: {str(error).splitlines()[0]}") from error
