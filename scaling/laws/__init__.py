"""The catalogue of scaling laws, derived from the modules of this folder.

Every subclass of `Law` with a `name` that a module here defines is in the catalogue: to add a law, add a module. A
user's own law, named "module:Class", goes through the same facts without being in it.

>>> import isoflop
>>> list(isoflop.laws.LAWS)[:2]
['chinchilla', 'kaplan']
>>> law = isoflop.laws.LAWS["chinchilla"](E=1.82, A=482.0, B=2085.0, alpha=0.348, beta=0.366)
>>> f"{law(70e9, 1.4e12):.2f}"  # nats/token of 70e9 parameters on 1.4e12 tokens
'1.98'
"""

import importlib
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from isoflop.scaling.laws.inputs import STANDARD, Column
from isoflop.scaling.laws.law import Box, Law, Preset, Role

__all__ = [
    "LAWS", "PRESETS", "Box", "Column", "Law", "Laws", "columns_read", "form_of", "get_law", "law_name", "law_names",
    "with_role",
]  # fmt: skip

Laws = Sequence[type[Law] | str] | type[Law] | str  # as a caller names them: by name, by class, several by commas


def _forms() -> Iterator[type[Law]]:
    for found in pkgutil.walk_packages(__path__, f"{__name__}."):
        module = importlib.import_module(found.name)
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Law) and value.__module__ == found.name and value.name:
                yield value


def _presets(forms: list[type[Law]]) -> dict[str, tuple[type[Law], Preset]]:
    known: dict[str, tuple[type[Law], Preset]] = {}
    for form in forms:
        for name, preset in form.all_presets().items():
            if name in known:
                other = known[name][0].__name__
                raise ValueError(f"{form.__name__} and {other} are both named {name!r}: give one its own presets")
            known[name] = (form, preset)
    return known


_FORMS = sorted(_forms(), key=lambda form: form.rank)
LAWS: dict[str, Any] = {form.name: form for form in _FORMS}
_OWN: dict[str, type[Law]] = {}  # classes that a session gave, by module:Class
_READ: dict[str, tuple[str, int]] = {}  # modules of laws of the user's own: file, and when it was changed, as imported
PRESETS: dict[str, tuple[type[Law], Preset]] = _presets(_FORMS)  # every name that a law can be fitted under
_EXPONENTS = ("a", "b", "frontier")  # the names of `Law.exponents`
# Columns that stand beside the parameters: of starts and refits, and of the laws of a report.
_COLUMNS = ("value", "converged", "law", "status", "noise", "at_bound", "free")


def with_role(role: Role) -> tuple[str, ...]:
    """Names of the laws that are used by default in one place (see `law.Role`), in the order of the catalogue."""
    return tuple(name for name, (_, preset) in PRESETS.items() if role in preset.roles)


def law_name(law: type[Law] | str) -> str:
    """The name that `get_law` knows a law by: of a class of the user's own module:Class. Raises ValueError as that."""
    if isinstance(law, str):
        return law
    if LAWS.get(getattr(law, "name", "")) is law:
        return law.name
    name = _name_of(law)
    _OWN[name] = _checked(law, name)
    return name


def form_of(law: type[Law] | str) -> type[Law]:
    """The class of a law, itself or by its name. Raises ValueError as `get_law` does."""
    return get_law(law)[0] if isinstance(law, str) else _checked(law, _name_of(law))


def _name_of(law: object) -> str:
    return f"{getattr(law, '__module__', '')}:{getattr(law, '__qualname__', repr(law))}"


def law_names(laws: Laws | None = None) -> tuple[str, ...]:
    """Names of laws given as a sequence, as one, or as one text with commas; for None or an empty one the catalogue."""
    if isinstance(laws, str):
        laws = [name.strip() for name in laws.split(",") if name.strip()]
    if isinstance(laws, type):
        laws = [laws]
    return tuple(map(law_name, laws)) if laws else tuple(PRESETS)


def columns_read(laws: Sequence[type[Law] | str]) -> tuple[Column, ...]:
    """Every column that the laws read, once each. Raises ValueError for an unknown name."""
    forms = map(form_of, laws)
    return tuple(dict.fromkeys(column for form in forms for column in form.reads().values()))


def of_size_and_data(name: str) -> bool:
    """Whether a law of the catalogue reads none but the columns that every study has: size, tokens, compute."""
    return set(PRESETS[name][0].inputs) <= set(STANDARD)


def get_law(name: str) -> tuple[type[Law], Preset]:
    """The form called `name` and how it is fitted under that name.

    `module:Class` names a user's own form, importable from the working directory, as its file is now. Raises
    ValueError for an unknown name, or a class that is no form.
    """
    if name in PRESETS:
        return PRESETS[name]
    if ":" in name:
        form = _user_law(name)
        return form, form.all_presets()[form.name]
    names = ", ".join(dict.fromkeys([*LAWS, *PRESETS]))
    raise ValueError(f"law {name!r} is not known; choose one of {names}, or module:Class")


def _user_law(name: str) -> type[Law]:
    if name in _OWN:
        return _OWN[name]
    module, _, attribute = name.partition(":")
    try:
        form = getattr(_module(module), attribute)
    except Exception as error:  # a module of the user's may end in any
        what = "" if isinstance(error, ImportError | AttributeError | ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"law {name!r} cannot be imported: {what}{error}") from error
    return _checked(form, name)


def _module(name: str) -> ModuleType:
    """The module that a name means in the working directory, or else on the path: imported again where that is another
    file by now, or the file has changed."""
    if name == "__main__":
        return sys.modules[name]
    here, quiet = str(Path.cwd()), sys.dont_write_bytecode
    sys.path.insert(0, here)
    sys.dont_write_bytecode = True  # compiled code is told from changed code by whole seconds
    try:
        file, known = _file_of(name), sys.modules.get(name)
        if file and name not in _READ and getattr(known, "__file__", None) == file[0]:
            _READ[name] = file
        if known and (file or name in _READ) and file != _READ.get(name):
            del sys.modules[name]
        importlib.invalidate_caches()
        module = importlib.import_module(name)
        if file:
            _READ[name] = file
        return module
    finally:
        sys.path.remove(here)
        sys.dont_write_bytecode = quiet


def _file_of(name: str) -> tuple[str, int] | None:
    """The file that a module would be imported from now, and when it was changed; None where no file holds it."""
    parent = name.rpartition(".")[0]
    found = PathFinder.find_spec(name, _module(parent).__path__ if parent else None)
    if found is None or found.origin is None or not Path(found.origin).exists():
        return None
    return found.origin, Path(found.origin).stat().st_mtime_ns


def _checked(form: object, name: str) -> type[Law]:
    """A class as a law. Raises ValueError naming what it lacks."""
    if not isinstance(form, type):
        raise ValueError(f"a law is a name, a class or module:Class, and this is of type {type(form).__name__}")
    if not issubclass(form, Law):
        raise ValueError(f"law {name!r} is not a subclass of isoflop.scaling.laws.law.Law")
    if not is_dataclass(form):
        raise ValueError(f"law {name!r} is not a dataclass of its parameters: write @dataclass(frozen=True) above it")
    missing = [p for p in form.parameters() if p not in form.box]
    if missing:
        raise ValueError(f"law {name!r} gives no search box for {', '.join(missing)}: add them to its `box`")
    empty = [p for p in form.parameters() if not form.box[p].lo < form.box[p].hi]
    if empty:
        box = form.box[empty[0]]
        raise ValueError(
            f"law {name!r}: its box of {empty[0]} goes from {box.lo:g} to {box.hi:g}: write Box(low, high)"
        )
    taken = taken_names(form)
    if taken:
        raise ValueError(
            f"law {name!r}: its parameter {taken[0]} has a name that results and laws use for something else: call it "
            f"another, such as {taken[0]}_0"
        )
    form.reads()
    if not form.name:
        form.name = name.partition(":")[2].rpartition(".")[2].lower()
    return form


def taken_names(form: type[Law]) -> list[str]:
    """Parameters of a form called as an attribute of every law, an exponent of it, or a column beside its parameters.

    An exponent is one where the form has `exponents` of its own.
    """
    own, derived = form.parameters(), _EXPONENTS if form.exponents is not Law.exponents else ()
    ends = {f"{name}_{end}" for name in (*own, *derived) for end in ("low", "high")}
    return [name for name in own if name in {*_COLUMNS, *derived, *ends} or hasattr(Law, name)]
