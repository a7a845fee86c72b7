"""What reaching a loss takes on more devices: larger batches, fewer steps and more tokens."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd


def schedule(
    steps: Callable[[Any], Any], critical: float, least: float, *, devices: int, speed: float, deadline: float | None
) -> tuple[pd.DataFrame, int | None]:
    """Rows of 1, 2, 4, ... devices up to `devices`: batch, steps, tokens, hours, device hours, waste; and the fewest
    that meet the deadline in seconds (None: no number of them, or no deadline).

    `steps` to the loss at a batch, whose `critical` one is known; a device takes `least` tokens a step and reads
    `speed` tokens a second.
    """
    counts = sorted({*(2**k for k in range(devices.bit_length())), devices})
    batch = np.array(counts, dtype=float) * least
    taken = np.asarray(steps(batch), dtype=float)
    seconds = taken * least / speed
    frame = pd.DataFrame({
        "devices": counts, "batch": batch, "steps": taken, "tokens": taken * batch, "hours": seconds / 3600,
        "device_hours": seconds * counts / 3600, "waste": batch / critical,
    })  # fmt: skip
    meets = [n for n, took in zip(counts, seconds.tolist(), strict=True) if deadline is not None and took <= deadline]
    return frame, meets[0] if meets else None
