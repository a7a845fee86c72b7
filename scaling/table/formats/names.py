"""Names of the columns of a file, whatever its format."""

import re
from collections import Counter
from pathlib import Path

from isoflop.scaling.table.columns import TableError
from isoflop.scaling.table.meaning import meaning

LABELS = ("run_id", "trunk_id", "arm", "dataset")


def one_line(name: object) -> str:
    """The name of a column in one line."""
    return re.sub(r"\s*[\r\n]+\s*", " ", str(name)).strip()


def refuse_repeated(names: list[str], path: Path) -> None:
    """Raise TableError for a name with a meaning that stands over several columns."""
    repeated = [name for name, n in Counter(names).items() if n > 1 and (meaning(name) or name in LABELS)]
    if repeated:
        raise TableError(f"{path}: several columns are called {', '.join(repeated)}; rename all but one")
