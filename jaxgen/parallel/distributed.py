"""Start-up of a run of several processes, before any device is touched."""

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental.multihost_utils import reached_preemption_sync_point

from jaxgen.errors import JaxgenError

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_WAY_OUT = (
    f"set {', '.join(_VARIABLES[:2])} and {_VARIABLES[2]} for every process, or none of them for just one"
)


@dataclass(frozen=True)
class _Cluster:
    """What the environment says of the processes; what is missing in `arguments` JAX finds out by itself."""

    found: str
    arguments: dict[str, Any]


def initialize(*, timeout_seconds: int = 300) -> str:
    """Joins the other processes of the run, if the environment says that there are any.

    They are looked for in JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, in the variables of a
    SLURM step of several tasks, and in TPU_WORKER_HOSTNAMES where it names several hosts. Call it before
    anything that touches a device; a process alone, or one that has joined already, needs nothing.

    Args:
        timeout_seconds: how long to wait for the others.

    Returns:
        What was found, in a few words for the log.

    Raises:
        JaxgenError: if the variables make no sense, if the others can't be joined in time, or if a device has
            been touched before.
    """
    cluster = _find(os.environ)
    if cluster is None:
        return "one process"
    if jax.distributed.is_initialized():
        return f"{cluster.found}, joined before"
    problem = _try_for(
        timeout_seconds,
        # JAX's own limit must never run out: its client ends the process when it does.
        lambda: jax.distributed.initialize(**cluster.arguments, initialization_timeout=10**8),
    )
    if problem is not None and "must be called before" in problem:
        raise JaxgenError(
            "a device was touched before the processes had joined; call initialize() first of all"
        )
    if problem is not None:
        raise JaxgenError(f"can't join the other processes ({cluster.found}): {problem}; {_WAY_OUT}")
    return cluster.found


def agreed_to_stop(call: int) -> bool:
    """Tells whether a process of several has got SIGTERM, and all have come to the call to stop after.

    Every process asks after each call of the device, numbered one by one: JAX agrees on one of these numbers.
    """
    try:
        return reached_preemption_sync_point(call)
    except RuntimeError:  # the service is switched off
        return False


def _try_for(timeout_seconds: int, call: Callable[[], Any]) -> str | None:
    """Makes a call that blocks, in a thread that is left behind if it doesn't return; gives what went wrong."""
    errors: list[Exception] = []

    def attempt() -> None:
        try:
            call()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(timeout_seconds)
    if thread.is_alive():
        return f"not all of them were there within {timeout_seconds} s; look whether each has started"
    return " ".join(str(errors[0]).split()).rstrip(".") if errors else None


def _find(environment: Mapping[str, str]) -> _Cluster | None:
    """Reads the environment; None means one process."""
    ours = {name: environment[name] for name in _VARIABLES if environment.get(name)}
    slurm = all(name in environment for name in _SLURM) and _integer("SLURM_NTASKS", environment) > 1
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    seen = [f"{name}={value}" for name, value in ours.items()]
    if slurm:
        seen += [
            f"{name}={environment[name]}" for name in ("SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID")
        ]
    elif len(hosts) > 1:
        seen.append(f"TPU_WORKER_HOSTNAMES names {len(hosts)} hosts")
    if not seen or ours.get("JAX_NUM_PROCESSES") == "1":
        return None
    found = ", ".join(seen)
    missing = [name for name in _VARIABLES if name not in ours]
    if missing and not slurm and len(hosts) == 1:
        raise JaxgenError(f"found {found}, but not {' and '.join(missing)}; {_WAY_OUT}")
    return _Cluster(found, _arguments(ours))


def _arguments(ours: Mapping[str, str]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if "JAX_COORDINATOR_ADDRESS" in ours:
        arguments["coordinator_address"] = address = ours["JAX_COORDINATOR_ADDRESS"]
        if not address.rpartition(":")[2].isdecimal() or not address.rpartition(":")[0]:
            raise JaxgenError(f"JAX_COORDINATOR_ADDRESS is {address!r}; it must be HOST:PORT of process 0")
    for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        if name in ours:
            arguments[name.removeprefix("JAX_").lower()] = _integer(name, ours)
    if arguments.get("process_id", 0) >= arguments.get("num_processes", float("inf")):
        raise JaxgenError(
            f"JAX_PROCESS_ID is {arguments['process_id']}; with JAX_NUM_PROCESSES={arguments['num_processes']}"
            f" it must be 0 to {arguments['num_processes'] - 1}"
        )
    return arguments


def _integer(name: str, variables: Mapping[str, str]) -> int:
    if not variables[name].isdecimal():
        raise JaxgenError(f"{name} is {variables[name]!r}; it must be a whole number")
    return int(variables[name])
