"""A CPU as several devices: as many as there are cores, unless the user has said how many."""

import os
import subprocess
import sys

import jax
import pytest

from jaxgen.parallel import split_host

CODE = """
import os, sys
os.sched_getaffinity = lambda process: range(int(sys.argv[1]))
from jaxgen.parallel import split_host
asked = split_host(int(sys.argv[2]))
import jax
print(asked, jax.device_count())
"""


def devices(cores, batch_size, **environment):
    kept = {
        name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")
    }
    result = subprocess.run(
        [sys.executable, "-c", CODE, str(cores), str(batch_size)],
        env={**kept, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(number) for number in result.stdout.split()]


@pytest.mark.parametrize(
    ("cores", "batch_size", "expected"), [(1, 64, 1), (3, 64, 2), (64, 64, 8), (64, 12, 4), (4, 25, 1)]
)
def test_there_are_as_many_devices_as_cores_that_divide_the_batch(cores, batch_size, expected):
    assert devices(cores, batch_size) == [expected, expected]


@pytest.mark.parametrize(
    "said", [{"JAX_NUM_CPU_DEVICES": "3"}, {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}]
)
def test_what_the_user_says_counts(said):
    assert devices(8, 64, **said) == [1, 3]


def test_a_program_that_has_begun_stays_as_it_is(monkeypatch):
    before = jax.device_count()
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(4))
    assert split_host(64) == 1
    assert jax.device_count() == before
