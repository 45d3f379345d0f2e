"""Setup shared by all worker processes."""

import multiprocessing
import os
import threading


def follow_parent() -> None:
    """Make this worker process exit when its parent exits or is killed."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
