"""Writes a cell as a run of Weights & Biases: its id is the run_id, its group the study, its config the settings.

WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY and the rest of the environment apply. Without a login it writes offline, under
`<runs>/wandb`, for `wandb sync`. Offline, the folder of an interrupted run is replaced by that of the run that goes on,
which writes all rows again: each cell is one folder, whole. Online, W&B gives the step to go on from.
"""

import logging
import netrc
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast
from urllib.parse import urlparse

import wandb

from isoflop.experiments.trackers.record import CURVES, TrackedRun

log = logging.getLogger(__name__)
PROJECT = "isoflop"
QUIET = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True)


class WeightsAndBiases:
    """The sink that writes to the service, or under `<folder>/wandb`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        mode = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
        self.mode = cast(Literal["online", "offline", "disabled", "shared"], mode)  # W&B refuses any other
        if self.mode == "offline" and "WANDB_MODE" not in os.environ:
            log.warning("no W&B login here: runs are written to %s; `wandb sync` sends them", folder / "wandb")
        self.runs: dict[str, wandb.Run] = {}

    def write(self, run: TrackedRun, rows: Sequence[dict], *, ended: bool) -> None:
        """Log the rows that the service does not have; with the last ones also the summary, and finish the run."""
        if run.run_id not in self.runs:
            self.runs[run.run_id] = self._open(run)
        tracked = self.runs[run.run_id]
        for row in rows:
            if row["step"] >= tracked.starting_step:
                tracked.log({tag: row[tag] for tag in CURVES}, step=int(row["step"]))
        if ended:
            last = rows[-1]
            tracked.summary.update({tag: last[tag] for tag in CURVES} | {"state": last["state"], "step": last["step"]})
            self.runs.pop(run.run_id).finish(exit_code=0 if last["state"] == "done" else 1)

    def close(self) -> None:
        """Finish the runs that have not ended as interrupted."""
        for tracked in self.runs.values():
            tracked.finish(exit_code=1)  # the process ends before the cell has: it will go on

    def _open(self, run: TrackedRun) -> wandb.Run:
        if self.mode == "offline":
            for interrupted in self.folder.glob(f"wandb/offline-run-*-{run.run_id}"):
                shutil.rmtree(interrupted)
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.run_id,
            name=run.name,
            group=run.study,
            job_type=run.arm or None,
            config=run.settings,
            dir=self.folder,
            mode=self.mode,
            resume="allow" if self.mode == "online" else None,
            reinit="create_new",  # a worker has several cells under way or ending at once
            settings=QUIET,
        )


def logged_in() -> bool:
    """Whether W&B would find an API key without a prompt: in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
