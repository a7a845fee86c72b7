"""Files of studies in a folder of the user's, looked at before Hydra reads them."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from yaml import YAMLError

from isoflop.experiments.compose.messages import UsageError, first_sentence
from isoflop.experiments.config import no_flag

MOST_BYTES, MOST_VALUES = 10_000_000, 100_000  # of a file of YAML, and of what its anchors unfold to


def check_files(folder: Path, overrides: Sequence[str]) -> None:
    """Raise UsageError naming a file of the folder, among those that the overrides name, that Hydra would not survive.

    That is one whose anchors unfold to too much, whose defaults come back to it, or that is not YAML in UTF-8.
    """
    for override in overrides:
        group, _, names = override.lstrip("+").partition("=")
        for name in names.split(","):
            _check_file(folder, group, name.strip("'\""), ())


def _check_file(folder: Path, group: str, name: str, named_by: tuple[Path, ...]) -> None:
    """Check GROUP/NAME.yaml of the folder, if there is one, and what its defaults name."""
    path = folder / group / f"{name}.yaml"
    if not path.is_file():  # of isoflop's own, or a pipe, which Hydra does not read either
        return
    if path in named_by:
        circle = " -> ".join(str(one) for one in (*named_by[named_by.index(path) :], path))
        raise UsageError(f"the defaults of a file name the file itself: {circle}")
    nodes = _nodes(path)
    _check_values(nodes, "" if group == "experiment" else f"{group}.", path)
    for below in _defaults(nodes, path):
        inner, _, value = below.rpartition("=")
        inner, value = (one.removeprefix("override ").partition("@")[0].strip() for one in (inner, value))
        whole = Path("/", group, inner, value)  # a group that begins with / is no part of this one
        _check_file(folder, str(whole.parent).strip("/"), whole.name, (*named_by, path))


def _nodes(path: Path) -> yaml.Node | None:
    """What a file of YAML holds, its anchors not unfolded. Raises UsageError."""
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise UsageError(f"{path}: {size:,} bytes; a file of a configuration has at most {MOST_BYTES:,}")
        node = yaml.compose(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
        if node is not None and not isinstance(node, yaml.MappingNode):
            raise UsageError(f"{path}: a file of a configuration holds keys with values, KEY: VALUE")
        if _unfolded(node, {}) > MOST_VALUES:
            raise UsageError(f"{path}: its anchors unfold to more than {MOST_VALUES:,} values")
        return node
    except (UnicodeDecodeError, RecursionError, OSError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UsageError(f"{path} cannot be read ({reason})") from error
    except YAMLError as error:
        raise UsageError(f"{path}: {first_sentence(error)}") from error


def _check_values(node: yaml.Node | None, above: str, path: Path) -> None:
    """Raise UsageError naming the file for keys that are empty, and for numbers in the place of true or false."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":null"):
            raise UsageError(f"{path}: line {key.start_mark.line + 1}: a key is a text")
        dotted = f"{above}{key.value}"
        if dotted == "config_dirs":
            raise UsageError(f"{path}: config_dirs is filled in; type --config-dir DIR")
        number = yaml.safe_load(value.value) if value.tag.endswith((":int", ":float")) else None
        if wrong := no_flag(dotted, number):
            raise UsageError(f"{path}: {wrong}")
        _check_values(value, f"{dotted}.", path)


def _defaults(node: yaml.Node | None, path: Path) -> Iterator[str]:
    """NAME or GROUP=NAME for every entry of the list of defaults in a file."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value == "defaults" and isinstance(value, yaml.SequenceNode):
            for entry in value.value:
                if isinstance(entry, yaml.ScalarNode):
                    yield entry.value
                elif isinstance(entry, yaml.MappingNode):
                    if any(isinstance(name, yaml.MappingNode) for _, name in entry.value):
                        raise UsageError(
                            f"{path}: line {entry.start_mark.line + 1}: an entry of defaults is NAME or GROUP: NAME"
                        )
                    yield from (
                        f"{group.value}={name.value}"
                        for group, name in entry.value
                        if isinstance(name, yaml.ScalarNode)
                    )


def _unfolded(node: yaml.Node | None, known: dict[int, float]) -> float:
    """The values of a node when every anchor stands where it is named; a node that holds itself has no end."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        parts = node.value if isinstance(node, yaml.SequenceNode) else [one for pair in node.value for one in pair]
        known[id(node)] = 1 + sum(_unfolded(one, known) for one in parts)
    return known[id(node)]
