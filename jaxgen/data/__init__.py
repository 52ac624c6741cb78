"""Data: sources with random access over tfds, and the pipelines that make batches of them."""

from jaxgen._lazy import exports

_NAMES = {
    "BatchOrder": "jaxgen.data.orders",
    "HostBatches": "jaxgen.data.pipeline",
    "Source": "jaxgen.data.sources",
    "evaluation_batches": "jaxgen.data.pipeline",
    "from_arrays": "jaxgen.data.sources",
    "gather_batch": "jaxgen.data.pipeline",
    "load": "jaxgen.data.sources",
    "prepare": "jaxgen.data.idx",
    "training_batches": "jaxgen.data.pipeline",
}

__all__ = sorted(_NAMES)
__getattr__ = exports(__name__, _NAMES)
