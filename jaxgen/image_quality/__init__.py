"""How good generated images are, by the features of jaxgen's own classifiers: never to be mixed with Inception figures.

`frechet`, `kernel` and `precision_recall` are formulas on given features, in NumPy and float64; `features` makes the
features, `measures` puts all together for images.
"""

from jaxgen._lazy import exports

_NAMES = {
    "Classifier": "jaxgen.image_quality.features",
    "frechet_distance": "jaxgen.image_quality.frechet",
    "kernel_distance": "jaxgen.image_quality.kernel",
    "precision_and_recall": "jaxgen.image_quality.precision_recall",
}

__all__ = sorted(_NAMES)
__getattr__ = exports(__name__, _NAMES)
