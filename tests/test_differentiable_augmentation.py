"""Differentiable augmentation against plain copies of pixels, and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.augment import DifferentiableAugmentation

RNGS = jax.random.split(jax.random.key(0), 64)
IMAGES = jnp.asarray(np.random.default_rng(0).uniform(-0.9, 1, (64, 8, 8, 2)), jnp.float32)


def test_translation_moves_whole_pixels_and_shows_the_background():
    moved = np.asarray(DifferentiableAugmentation(translation=0.25)(RNGS, IMAGES, background=-1.0))
    found = set()
    for before, after in zip(np.asarray(IMAGES), moved, strict=True):
        padded = np.pad(before, ((2, 2), (2, 2), (0, 0)), constant_values=-1)
        fits = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if np.allclose(padded[2 - down : 10 - down, 2 - right : 10 - right], after, atol=1e-6)
        ]
        assert len(fits) == 1
        found.add(fits[0])
    assert {down for down, _ in found} == {right for _, right in found} == {-2, -1, 0, 1, 2}


def test_brightness_adds_one_number_to_an_image():
    change = np.asarray(DifferentiableAugmentation(brightness=0.5)(RNGS, IMAGES) - IMAGES)
    assert np.ptp(change, axis=(1, 2, 3)).max() < 1e-6
    assert -0.5 <= change.min() < -0.4 and 0.4 < change.max() <= 0.5


def test_cutout_blots_out_a_square():
    blotted = np.asarray(DifferentiableAugmentation(cutout=0.5)(RNGS, IMAGES, background=-1.0)) == -1
    sides = [(b.any(axis=(1, 2)).sum(), b.any(axis=(0, 2)).sum(), b.all(axis=2).sum()) for b in blotted]
    assert all(rows * columns == count and max(rows, columns) <= 4 for rows, columns, count in sides)
    assert max(sides) == (4, 4, 16)


def test_none_is_nothing_and_gradients_go_through():
    np.testing.assert_array_equal(DifferentiableAugmentation()(RNGS, IMAGES), IMAGES)
    augment = DifferentiableAugmentation(0.25, 0.5, 0.5)
    gradient = jax.grad(lambda images: augment(RNGS, images, background=-1.0).sum())(IMAGES)
    # A pixel that is seen counts once, one that isn't not at all.
    assert set(np.unique(gradient)) == {0.0, 1.0}
