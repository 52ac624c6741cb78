"""Variational autoencoders: the evidence lower bound in training, the importance-weighted one in evaluation."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int32, Integer, Key, Shaped

from jaxgen.errors import UsageError, sizes
from jaxgen.likelihoods import bernoulli_log_likelihood, divergence_from_prior, gaussian_log_likelihood
from jaxgen.metrics import AnyArray, Mean, Metric
from jaxgen.models.layers import hashed_bits
from jaxgen.models.vae import VAE, Decoded, Posterior
from jaxgen.tasks.base import check_arrays, init_model, pixel_rngs
from jaxgen.train.context import Batch, Context, Outputs, Params, Term

Images = Float[Array, "batch height width channels"]

ACTIVE_NATS = 0.01
"""A latent whose divergence from the prior is above it, on average over the examples, is active."""

# Pixels that are decoded at once where a bound of many samples is computed.
_DECODED_PIXELS = 2**20
# What each example's key is folded with.
_BINARISATION, _LATENTS = range(2)


@struct.dataclass
class ActiveUnits(Metric):
    """The share of the latents whose mean divergence from the prior is above `ACTIVE_NATS`.

    Attributes:
        total: float32 [latents], the weighted sum of the divergences.
        count: float32 scalar, the sum of the weights.
    """

    total: Any
    count: Any

    def compute(self) -> Any:
        """Gives the share."""
        return ((self.total > ACTIVE_NATS * self.count) * 1.0).mean()


@dataclass(frozen=True)
class Variational:
    """Models images by latents: `image` [batch, height, width, channels], `label` int32 [batch], `weight` [batch].

    With a Bernoulli likelihood pixels are 0 or 1: bytes, or floats in [0, 1], are taken for the probability of a 1 and
    drawn. In training they are drawn afresh each step (Burda et al. 2016, section 5); in evaluation each image is drawn
    in the one way that its own pixels determine, wherever it stands, and so are its latents: figures of different
    states, runs and seeds compare. With a Gaussian one bytes become floats in [0, 1], and the likelihood is a density.

    Attributes:
        model: a `DenseVAE` or a `ConvolutionalVAE`, or what has their methods.
        beta: weight of the divergence from the prior (Higgins et al. 2017, equation 4).
        warmup_steps: over which that weight rises linearly from 0 in training (Sønderby et al. 2016, section 2.3).
        free_bits: nats of divergence, of each latent of each example, that cost nothing in training (Kingma et al.
            2016, section 8; they take the mean over a batch, which doesn't split into microbatches).
        class_names: names of the classes; numbers when empty.
    """

    model: VAE
    beta: float = 1.0
    warmup_steps: int = 0
    free_bits: float = 0.0
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses what can't be meant, before anything is computed."""
        for name in ("beta", "warmup_steps", "free_bits"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 0")

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one image's latents, which are standard normal."""
        return (self.model.num_latents,)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels."""
        return tuple(self.model.image_shape)

    @property
    def num_classes(self) -> int:
        """Classes that the model is told; 0 for none."""
        return self.model.num_classes

    def init(self, rng: Key[Array, ""], example: Batch) -> tuple[Params, Any]:
        """Makes the model's parameters."""
        images = jax.ShapeDtypeStruct((1, *example["image"].shape[1:]), jnp.float32)
        labels = {"labels": jax.ShapeDtypeStruct((1,), jnp.int32)} if self.num_classes else {}
        return init_model(self.model, rng, images, **labels)

    def check(self, source: Any) -> None:
        """Checks that a data source fits: images of the model's shape, and labels where it is told them.

        Raises:
            UsageError: where it doesn't.
        """
        example = check_arrays(source, ("image", "label") if self.num_classes else ("image",))
        found, wanted = tuple(example["image"].shape), self.image_shape
        if found != wanted:
            raise UsageError(f"{source.name} has images of {sizes(found)}, the model is for {sizes(wanted)}")
        if self.num_classes and source.num_classes > self.num_classes:
            raise UsageError(
                f"{source.name} has {source.num_classes} classes, but the model knows {self.num_classes}: "
                f"give it num_classes={source.num_classes}"
            )

    def initial_carry(self, batch_size: int) -> tuple[()]:
        """Has no recurrent state."""
        return ()

    def loss(
        self, params: Params, model_state: Any, carry: Any, batch: Batch, context: Context
    ) -> tuple[dict[str, Term], Outputs]:
        """Gives the negative bound as two terms (Kingma & Welling 2014, equation 10, with one sample).

        Metrics, in nats an image: `reconstruction` (the negative log likelihood), `divergence` (from the prior, without
        beta and free bits), `negative_bound`, their sum; and `active_units`, the share of latents that are used.
        """
        weights = batch.get("weight")
        rngs = context.example_rngs() if context.train else pixel_rngs(jax.random.key(0), batch["image"])
        values, labels = self._values(rngs, batch["image"]), self._labels(batch)
        posterior = self._apply(params, model_state, "encode", values, labels)
        noise = _normal(rngs, self.model.num_latents)
        decoded = self._apply(params, model_state, "decode", _sample(posterior, noise), labels)
        reconstruction = -self._log_likelihood(decoded, values)
        by_latent = divergence_from_prior(posterior.mean, posterior.log_variance)
        divergence = by_latent.sum(axis=1)
        charged = divergence
        if context.train and self.free_bits:
            charged = jnp.maximum(by_latent, self.free_bits).sum(axis=1)
        weighed = jnp.ones(divergence.shape) if weights is None else weights
        reported: dict[str, Metric] = {
            "negative_bound": Mean.of(reconstruction + divergence, weights),
            "divergence": Mean.of(divergence, weights),
            "active_units": ActiveUnits((weighed[:, None] * by_latent).sum(axis=0), weighed.sum()),
        }
        terms = {
            "reconstruction": Term(Mean.of(reconstruction, weights)),
            "divergence": Term(Mean.of(charged, weights), self._weight(context)),
        }
        return terms, Outputs(reported, model_state, carry)

    def bound(
        self, params: Params, model_state: Any, rng: Key[Array, ""], batch: Batch, num_samples: int
    ) -> Mean:
        """Gives the negative log likelihood of images, or what is above it on average (Burda et al. 2016, equation 8).

        It is the tighter the more samples, and that of one is the negative of the usual bound. Samples are decoded few
        at a time, whatever their number.

        Args:
            params: of the model.
            model_state: of the model.
            rng: for the samples. What an image is drawn as doesn't hang on it: see the class.
            batch: images; those of weight 0 don't count.
            num_samples: at least 1.

        Raises:
            UsageError: for less than one sample.
        """
        if num_samples < 1:
            raise UsageError(f"num_samples is {num_samples}; a bound needs at least 1")
        values = self._values(pixel_rngs(jax.random.key(0), batch["image"]), batch["image"])
        labels = self._labels(batch)
        rngs = pixel_rngs(rng, batch["image"])
        posterior = self._apply(params, model_state, "encode", values, labels)
        size = max(1, min(num_samples, _DECODED_PIXELS // max(1, values.size)))

        def log_weight(sample: Int32[Array, ""]) -> Float[Array, " batch"]:
            of_sample = jax.vmap(jax.random.fold_in, in_axes=(0, None))(rngs, sample)
            noise = _normal(of_sample, self.model.num_latents)
            latents = _sample(posterior, noise)
            decoded = self._apply(params, model_state, "decode", latents, labels)
            # Of prior and posterior at the sample; their constants are the same.
            ratio = 0.5 * (noise**2 - latents**2 + posterior.log_variance).sum(axis=1)
            return jnp.where(sample < num_samples, self._log_likelihood(decoded, values) + ratio, -jnp.inf)

        def add(total: Array, first: Int32[Array, ""]) -> tuple[Array, None]:
            added = jax.vmap(log_weight)(first + jnp.arange(size))
            return jnp.logaddexp(total, jax.nn.logsumexp(added, axis=0)), None

        nothing = jnp.full(values.shape[0], -jnp.inf)
        total, _ = jax.lax.scan(add, nothing, jnp.arange(0, num_samples, size))
        return Mean.of(math.log(num_samples) - total, batch.get("weight"))

    def generate(
        self,
        params: Params,
        model_state: Any,
        rng: Key[Array, ""],
        latents: Float[AnyArray, "batch latents"],
        labels: Integer[AnyArray, " batch"] | None = None,
        *,
        guidance: float | None = None,
        steps: int | None = None,
    ) -> Images:
        """Decodes latents to images in [0, 1]: the pixels' means, so that nothing is drawn.

        Raises:
            UsageError: for guidance or steps, which are a diffusion model's.
        """
        for name, value in {"guidance": guidance, "steps": steps}.items():
            if value is not None:
                raise UsageError(f"{name} is for diffusion models; a VAE has none")
        return self._means(self._apply(params, model_state, "decode", latents, labels))

    def reconstruct(
        self,
        params: Params,
        model_state: Any,
        rng: Key[Array, ""],
        images: Shaped[AnyArray, "batch height width channels"],
        labels: Integer[AnyArray, " batch"] | None = None,
    ) -> Images:
        """Encodes images, drawn if their pixels are 0 or 1, and decodes the posterior's mean, to [0, 1]."""
        rngs = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, jnp.arange(images.shape[0]))
        posterior = self._apply(params, model_state, "encode", self._values(rngs, images), labels)
        return self._means(self._apply(params, model_state, "decode", posterior.mean, labels))

    def _apply(self, params: Params, model_state: Any, method: str, *inputs: Any) -> Any:
        return self.model.apply({"params": params, **model_state}, *inputs, method=method)

    def _labels(self, batch: Batch) -> Any:
        return batch["label"] if self.num_classes else None

    def _weight(self, context: Context) -> Any:
        if not (context.train and self.warmup_steps):
            return self.beta
        return self.beta * jnp.minimum(context.step / self.warmup_steps, 1.0)

    def _values(self, rngs: Key[Array, " batch"], images: Shaped[AnyArray, "..."]) -> Images:
        """Gives what is modelled: pixels in [0, 1], or 0 and 1 drawn with these probabilities."""
        bytes_ = images.dtype == jnp.uint8
        pixels = jnp.asarray(images, jnp.float32) / (255 if bytes_ else 1)
        if self.model.likelihood == "gaussian":
            return pixels
        rngs = jax.vmap(jax.random.fold_in, in_axes=(0, None))(rngs, _BINARISATION)
        bits = jax.vmap(lambda rng: hashed_bits(rng, pixels.shape[1:]))(rngs)
        return ((bits >> 8).astype(jnp.float32) * 2.0**-24 < pixels).astype(jnp.float32)

    def _log_likelihood(self, decoded: Decoded, values: Images) -> Float[Array, " batch"]:
        if self.model.likelihood == "gaussian":
            return gaussian_log_likelihood(decoded.outputs, decoded.log_scale, values)
        return bernoulli_log_likelihood(decoded.outputs, values)

    def _means(self, decoded: Decoded) -> Images:
        if self.model.likelihood == "gaussian":
            return jnp.clip(decoded.outputs, 0, 1)
        return jax.nn.sigmoid(decoded.outputs)


def _sample(posterior: Posterior, noise: Float[Array, "batch latents"]) -> Float[Array, "batch latents"]:
    """Draws latents as a function of the posterior that can be differentiated (Kingma & Welling 2014, section 2.4)."""
    return posterior.mean + jnp.exp(0.5 * posterior.log_variance) * noise


def _normal(rngs: Key[Array, " batch"], latents: int) -> Float[Array, "batch latents"]:
    rngs = jax.vmap(jax.random.fold_in, in_axes=(0, None))(rngs, _LATENTS)
    return jax.vmap(lambda rng: jax.random.normal(rng, (latents,)))(rngs)
