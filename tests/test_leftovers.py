"""The check for leftover processes that ends each test session."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.processes import leftovers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_children_and_orphans_are_found_until_they_end():
    assert leftovers(0) == {}
    child = subprocess.Popen(["sleep", "60"])
    orphan = int(subprocess.check_output(["sh", "-c", "sleep 61 > /dev/null & echo $!"]))
    try:
        assert leftovers(0).keys() == {child.pid, orphan}
    finally:
        child.kill()
        child.wait()
        os.kill(orphan, signal.SIGKILL)
    assert leftovers(10) == {}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_are_found_but_not_its_helpers(method):
    child = multiprocessing.get_context(method).Process(target=time.sleep, args=(60,))
    child.start()
    try:
        assert leftovers(0).keys() == {child.pid}
    finally:
        child.kill()
        child.join()
    assert leftovers(10) == {}
