"""Many devices and many hosts: start-up, the mesh and what lies where on it, and the `pmap` adapter."""

from jaxgen._lazy import exports

_NAMES = {
    "PARAMETER_RULES": "jaxgen.parallel.sharding",
    "agreed_to_stop": "jaxgen.parallel.distributed",
    "batch_sharding": "jaxgen.parallel.sharding",
    "check_batch_size": "jaxgen.parallel.sharding",
    "initialize": "jaxgen.parallel.distributed",
    "make_mesh": "jaxgen.parallel.sharding",
    "pmap_step": "jaxgen.parallel.pmap",
    "put_batch": "jaxgen.parallel.sharding",
    "put_state": "jaxgen.parallel.sharding",
    "split_host": "jaxgen.parallel.host_devices",
    "state_shardings": "jaxgen.parallel.sharding",
}

__all__ = sorted(_NAMES)
__getattr__ = exports(__name__, _NAMES)
