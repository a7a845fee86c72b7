"""Hydra's state in this process, which other code may have set."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

_ONE_AT_A_TIME = threading.RLock()  # a process has one Hydra


@contextmanager
def others_hydra_kept() -> Iterator[None]:
    """Set aside what other code of this process initialised Hydra with, and put it back at the end.

    Another thread that enters waits until then.
    """
    with _ONE_AT_A_TIME:
        hydra, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
        GlobalHydra.instance().clear()
        try:
            yield
        finally:
            GlobalHydra.instance().hydra, HydraConfig.instance().cfg = hydra, config
