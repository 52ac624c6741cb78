"""Augmentation: each transformation against SciPy or NumPy, what must not change, and the distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import ndimage, stats

from jaxgen import augment
from jaxgen.augment import Augmentation, Placement
from jaxgen.errors import UsageError
from jaxgen.parallel import make_mesh

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 12, 15
IMAGES = RNG.random((4, HEIGHT, WIDTH, 2)).astype(np.float32)
EVERYTHING = Augmentation(
    shift=2.0, rotation=20.0, scale=0.1, elastic=1.0, smoothness=3.0, crop=1, flip=True, cutout=3
)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def apply(augmentation, rngs, images, background=0.0):
    """In one compilation, not one for each operation."""
    return jax.jit(lambda rngs, images: augmentation(rngs, images, background=background))(rngs, images)


def placed(**changes):
    """The images at fixed parameters, the same for each."""
    fixed = {"shift": (0.0, 0.0), "angle": 0.0, "scale": 1.0, "flip": False, **changes}
    placement = Placement(**{name: jnp.array([value] * len(IMAGES)) for name, value in fixed.items()})
    return augment.source_coordinates(placement, HEIGHT, WIDTH)


def each_plane(function, images=IMAGES):
    """Applies a function of [height, width] to every channel of every image."""
    planes = [[function(images[i, ..., c]) for c in range(images.shape[3])] for i in range(images.shape[0])]
    return np.moveaxis(np.array(planes), 1, -1)


def test_off_is_the_identity_bit_for_bit():
    np.testing.assert_array_equal(apply(Augmentation(), keys(4), IMAGES), IMAGES)
    for background in (0.3, None):
        np.testing.assert_array_equal(augment.resample(IMAGES, placed(), background), IMAGES)


@pytest.mark.parametrize(("background", "mode"), [(-0.5, "grid-constant"), (None, "nearest")])
def test_resampling_is_scipys_bilinear_one(background, mode):
    coordinates = RNG.uniform(-4, 18, (4, 2, HEIGHT, WIDTH)).astype(np.float32)
    found = augment.resample(IMAGES, coordinates, background)
    for i in range(len(IMAGES)):
        for c in range(2):
            expected = ndimage.map_coordinates(
                IMAGES[i, ..., c], coordinates[i], order=1, mode=mode, cval=background or 0
            )
            np.testing.assert_allclose(found[i, ..., c], expected, atol=1e-5)


def test_shift_rotation_and_scale_are_scipys():
    options = {"order": 1, "mode": "grid-constant"}
    found = augment.resample(IMAGES, placed(shift=(1.5, -2.25)))
    expected = each_plane(lambda plane: ndimage.shift(plane, (1.5, -2.25), **options))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    found = augment.resample(IMAGES, placed(angle=np.deg2rad(25.0)))
    expected = each_plane(lambda plane: ndimage.rotate(plane, 25.0, reshape=False, **options))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    centre = np.array([(HEIGHT - 1) / 2, (WIDTH - 1) / 2])
    found = augment.resample(IMAGES, placed(scale=1.25))
    expected = each_plane(
        lambda plane: ndimage.affine_transform(plane, np.eye(2) / 1.25, centre * (1 - 1 / 1.25), **options)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_shift_and_rotation_go_the_way_they_say():
    dot = np.zeros((1, 9, 9, 1), np.float32)
    dot[0, 4, 7] = 1  # right of the centre
    one = {"scale": jnp.ones(1), "flip": jnp.array([False])}
    still, down = jnp.zeros((1, 2)), jnp.array([[2.0, 0.0]])
    lower = augment.resample(dot, augment.source_coordinates(Placement(down, jnp.zeros(1), **one), 9, 9))
    assert np.unravel_index(np.argmax(lower), lower.shape)[1:3] == (6, 7)
    quarter = jnp.array([np.pi / 2])
    turned = augment.resample(dot, augment.source_coordinates(Placement(still, quarter, **one), 9, 9))
    assert np.unravel_index(np.argmax(turned), turned.shape)[1:3] == (1, 4), "anticlockwise, to the top"


def test_flip_and_whole_shifts_are_slices():
    flipped = augment.resample(IMAGES, placed(flip=True))
    np.testing.assert_array_equal(flipped, IMAGES[:, :, ::-1])
    moved = augment.resample(IMAGES, placed(shift=(2.0, -3.0)), 0.5)
    padded = np.pad(IMAGES, ((0, 0), (2, 0), (0, 3), (0, 0)), constant_values=0.5)
    np.testing.assert_array_equal(moved, padded[:, :HEIGHT, 3:])


def test_all_at_once_is_one_interpolation():
    """A turn and a shift together are SciPy's one affine map, not the blur of two."""
    angle, shift = np.deg2rad(10.0), np.array([0.4, 0.3])
    found = augment.resample(IMAGES, placed(angle=angle, shift=tuple(shift), scale=1.1))
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / 1.1
    centre = np.array([(HEIGHT - 1) / 2, (WIDTH - 1) / 2])
    offset = centre - matrix @ (centre + shift)
    expected = each_plane(
        lambda plane: ndimage.affine_transform(plane, matrix, offset, order=1, mode="grid-constant")
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_smooth_field_is_a_sum_of_gaussians():
    noise = np.asarray(augment.elastic_noise(keys(2), HEIGHT, WIDTH, 3.0))
    field = augment.smooth_field(noise, HEIGHT, WIDTH, 3.0)
    rows, columns = (
        np.linspace(-6, size - 1 + 6, count)
        for size, count in zip((HEIGHT, WIDTH), noise.shape[2:], strict=True)
    )
    assert max(np.diff(rows).max(), np.diff(columns).max()) <= 3.0, "as close as the Gaussian is wide"
    for y, x in ((0, 0), (5, 7), (11, 14)):
        bumps = np.exp(-((y - rows)[:, None] ** 2 + (x - columns) ** 2) / (2 * 3.0**2))
        expected = (noise * bumps).sum((2, 3)) / np.sqrt((bumps**2).sum())
        np.testing.assert_allclose(field[:, :, y, x], expected, atol=1e-5)


@pytest.mark.parametrize(("size", "smoothness"), [(28, 4.0), (28, 3.3), (96, 10.0), (8, 4.0)])
def test_nodes_a_gaussian_apart_correlate_as_all_pixels_do(size, smoothness):
    """Noise on every pixel, and far beyond the image, is what the few nodes stand for."""
    nodes = np.asarray(augment._smoother(size, smoothness), np.float64)
    pixels = np.arange(-10 * smoothness, size + 10 * smoothness)
    weights = np.exp(-((np.arange(size)[:, None] - pixels) ** 2) / (2 * smoothness**2))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    np.testing.assert_allclose(nodes @ nodes.T, weights @ weights.T, atol=2e-4)


def test_elastic_field_is_distributed_as_smoothed_white_noise():
    """Variance 1 everywhere, and the correlation that SciPy's Gaussian filter of white noise has."""
    count, smoothness = 4000, 4.0
    noise = augment.elastic_noise(keys(count), 28, 28, smoothness)
    field = np.asarray(augment.smooth_field(noise, 28, 28, smoothness)).reshape(2 * count, 28, 28)
    # 8,000 fields: the standard deviation of a variance is 0.016, and there are 784 of them.
    np.testing.assert_allclose(field.var(0), 1, atol=0.08)
    np.testing.assert_allclose(field.mean(0), 0, atol=0.05)
    white = RNG.uniform(-1, 1, (40, 128, 128))
    filtered = ndimage.gaussian_filter(white, (0, smoothness, smoothness), mode="wrap")
    for distance in (2, 5, 9):
        ours = (field[:, :, : 28 - distance] * field[:, :, distance:]).mean()
        theirs = (filtered * np.roll(filtered, distance, axis=2)).mean() / filtered.var()
        assert ours == pytest.approx(theirs, abs=0.03), distance
    assert abs((field[::2] * field[1::2]).mean()) < 0.02, "down and right are independent"


def test_elastic_displacement_has_the_length_that_was_asked_for():
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32)[:, None, None], (200, 40, 40, 1))
    moved = apply(Augmentation(elastic=1.5), keys(200), ramp, background=0.0)
    # Well inside, where the ramp's value is the row that was read.
    displacement = np.asarray(moved - ramp)[:, 8:-8, 8:-8]
    assert displacement.std() == pytest.approx(1.5, rel=0.05)
    assert abs(displacement.mean()) < 0.1


@pytest.mark.parametrize("side", [1, 4, 5])
def test_cutout_is_a_square_about_its_centre(side):
    centres = np.array([[0, 0], [5, 7], [11, 14], [3, 0]], np.int32)
    found = augment.cut_out(IMAGES, centres, side, -2.0)
    expected = IMAGES.copy()
    for i, (row, column) in enumerate(centres):
        for y in range(HEIGHT):
            for x in range(WIDTH):
                if (
                    -(side // 2) <= y - row < side - side // 2
                    and -(side // 2) <= x - column < side - side // 2
                ):
                    expected[i, y, x] = -2.0
    np.testing.assert_array_equal(found, expected)


def test_draws_have_the_distributions_that_are_promised():
    count = 4000
    draws = jax.vmap(lambda rng: jax.random.uniform(rng, (9,)))(keys(count))
    options = Augmentation(shift=2.0, rotation=30.0, scale=0.2, flip=True)
    placement = options._placement(draws)
    for values, limit in (
        (placement.shift[:, 0], 2.0),
        (placement.shift[:, 1], 2.0),
        (placement.angle, np.deg2rad(30)),
        (placement.scale - 1, 0.2),
    ):
        assert stats.kstest(np.asarray(values), stats.uniform(-limit, 2 * limit).cdf).pvalue > 1e-3
    # The standard deviation of a half of 4,000 is 0.008.
    assert abs(np.mean(placement.flip) - 0.5) < 0.04
    crops = np.asarray(Augmentation(crop=2)._placement(draws).shift).astype(int)
    for axis in (0, 1):
        counts = np.bincount(crops[:, axis] + 2, minlength=5)
        assert stats.chisquare(counts).pvalue > 1e-3
    parameters = np.column_stack([placement.shift, placement.angle, placement.scale, placement.flip])
    correlation = np.corrcoef(parameters.T) - np.eye(5)
    assert abs(correlation).max() < 0.08, "each is drawn for itself"


def test_cutout_falls_anywhere():
    whole = np.ones((2000, 10, 10, 1), np.float32)
    kept = apply(Augmentation(cutout=1), keys(2000), whole, background=0.0)
    assert (kept.sum((1, 2, 3)) == 99).all()
    counts = np.asarray((1 - kept).sum((0, 3))).ravel()
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("fill", ["background", "edge"])
def test_values_stay_in_their_range_and_gradients_finite(fill):
    options = Augmentation(
        shift=20.0, rotation=180.0, scale=0.9, elastic=5.0, crop=3, flip=True, cutout=2, fill=fill
    )
    images = 2 * RNG.random((64, HEIGHT, WIDTH, 2)).astype(np.float32) - 1
    changed = apply(options, keys(64), images, background=-1.0)
    assert changed.dtype == jnp.float32
    assert changed.shape == images.shape
    assert changed.min() >= -1 - 1e-6
    assert changed.max() <= 1 + 1e-6
    gradient = jax.grad(lambda x: (apply(options, keys(64), x, background=-1.0) ** 2).sum())(images)
    assert np.isfinite(gradient).all()
    assert (gradient != 0).any()


def test_brightness_is_kept_on_average():
    digit = np.zeros((500, 28, 28, 1), np.float32)
    digit[:, 8:20, 10:18] = RNG.random((12, 8, 1))
    options = Augmentation(shift=2.0, rotation=15.0, scale=0.1, elastic=1.0)
    changed = apply(options, keys(500), digit, background=0.0)
    assert np.mean(changed) == pytest.approx(digit.mean(), rel=0.03)


def test_one_transformation_more_leaves_the_others_as_they_were():
    images = np.broadcast_to(IMAGES, IMAGES.shape)
    plain = apply(Augmentation(shift=2.0), keys(4), images, background=-1.0)
    with_cutout = apply(Augmentation(shift=2.0, cutout=2), keys(4), images, background=-1.0)
    kept = np.asarray(with_cutout) != -1
    assert not kept.all()
    np.testing.assert_array_equal(np.asarray(with_cutout)[kept], np.asarray(plain)[kept])


def test_each_example_has_its_own_changes_and_they_depend_on_its_key_alone():
    same = np.broadcast_to(IMAGES[:1], (8, HEIGHT, WIDTH, 2))
    changed = apply(EVERYTHING, keys(8), same)
    assert len({np.asarray(image).tobytes() for image in changed}) == 8
    np.testing.assert_allclose(apply(EVERYTHING, keys(8)[5:7], same[5:7]), changed[5:7], atol=1e-5)
    assert (apply(EVERYTHING, keys(8, seed=1), same) != changed).any()


def test_devices_augment_their_own_images():
    """On a mesh nothing moves between devices."""
    mesh = make_mesh()
    sharding = NamedSharding(mesh, P(mesh.axis_names))
    rngs, images = keys(16), np.tile(IMAGES, (4, 1, 1, 1))
    arguments = jax.device_put((rngs, images), sharding)
    compiled = jax.jit(EVERYTHING.__call__, out_shardings=sharding).lower(*arguments).compile()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in compiled.as_text()
    np.testing.assert_allclose(compiled(*arguments), EVERYTHING(rngs, images), atol=1e-5)


def test_mixup_partner_is_the_next_row_that_counts():
    weights = jnp.array([0.0, 1.0, 2.0, 0.0, 0.5, 1.0, 0.0])
    np.testing.assert_array_equal(augment.mixup_partners(weights), [0, 2, 4, 3, 5, 1, 6])
    np.testing.assert_array_equal(augment.mixup_partners(jnp.zeros(3)), [0, 1, 2])
    np.testing.assert_array_equal(augment.mixup_partners(jnp.array([0.0, 1.0])), [0, 1])


def test_mixture_is_the_weighted_sum_and_leaves_padding_alone():
    images = IMAGES.copy()
    images[3] = np.nan  # padding may hold anything
    shares = jnp.array([0.9, 0.6, 0.75, 0.6])
    partners = augment.mixup_partners(jnp.array([1.0, 1.0, 1.0, 0.0]))
    mixed = augment.mix(images, partners, shares)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        share = float(shares[i])
        np.testing.assert_allclose(mixed[i], share * images[i] + (1 - share) * images[j], rtol=1e-5)
    np.testing.assert_array_equal(mixed[3], images[3])


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_shares_are_the_larger_side_of_beta(alpha):
    shares = np.asarray(augment.mixup_shares(keys(3000), alpha))
    assert shares.min() >= 0.5
    assert shares.max() <= 1.0
    beta = stats.beta(alpha, alpha)
    assert stats.kstest(shares, lambda x: beta.cdf(x) - beta.cdf(1 - x)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shift": -1.0}, "augmentation: shift is -1.0; it must be at least 0"),
        ({"rotation": 200.0}, "rotation is 200.0; it must be between 0 and 180 degrees"),
        ({"scale": 1.0}, "scale is 1.0; it must be at least 0 and below 1"),
        ({"elastic": float("nan")}, "elastic is nan"),
        ({"smoothness": 0.0}, "smoothness is 0.0; it must be at least 0.5 pixels"),
        ({"crop": -1}, "crop is -1"),
        ({"cutout": -1}, "cutout is -1"),
        ({"mixup": -0.1}, "mixup is -0.1"),
    ],
)
def test_impossible_values_are_one_line(change, message):
    with pytest.raises(UsageError, match=message) as caught:
        Augmentation(**change)
    assert "\n" not in str(caught.value)
