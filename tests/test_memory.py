"""What the process asks of the memory allocator."""

import platform
import subprocess
import sys

import pytest

from jaxgen import memory

MEASURE = """
import sys
import numpy as np
from jaxgen.memory import keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

if sys.argv[1] == "keep":
    keep_freed_memory()
def use():
    block = np.ones(2**24)

before = resident()
if sys.argv[2] == "thread":
    import threading
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
else:
    use()
print(resident() - before > 2**26)
"""


def measure(choice, where):
    return subprocess.run(
        [sys.executable, "-c", MEASURE, choice, where], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize("where", ["main", "thread"])
def test_freed_memory_stays_where_the_c_library_is_glibc(where):
    assert measure("leave", where) == "False"
    assert measure("keep", where) == str(platform.libc_ver()[0] == "glibc")


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(AssertionError("called")))
    memory.keep_freed_memory()
