"""matplotlib imported without descriptions of its artists' properties.

It makes them anew at every import, out of the source of 2,000 methods: a third of what the import takes. Nobody reads
them in a command; a program that imports this package has them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib import artist


@contextmanager
def undocumented() -> Iterator[None]:
    """Artists whose modules are first imported inside have no descriptions of their properties."""
    described, artist.kwdoc = artist.kwdoc, lambda _: ""
    try:
        yield
    finally:
        artist.kwdoc = described
