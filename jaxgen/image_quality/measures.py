"""All measures of a set of generated images, and of as many real ones beside it: the floor."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jaxgen.image_quality.features import Recognised
from jaxgen.image_quality.frechet import frechet_distance
from jaxgen.image_quality.kernel import kernel_distance
from jaxgen.image_quality.precision_recall import precision_and_recall


def measure(
    images: Recognised,
    labels: Int[np.ndarray, " images"] | None,
    held_out: Recognised,
    num_classes: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Gives all figures of some images against held-out real ones.

    Args:
        images: generated, or real ones for the floor.
        labels: what they were to show; None where nothing was asked for.
        held_out: the real images, as many.
        num_classes: of the classifier.
        seed: of the subsets of the kernel distance.

    Returns:
        `frechet_distance`, `kernel_distance` and its `kernel_deviation`, `precision`, `recall`, `diversity`,
        `classes_present`, and by class `class_shares`; with labels `accuracy` and by class `class_accuracy`.
    """
    kernel = kernel_distance(images.features, held_out.features, seed)
    near = precision_and_recall(images.features, held_out.features)
    counts = np.bincount(images.classes, minlength=num_classes)
    figures: dict[str, Any] = {
        "frechet_distance": frechet_distance(images.features, held_out.features),
        "kernel_distance": kernel.mean,
        "kernel_deviation": kernel.deviation,
        "precision": near.precision,
        "recall": near.recall,
        "diversity": diversity(images),
        "classes_present": int((counts > 0).sum()),
        "class_shares": (counts / len(images.classes)).tolist(),
    }
    if labels is not None:
        right = images.classes == labels
        figures["accuracy"] = float(right.mean())
        figures["class_accuracy"] = _by_class(right, labels, num_classes)
    return figures


def diversity(images: Recognised) -> float:
    """Gives the root mean square distance of two images' features of one class, over pairs of all classes.

    Of images that are all alike within their classes it is 0. The mean square distance of two points is twice their
    variance, so no pairs are formed.
    """
    features = images.features.astype(np.float64)
    squares = pairs = 0.0
    for class_ in np.unique(images.classes):
        of_class = features[images.classes == class_]
        number = len(of_class)
        squares += number * ((of_class - of_class.mean(axis=0)) ** 2).sum()
        pairs += number * (number - 1) / 2
    return float(np.sqrt(squares / pairs)) if pairs else 0.0


def rows(generated: Mapping[str, Any], real: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Lays two sets of figures out: what it is, of the generated images, and of the real ones."""

    def told(figures: Mapping[str, Any]) -> list[str]:
        accuracy = f"{100 * figures['accuracy']:.2f} %" if "accuracy" in figures else "-"
        return [
            f"{figures['frechet_distance']:.4g}",
            f"{figures['kernel_distance']:.3g} ± {figures['kernel_deviation']:.2g}",
            f"{100 * figures['precision']:.1f} %",
            f"{100 * figures['recall']:.1f} %",
            f"{figures['diversity']:.4g}",
            accuracy,
            f"{figures['classes_present']} of {len(figures['class_shares'])}",
        ]

    names = (
        "Fréchet distance",
        "kernel distance",
        "precision",
        "recall",
        "diversity",
        "recognised as asked",
        "classes present",
    )
    return list(zip(names, told(generated), told(real), strict=True))


def _by_class(
    right: Bool[np.ndarray, " images"], labels: Int[np.ndarray, " images"], num_classes: int
) -> list[float | None]:
    """Gives the part that is right of each class; None where there is no image of it."""
    return [
        float(right[labels == class_].mean()) if (labels == class_).any() else None
        for class_ in range(num_classes)
    ]
