"""What is to follow from the runs of a study needs a run that is done."""

from collections.abc import Iterable

from isoflop.experiments.followup.template import NextStudyError
from isoflop.experiments.store.store import Store


def check_some_done(store: Store, study: str, run_ids: Iterable[str], what: str) -> None:
    """Raise NextStudyError where of these runs, which have ended, all have diverged: `what` cannot follow from them."""
    states = store.states(run_ids)["state"]
    if len(states) and (states == "diverged").all():
        raise NextStudyError(
            f"study {study}: none of its {len(states)} cells is done, all diverged: {what}; "
            f"isoflop status {store.root} names them: a lower rate, optim.learning_rate"
        )
