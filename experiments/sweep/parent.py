"""A pool's worker ends with the process that it works for, at work, idle, or not yet at its first job."""

import os
import threading
import time

LOOK_SECONDS = 1.0


def end_with(parent: int) -> None:
    """Watch, from a thread for the rest of this process, that its parent is still `parent`; end at once if not.

    Nobody would look at the result, and the next launch wants the trunk. What was written is whole, so nothing is lost
    but the steps since the last checkpoint.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
