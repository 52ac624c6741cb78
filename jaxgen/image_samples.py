"""Images drawn from a trained task: the protocol of tasks that generate them, and drawing in batches of one size."""

import functools
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Float32, Int32, Key, UInt8

from jaxgen.errors import UsageError
from jaxgen.parallel import put_batch
from jaxgen.train.context import Params
from jaxgen.train.state import TrainState

BATCH_SIZE = 64
"""Images that are generated at a time; of fewer, the rest are thrown away, so that a program is compiled once."""

_MAX_SEED = 2**63
# Columns of a sheet where classes don't say how many.
_COLUMNS, _MOST_COLUMNS = 8, 12

Images = UInt8[np.ndarray, "samples height width channels"]


@runtime_checkable
class GeneratesImages(Protocol):
    """What a task has beside the methods of `jaxgen.tasks.Task` where it generates images.

    Attributes:
        num_classes: how many classes can be asked for; 0 where it can't be said what an image is to show.
    """

    num_classes: int

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of the noise that one image is made of, which is standard normal."""
        ...

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels)."""
        ...

    def generate(
        self,
        params: Params,
        model_state: Any,
        rng: Key[Array, ""],
        latents: Float[Array, "batch ..."],
        labels: Int32[Array, " batch"] | None,
        *,
        guidance: float | None = None,
        steps: int | None = None,
    ) -> Float[Array, "batch height width channels"]:
        """Makes images from 0 to 1 of noise; pure, with `guidance` and `steps` static.

        Args:
            params: those to evaluate with.
            model_state: as in the train state.
            rng: of what is drawn beside the latents.
            latents: noise.
            labels: the classes asked for; None where there are none.
            guidance: strength of the guidance towards the class; None for the task's own.
            steps: of a sampler; None for the task's own.

        Raises:
            UsageError: where `guidance` or `steps` is given and the task has no use for it.
        """
        ...


class ImageGenerator:
    """Draws images from a task, in compiled batches of `BATCH_SIZE`.

    Args:
        task: one that generates images.

    Raises:
        UsageError: for one that doesn't.
    """

    def __init__(self, task: Any) -> None:
        if not isinstance(task, GeneratesImages):
            raise UsageError(f"a run of {type(task).__name__} generates no images")
        self.task = task
        self._compiled = jax.jit(functools.partial(_generate, task), static_argnames=("guidance", "steps"))

    def sample(
        self,
        state: TrainState,
        num_samples: int,
        seed: int = 0,
        labels: Int32[np.ndarray, " samples"] | None = None,
        *,
        guidance: float | None = None,
        steps: int | None = None,
    ) -> Images:
        """Draws images, uint8. Image i of a seed is a function of both alone, however many are drawn.

        Args:
            state: the trained state; its moving average counts where there is one.
            num_samples: how many images.
            seed: of all that is drawn.
            labels: the classes asked for; by default each in its turn, where there are any.
            guidance: as for the task's `generate`.
            steps: the same.

        Raises:
            UsageError: for a request that the task can't meet.
        """
        if num_samples < 1:
            raise UsageError(f"num samples is {num_samples}; it must be at least 1")
        classes = self._labels(num_samples, labels)
        rng = seed_rng(seed)
        parts = []
        for first in range(0, num_samples, BATCH_SIZE):
            rngs = _example_rngs(rng, np.arange(first, first + BATCH_SIZE, dtype=np.int32))
            noise = _latents(rngs, self.task.latent_shape)
            parts.append(self._decode(state, rngs, noise, _batch(classes, first), guidance, steps))
        return np.concatenate(parts)[:num_samples]

    def walk(
        self,
        state: TrainState,
        seeds: tuple[int, int],
        frames: int,
        label: int | None = None,
        *,
        guidance: float | None = None,
        steps: int | None = None,
    ) -> Images:
        """Draws the images on the way from the first sample of one seed to that of another, uint8.

        Latents move along a great circle (`spherical`); what is drawn beside them stays that of the first seed.

        Args:
            state: the trained state.
            seeds: from which to which.
            frames: how many images, both ends included.
            label: the class of them all; by default the first one, where there are any.
            guidance: as for the task's `generate`.
            steps: the same.

        Raises:
            UsageError: for a request that the task can't meet.
        """
        if frames < 2:
            raise UsageError(f"frames is {frames}; a walk needs at least 2")
        label = 0 if label is None and self.task.num_classes else label
        labels = self._labels(frames, None if label is None else np.full(frames, label, np.int32))
        first, last = (_example_rngs(seed_rng(seed), np.zeros(1, np.int32)) for seed in seeds)
        ends = [np.asarray(_latents(rngs, self.task.latent_shape))[0] for rngs in (first, last)]
        noise = spherical(ends[0], ends[1], np.linspace(0, 1, frames))
        rngs = jnp.repeat(first, BATCH_SIZE)
        parts = [
            self._decode(state, rngs, _batch(noise, at), _batch(labels, at), guidance, steps)
            for at in range(0, frames, BATCH_SIZE)
        ]
        return np.concatenate(parts)[:frames]

    def _labels(
        self, num_samples: int, labels: Int32[np.ndarray, " samples"] | None
    ) -> Int32[np.ndarray, " samples"] | None:
        """Gives the classes of images: those asked for, else each in its turn, else none."""
        num_classes = self.task.num_classes
        if labels is None:
            return np.arange(num_samples, dtype=np.int32) % num_classes if num_classes else None
        if not num_classes:
            raise UsageError("the run was trained without classes, and can't be asked for one")
        beyond = labels[(labels < 0) | (labels >= num_classes)]
        if len(beyond):
            raise UsageError(f"there is no class {beyond[0]}: the run has classes 0 to {num_classes - 1}")
        if len(labels) != num_samples:
            raise UsageError(f"{len(labels)} labels are given for {num_samples} images")
        return labels

    def _decode(
        self, state: TrainState, rngs: Any, noise: Any, labels: Any, guidance: float | None, steps: int | None
    ) -> Images:
        """Makes the images of one batch."""
        if guidance is not None and not self.task.num_classes:
            raise UsageError(
                "guidance leads to a class, and the run was trained without classes: leave it out"
            )
        images = self._compiled(
            state.evaluation_params(),
            state.model_state,
            *_spread((rngs, noise, labels), state),
            guidance=guidance,
            steps=steps,
        )
        return np.asarray(jax.device_get(images))


def sample_images(
    run: Any,
    num_samples: int,
    seed: int = 0,
    label: int | None = None,
    *,
    guidance: float | None = None,
    steps: int | None = None,
) -> Images:
    """Draws images of a saved run, uint8 [samples, height, width, channels].

    Args:
        run: a `jaxgen.SavedRun` of a task that generates images.
        num_samples: how many.
        seed: of all that is drawn; image i of a seed is the same however many are drawn.
        label: the class of them all; by default each in its turn, where there are any.
        guidance: strength of the guidance towards the class, for diffusion.
        steps: of the sampler, for diffusion.

    Raises:
        UsageError: for a request that the run can't meet.
    """
    labels = None if label is None else np.full(max(num_samples, 0), label, np.int32)
    generator = ImageGenerator(run.task)
    return generator.sample(run.state, num_samples, seed, labels, guidance=guidance, steps=steps)


def sheet_columns(num_classes: int) -> int:
    """Gives the columns of a sheet of samples: one a class, where there are some but not too many."""
    return num_classes if 1 < num_classes <= _MOST_COLUMNS else _COLUMNS


def spherical(
    start: Float32[np.ndarray, "..."],
    end: Float32[np.ndarray, "..."],
    fractions: Sequence[float] | np.ndarray,
) -> Float32[np.ndarray, "..."]:
    """Interpolates on the great circle through two points (Shoemake 1985, section 3.3), fractions on axis 0.

    A straight line between two draws of a wide Gaussian leads through points near the middle, such as are never drawn.
    """
    from_, to = start.astype(np.float64), end.astype(np.float64)
    cosine = np.vdot(from_, to) / max(float(np.linalg.norm(from_) * np.linalg.norm(to)), 1e-12)
    angle = np.arccos(np.clip(cosine, -1, 1))
    parts = np.asarray(fractions, np.float64).reshape(-1, *[1] * start.ndim)
    if np.sin(angle) < 1e-6:  # the same direction, or opposite ones, between which every way is as good
        points = (1 - parts) * from_ + parts * to
    else:
        points = (np.sin((1 - parts) * angle) * from_ + np.sin(parts * angle) * to) / np.sin(angle)
    return points.astype(np.float32)


def seed_rng(seed: int) -> Key[Array, ""]:
    """Makes the key of a seed that a person gives; raises UsageError where it is out of range."""
    if not 0 <= seed < _MAX_SEED:
        raise UsageError(f"seed is {seed}; it must be at least 0 and below 2^63")
    return jax.random.key(seed)


@jax.jit
def _example_rngs(rng: Key[Array, ""], indices: Int32[Array | np.ndarray, " batch"]) -> Key[Array, " batch"]:
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, indices)


@functools.partial(jax.jit, static_argnums=1)
def _latents(rngs: Key[Array, " batch"], shape: tuple[int, ...]) -> Float32[Array, "batch ..."]:
    return jax.vmap(lambda rng: jax.random.normal(jax.random.fold_in(rng, 0), shape, jnp.float32))(rngs)


def _generate(
    task: GeneratesImages,
    params: Params,
    model_state: Any,
    rngs: Key[Array, " batch"],
    latents: Float[Array, "batch ..."],
    labels: Int32[Array, " batch"] | None,
    *,
    guidance: float | None,
    steps: int | None,
) -> UInt8[Array, "batch height width channels"]:
    """Makes images one by one, mapped: whatever a task draws beside the latents is of the image's own key."""

    def one(rng: Any, latents: Any, label: Any) -> Array:
        labels = None if label is None else label[None]
        rng = jax.random.fold_in(rng, 1)
        return task.generate(params, model_state, rng, latents[None], labels, guidance=guidance, steps=steps)[
            0
        ]

    images = jax.vmap(one)(rngs, latents, labels)
    return jnp.round(255 * jnp.clip(images, 0, 1)).astype(jnp.uint8)


def _batch(values: np.ndarray | None, first: int) -> np.ndarray | None:
    """Gives a batch of values from one on, the last one repeated where they end; None of none."""
    if values is None:
        return None
    found = values[first : first + BATCH_SIZE]
    return np.concatenate([found, np.repeat(found[-1:], BATCH_SIZE - len(found), axis=0)])


def _spread(batch: Any, state: TrainState) -> Any:
    """Cuts a batch over the devices that a state is on, where that goes."""
    sharding = state.step.sharding
    if isinstance(sharding, NamedSharding) and BATCH_SIZE % sharding.mesh.size == 0:
        return put_batch(batch, sharding.mesh)
    return batch
