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
from pathlib import Path

from isoflop.scaling.laws.inputs import STANDARD, Column
from isoflop.scaling.laws.law import Box, Law, Preset, Role

__all__ = ["LAWS", "PRESETS", "Box", "Column", "Law", "columns_read", "get_law", "law_names", "with_role"]


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
LAWS: dict[str, type[Law]] = {form.name: form for form in _FORMS}
PRESETS: dict[str, tuple[type[Law], Preset]] = _presets(_FORMS)  # every name that a law can be fitted under


def with_role(role: Role) -> tuple[str, ...]:
    """Names of the laws that are used by default in one place (see `law.Role`), in the order of the catalogue."""
    return tuple(name for name, (_, preset) in PRESETS.items() if role in preset.roles)


def law_names(laws: Sequence[str] | str | None = None) -> tuple[str, ...]:
    """Names of laws given as a sequence or as one text with commas; for None or an empty one, the whole catalogue."""
    if isinstance(laws, str):
        laws = [name.strip() for name in laws.split(",") if name.strip()]
    return tuple(laws) if laws else tuple(PRESETS)


def columns_read(laws: Sequence[type[Law] | str]) -> tuple[Column, ...]:
    """Every column that the laws read, once each. Raises ValueError for an unknown name."""
    forms = [get_law(law)[0] if isinstance(law, str) else law for law in laws]
    return tuple(dict.fromkeys(column for form in forms for column in form.reads().values()))


def of_size_and_data(name: str) -> bool:
    """Whether a law of the catalogue reads none but the columns that every study has: size, tokens, compute."""
    return set(PRESETS[name][0].inputs) <= set(STANDARD)


def get_law(name: str) -> tuple[type[Law], Preset]:
    """The form called `name` and how it is fitted under that name.

    `module:Class` names a user's own form, importable from the working directory. Raises ValueError for an unknown
    name, or a class that is no form.
    """
    if name in PRESETS:
        return PRESETS[name]
    if ":" in name:
        form = _user_law(name)
        return form, form.all_presets()[form.name]
    names = ", ".join(dict.fromkeys([*LAWS, *PRESETS]))
    raise ValueError(f"law {name!r} is not known; choose one of {names}, or module:Class")


def _user_law(name: str) -> type[Law]:
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        form = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"law {name!r} cannot be imported: {error}") from error
    if not (isinstance(form, type) and issubclass(form, Law)):
        raise ValueError(f"law {name!r} is not a subclass of isoflop.scaling.laws.law.Law")
    missing = [p for p in form.parameters() if p not in form.box]
    if missing:
        raise ValueError(f"law {name!r} gives no search box for {', '.join(missing)}: add them to its `box`")
    form.reads()
    if not form.name:
        form.name = attribute.lower()
    return form
