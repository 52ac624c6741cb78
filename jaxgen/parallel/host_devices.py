"""A CPU as several devices."""

import math
import os
from pathlib import Path

import jax

_MOST = 8


def split_host(batch_size: int) -> int:
    """Splits the CPU into devices that each take a part of every batch, as many as there are cores, 8 at most.

    Steps of many small operations, such as recurrent nets', gain by it: one such operation is too small for several
    cores, but each device computes its own. It is for the start of a program of one process. Nothing is split where JAX
    has begun to work, or where JAX_NUM_CPU_DEVICES or XLA_FLAGS say how many devices there are.

    Args:
        batch_size: what the number of devices must divide.

    Returns:
        The number of devices asked for; 1 where nothing is split.
    """
    if "JAX_NUM_CPU_DEVICES" in os.environ or "device_count" in os.environ.get("XLA_FLAGS", ""):
        return 1
    cores = min(_cores(), _quota())
    devices = max(
        count for count in (1, 2, 4, _MOST) if count == 1 or (count <= cores and batch_size % count == 0)
    )
    try:
        jax.config.update("jax_num_cpu_devices", devices)
    except RuntimeError:  # JAX has begun to work
        return 1
    return devices


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quota() -> float:
    """Gives how many cores' time a container may take at most."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1.0, int(quota) / int(period))
    except (OSError, ValueError):  # no such limit
        return math.inf
