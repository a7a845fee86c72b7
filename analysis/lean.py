"""matplotlib imported without what no command looks at: half of what the import takes.

At every import it writes a description of each artist's properties, out of the source of 2,000 methods, and it loads
axes of three dimensions. A program that imports this package has both.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from matplotlib import artist

SOLID = "mpl_toolkits.mplot3d"


@contextmanager
def lean() -> Iterator[None]:
    """Artists imported first inside have no descriptions of their properties, figures no axes of three dimensions."""
    described, artist.kwdoc = artist.kwdoc, lambda artist: ""
    absent = ModuleType(SOLID)
    absent.__dict__["Axes3D"] = None
    found = sys.modules.setdefault(SOLID, absent)
    try:
        yield
    finally:
        artist.kwdoc = described
        if found is absent:
            del sys.modules[SOLID]
