"""Writes a cell as a TensorBoard run: one folder with its curve, its settings as text and as hyper-parameters.

    <runs>/tensorboard/<study>/<arm>-<size>-<flops>-seed<seed>-<run_id>/events.out.tfevents...

What is on disk decides what is still to be written, so a run that goes on after a kill repeats no point.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from isoflop.experiments.files import check_name
from isoflop.experiments.trackers.record import CURVES, TrackedRun


class TensorBoard:
    """The sink that writes event files under `<folder>/tensorboard`."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "tensorboard"
        self.writers: dict[str, tuple[SummaryWriter, int]] = {}

    def write(self, run: TrackedRun, rows: Sequence[dict], *, ended: bool) -> None:
        """Add the rows beyond the last step on disk; with the last ones also the result and the hyper-parameters."""
        writer, last = self.writers.get(run.run_id) or self._open(run)
        for row in rows:
            if row["step"] > last:
                for tag in CURVES:
                    writer.add_scalar(tag, row[tag], row["step"])
                last = row["step"]
        self.writers[run.run_id] = writer, last
        if ended:
            assert writer.file_writer is not None, "open until `close`"
            reached = {f"final/{tag}": float(rows[-1][tag]) for tag in ("loss", "bits_per_byte", "accuracy", "flops")}
            for summary in hparams(run.settings | {"state": rows[-1]["state"]}, reached):
                writer.file_writer.add_summary(summary)
            for tag, value in reached.items():
                writer.add_scalar(tag, value, last)
            self.writers.pop(run.run_id)[0].close()
        else:
            writer.flush()

    def close(self) -> None:
        """Close the files of runs that have not ended."""
        for writer, _ in self.writers.values():
            writer.close()

    def _open(self, run: TrackedRun) -> tuple[SummaryWriter, int]:
        for key in ("study", "arm", "size"):
            if run.settings.get(key):
                check_name(run.settings[key], key)
        folder = self.root / run.study / run.name
        last = last_step(folder)
        writer = SummaryWriter(folder, purge_step=last + 1 if last >= 0 else None)
        if last < 0:
            writer.add_text("settings", f"```json\n{json.dumps(run.settings, indent=2)}\n```")
        return writer, last


def last_step(folder: Path) -> int:
    """The last step whose loss is in the event files of `folder`, -1 without any."""
    if not any(folder.glob("*tfevents*")):
        return -1
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return max(point.step for point in events.Scalars("loss")) if "loss" in events.Tags()["scalars"] else -1
