"""Names a user may type: the sizes in `conf/model` and in folders of the user, and the nearest to a mistyped one."""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, fields, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import cast

from isoflop.experiments.config import ModelSpec
from isoflop.models.config import family_named
from isoflop.read_json import read_bytes

LARGEST = 2**16  # bytes of a size's file
_LINE = re.compile(r"(\w+): (?:([1-9]\d{0,8})|([a-z]{4,}))")  # a number, or a word
_KINDS = {field.name: field.type for field in fields(ModelSpec)}
_NO_WORDS = {"true", "false", "null"}  # of YAML's other values, those of four letters and more


class SizeError(ValueError):
    """A size is not there, or its file is none."""


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


def size_names(config_dirs: Sequence[str] = ()) -> tuple[str, ...]:
    """The names of all sizes, each family's narrowest first: of conf/model, and of `model/` in further folders."""
    return tuple(_files(config_dirs))


def load_size(name: str, base: ModelSpec | None = None, config_dirs: Sequence[str] = ()) -> ModelSpec:
    """The shape in model/<name>.yaml; what that file does not state is as in `base`.

    `config_dirs` are Hydra's further search path (`--config-dir`). Raises ValueError with the nearest names and the
    folders searched, or naming a file that is no model or that has the name of another size.
    """
    found = [models / f"{name}.yaml" for models in _folders(config_dirs) if f"{name}.yaml" in _entries(models)]
    if not found:
        known = _files(config_dirs)
        folders = ", ".join(["conf/model of isoflop", *(str(_models(entry)) for entry in config_dirs)])
        remedy = "" if config_dirs else "; --config-dir DIR adds DIR/model"
        raise SizeError(f"study.sizes: no model size {name!r}{suggest(name, known)}; searched {folders}{remedy}")
    first, *others = found
    if any(_text(other) != _text(first) for other in others):
        raise SizeError(f"study.sizes: {others[0]} has the name of another size, {name!r} in {first}: rename it")
    return _load(first, _text(first), astuple(base or ModelSpec()))


def name_of(spec: ModelSpec, config_dirs: Sequence[str] = ()) -> str:
    """The first name of a size with this shape, else the prefix of its family's sizes and its width."""
    default = astuple(ModelSpec())
    for name, (path, *_) in _files(config_dirs).items():
        if _load(path, _text(path), default) == spec:
            return name
    return f"{family_named(spec.family).size_prefix}d{spec.d_model}"


@cache
def _load(path: Path, text: str, base: tuple) -> ModelSpec:
    if (plain := _plain(text, ModelSpec(*base))) is not None:
        return plain
    from omegaconf import OmegaConf  # here, because loading it and reading all sizes by it take a quarter of a second
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        merged = OmegaConf.merge(OmegaConf.structured(ModelSpec(*base)), OmegaConf.create(text))
        return cast(ModelSpec, OmegaConf.to_object(merged))
    except (OmegaConfBaseException, YAMLError, AssertionError, RecursionError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SizeError(f"{path}: not a model's size ({reason})") from error


def _plain(text: str, base: ModelSpec) -> ModelSpec | None:
    """The shape in a text of whole numbers and words, a line each, as OmegaConf reads it; None for any other text."""
    found: dict[str, int | str] = {}
    lines = text.removesuffix("\n").split("\n")
    if not all(line.isascii() and line.isprintable() for line in lines):
        return None
    for line in lines:
        if line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        name, number, word = match.groups() if match else ("", None, None)
        fits = _KINDS.get(name) in (int, int | None) if number else _KINDS.get(name) is str and word not in _NO_WORDS
        if not fits or name in found:
            return None
        found[name] = int(number) if number else str(word)
    return replace(base, **found) if found else None  # type: ignore[arg-type]  # by _KINDS


def _text(path: Path) -> str:
    try:
        return read_bytes(path, LARGEST).decode("utf-8")
    except (OSError, ValueError) as error:
        raise SizeError(f"{path}: not a model's size ({error})") from error


def _files(config_dirs: Sequence[str]) -> dict[str, list[Path]]:
    """The files of each name, in the order that they are searched in."""
    found: dict[str, list[Path]] = {}
    for models in _folders(config_dirs):
        for path in map(models.joinpath, _entries(models)):
            if path.suffix == ".yaml":
                found.setdefault(path.stem, []).append(path)
    return {name: found[name] for name in sorted(found, key=lambda n: (n.rstrip("0123456789"), len(n), n))}


def _folders(config_dirs: Sequence[str]) -> Iterator[Path]:
    """The folders of sizes, in the order that they are searched in."""
    yield from map(_models, ["pkg://isoflop.conf", *config_dirs])


def _entries(folder: Path) -> list[str]:
    """The names in a folder; none where there is no folder."""
    return os.listdir(folder) if folder.is_dir() else []


def _models(entry: str) -> Path:
    """The folder of sizes in an entry of Hydra's search path: `file://DIR`, `pkg://a.package` or a folder."""
    scheme, _, rest = entry.rpartition("://")
    return Path(str(files(rest))) / "model" if scheme == "pkg" else Path(rest) / "model"
