"""What the process asks of the memory allocator."""

import platform
import subprocess
import sys

from jaxgen import memory

MEASURE = """
import sys
import numpy as np
from jaxgen.memory import keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

if sys.argv[1] == "keep":
    keep_freed_memory()
before = resident()
block = np.ones(2**24)
del block
print(resident() - before > 2**26)
"""


def measure(choice):
    return subprocess.run(
        [sys.executable, "-c", MEASURE, choice], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_freed_memory_stays_where_the_c_library_is_glibc():
    assert measure("leave") == "False"
    assert measure("keep") == str(platform.libc_ver()[0] == "glibc")


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(AssertionError("called")))
    memory.keep_freed_memory()
