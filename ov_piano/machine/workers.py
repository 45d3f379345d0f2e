"""What worker processes of any kind have in common."""

import multiprocessing
import os
import threading


def follow_parent() -> None:
    """From now on this worker process ends when the one that started it does, however that ends."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
