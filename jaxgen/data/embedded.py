"""The data sets that come with jaxgen, as tfds builders over what scikit-learn ships: no network needed."""

import functools
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float64, UInt8

from jaxgen.data import images

# Which rows of each set are held out: indices in the order of scikit-learn's files, drawn once by its
# `train_test_split(range(rows), test_size=360 or 89, stratify=the digits' labels, random_state=0)`.
_SPLITS = Path(__file__).with_name("splits.json")
_DIGIT_SIZE, _MARGIN = 20, 4


def _held_out(name: str) -> set[int]:
    return set(json.loads(_SPLITS.read_text())[name])


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 scans of handwritten digits, 8 x 8 with 17 greys, drawn as MNIST draws its own.

    Each is enlarged to 20 x 20 and centred in 28 x 28: the size and the margins of MNIST's. The splits
    `train` (1,437) and `test` (360) are stratified; `first1437` and `last360` cut the same set by file order,
    so that the last were written by other people (Alpaydin & Kaynak 1998, UCI; the test part, as scikit-learn
    ships it).
    """

    name = "digits"
    VERSION = tfds.core.Version("1.1.0")
    pkg_dir_path = Path(__file__).parent

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(28, 28, 1)),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        test = _held_out("digits")
        everything = range(1797)
        return {
            "train": self._generate_examples([i for i in everything if i not in test]),
            "test": self._generate_examples(sorted(test)),
            "first1437": self._generate_examples(range(1437)),
            "last360": self._generate_examples(range(1437, 1797)),
        }

    def _generate_examples(self, indices: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        drawn, labels = self._drawn
        for index in indices:
            yield index, {"image": io.BytesIO(drawn[index]), "label": int(labels[index])}

    @functools.cached_property
    def _drawn(self) -> tuple[list[bytes], np.ndarray]:
        from sklearn.datasets import load_digits

        scans, labels = load_digits(return_X_y=True)
        return [images.encode_png(_draw(scan.reshape(8, 8))) for scan in scans], labels


class Diabetes(tfds.core.GeneratorBasedBuilder):
    """442 patients: ten measurements, and how far their diabetes went on in a year (Efron et al. 2004).

    The splits `train` (353) and `test` (89) are those of a stored list; features are as they were measured, so
    that what standardises them can be learnt from the training split alone.
    """

    name = "diabetes"
    VERSION = tfds.core.Version("1.1.0")
    pkg_dir_path = Path(__file__).parent

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "features": tfds.features.Tensor(shape=(10,), dtype=np.float32),
            "target": tfds.features.Scalar(np.float32),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        test = _held_out("diabetes")
        return {
            "train": self._generate_examples([i for i in range(442) if i not in test]),
            "test": self._generate_examples(sorted(test)),
        }

    def _generate_examples(self, indices: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        from sklearn.datasets import load_diabetes

        features, target = load_diabetes(return_X_y=True, scaled=False)
        for index in indices:
            yield index, {"features": features[index].astype(np.float32), "target": np.float32(target[index])}


def _draw(scan: Float64[np.ndarray, "8 8"]) -> UInt8[np.ndarray, "28 28 1"]:
    """Draws an 8 x 8 scan of 0 to 16 as a 28 x 28 image of bytes."""
    from PIL import Image

    bytes_ = (scan * (255 / 16)).round().astype(np.uint8)
    enlarged = Image.fromarray(bytes_).resize((_DIGIT_SIZE, _DIGIT_SIZE), Image.Resampling.BICUBIC)
    return np.pad(np.asarray(enlarged), _MARGIN)[..., None]
