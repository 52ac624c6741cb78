"""Weights of others: their files, read and written, and tables of what is what in them."""

from jaxgen._lazy import exports

_NAMES = {
    "Entry": "jaxgen.pretrained.table",
    "Stored": "jaxgen.pretrained.storage",
    "Table": "jaxgen.pretrained.table",
    "Transform": "jaxgen.pretrained.table",
    "from_params": "jaxgen.pretrained.table",
    "new_directory": "jaxgen.pretrained.storage",
    "read_stored": "jaxgen.pretrained.storage",
    "to_params": "jaxgen.pretrained.table",
    "write_stored": "jaxgen.pretrained.storage",
}

__all__ = sorted(_NAMES)
__getattr__ = exports(__name__, _NAMES)
