"""Student's t and F and the gamma function of scipy.special, without the package around them.

`import scipy.special` takes a seventh of what `isoflop fit` takes, nearly all of it for docstrings and for arrays that
are not NumPy's. Its compiled functions are loaded from its folder alone; whatever imports it later finds them loaded.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

import scipy

PACKAGE = "scipy.special"

if TYPE_CHECKING:
    from scipy.special import chdtri, fdtrc, fdtri, gammaln, ndtr, ndtri, stdtr, stdtrit
else:

    def compiled() -> ModuleType:
        """The module of compiled functions, or the package where it is loaded already or has no such module."""
        if PACKAGE not in sys.modules:
            stand_in = ModuleType(PACKAGE)
            stand_in.__path__ = [f"{folder}/special" for folder in scipy.__path__]
            sys.modules[PACKAGE] = stand_in
            try:
                return import_module(f"{PACKAGE}._ufuncs")
            except ImportError:
                pass
            finally:
                del sys.modules[PACKAGE]
        return import_module(PACKAGE)

    _functions = compiled()
    chdtri, fdtrc, fdtri, gammaln = (_functions.chdtri, _functions.fdtrc, _functions.fdtri, _functions.gammaln)
    ndtr, ndtri, stdtr, stdtrit = _functions.ndtr, _functions.ndtri, _functions.stdtr, _functions.stdtrit

__all__ = ["chdtri", "fdtrc", "fdtri", "gammaln", "ndtr", "ndtri", "stdtr", "stdtrit"]
