"""Adversarial generation of images: a generator and a discriminator as two players."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int32, Key

from jaxgen.adversarial_losses import (
    OBJECTIVES,
    Objective,
    distances_from_one,
    diversity,
    input_gradients,
    squared_norms,
)
from jaxgen.augment import DifferentiableAugmentation
from jaxgen.errors import UsageError, sizes, unknown
from jaxgen.metrics import Mean
from jaxgen.optim import OptimizerConfig
from jaxgen.tasks.base import apply_model, check_arrays, init_model, signed_pixels
from jaxgen.train.context import Batch, Context, Outputs, Params, Term
from jaxgen.train.players import Player, Players

_PENALTIES = ("r1", "r2", "gradient_penalty")
# What each example's key is folded with.
_LATENTS, _REAL, _MADE, _BETWEEN = range(4)


@dataclass(frozen=True)
class AdversarialImages:
    """Learns to make images: `image` [batch, height, width, channels], `label` int32 [batch], `weight` [batch].

    `players` gives the two sides; both parameters and model state are dicts of `generator` and `discriminator`.

    Attributes:
        generator: a module from latents [batch, `latent_size`] (and labels) to images from -1 to 1, with the fields
            `image_shape`, `latent_size` and `num_classes`.
        discriminator: a module from images (and labels) to logits [batch].
        objective: by name: `ns` (non-saturating), `wgan-gp`, `hinge`, `lsgan` or `relativistic-r1`; see
            `jaxgen.adversarial_losses.OBJECTIVES`.
        r1: weight of half the squared gradient at real images; by default what is usual for the objective.
        r2: the same at made images.
        gradient_penalty: weight of the squared distance of the gradient's norm from 1, between the two.
        discriminator_steps: updates of the discriminator for one of the generator.
        discriminator_rate: the discriminator's learning rate, as a multiple of the generator's.
        augmentation: random changes of all that the discriminator sees.
        class_names: names for plots and tables; numbers when empty.

    Raises:
        UsageError: when it is made, for unknown names, values out of range and parts that don't fit.
    """

    generator: nn.Module
    discriminator: nn.Module
    objective: str = "ns"
    r1: float | None = None
    r2: float | None = None
    gradient_penalty: float | None = None
    discriminator_steps: int = 1
    discriminator_rate: float = 1.0
    augmentation: DifferentiableAugmentation = field(default_factory=DifferentiableAugmentation)
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses what can't be meant, before anything is computed."""
        if self.objective not in OBJECTIVES:
            raise unknown("objective", self.objective, OBJECTIVES)
        if self.discriminator_steps < 1:
            raise UsageError(f"discriminator_steps must be at least 1, not {self.discriminator_steps}")
        for name in (*_PENALTIES, "discriminator_rate"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise UsageError(f"{name} is {value}; it must be at least 0")
        if any(map(self._penalty, _PENALTIES)) and self._batch_norm:
            names = " and ".join(name for name in _PENALTIES if self._penalty(name))
            raise UsageError(
                f"{names} penalises the gradient of one image at a time, and batch norm mixes them: give the "
                "discriminator batch_norm=False"
            )
        of_discriminator = getattr(self.discriminator, "num_classes", self.num_classes)
        if of_discriminator != self.num_classes:
            raise UsageError(
                f"the generator has {self.num_classes} classes, the discriminator {of_discriminator}: "
                "give both the same"
            )

    @property
    def num_classes(self) -> int:
        """The classes that can be asked for; 0 for none."""
        return self.generator.num_classes

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of the noise that one image is made of."""
        return (self.generator.latent_size,)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels)."""
        return tuple(self.generator.image_shape)

    @property
    def slices(self) -> int:
        """The number of updates whose examples a batch holds."""
        return self.discriminator_steps

    @property
    def _batch_norm(self) -> bool:
        return getattr(self.discriminator, "batch_norm", False)

    def _penalty(self, name: str) -> float:
        given = getattr(self, name)
        return getattr(OBJECTIVES[self.objective], name) if given is None else given

    def optimizers(self, optimizer: OptimizerConfig) -> dict[str, OptimizerConfig]:
        """Gives both players' optimisers from the generator's."""
        rate = optimizer.schedule.learning_rate * self.discriminator_rate
        of_discriminator = replace(optimizer, schedule=replace(optimizer.schedule, learning_rate=rate))
        return {"discriminator": of_discriminator, "generator": optimizer}

    def players(self, optimizers: Mapping[str, optax.GradientTransformation]) -> Players:
        """Makes the game: what `fit` takes for an optimiser.

        Args:
            optimizers: of `generator` and `discriminator`.
        """
        return Players(
            [
                Player(
                    "discriminator",
                    self.discriminator_loss,
                    optimizers["discriminator"],
                    repeats=self.discriminator_steps,
                ),
                Player("generator", self.generator_loss, optimizers["generator"]),
            ]
        )

    def init(self, rng: Key[Array, ""], example: Batch) -> tuple[Params, Any]:
        """Makes both modules' parameters and state."""
        labels = {"labels": jax.ShapeDtypeStruct((1,), jnp.int32)} if self.num_classes else {}
        inputs = {"generator": self.latent_shape, "discriminator": self.image_shape}
        params, model_state = {}, {}
        for (name, shape), key in zip(inputs.items(), jax.random.split(rng), strict=True):
            struct = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
            params[name], model_state[name] = init_model(getattr(self, name), key, struct, **labels)
        return params, model_state

    def check(self, source: Any) -> None:
        """Checks that a data source fits: images of the generator's shape, and its classes where it has some.

        Raises:
            UsageError: where it doesn't.
        """
        example = check_arrays(source, ("image", "label") if self.num_classes else ("image",))
        if example["image"].shape != self.image_shape:
            theirs, ours = sizes(example["image"].shape), sizes(self.image_shape)
            raise UsageError(f"{source.name} has images of {theirs}, but the generator makes {ours}")
        if self.num_classes and source.num_classes != self.num_classes:
            raise UsageError(
                f"{source.name} has {source.num_classes} classes, but the generator {self.num_classes}"
            )

    def initial_carry(self, batch_size: int) -> tuple[()]:
        """Has no recurrent state."""
        return ()

    def discriminator_loss(
        self, params: Params, model_state: Any, carry: Any, batch: Batch, context: Context
    ) -> tuple[dict[str, Mean | Term], Outputs]:
        """Gives the discriminator's objective and penalties, and its margin: how far real logits are above others."""
        real, made, _ = self._images(params, model_state, batch, context)
        made = lax.stop_gradient(made)
        seen = self._augmented(real, made, context)
        weights, labels = batch.get("weight"), self._labels(batch)
        judged = self._judge(params, model_state, seen, labels, weights, context)
        logits, gradients, of_discriminator = judged
        values = self._objective.discriminator(*logits)
        terms: dict[str, Mean | Term] = {"adversarial": Mean.of(values, weights)}
        for name, at in zip(("r1", "r2"), gradients, strict=True):
            if at is not None:
                terms[name] = Term(Mean.of(squared_norms(at) / 2, weights), self._penalty(name))
        if weight := self._penalty("gradient_penalty"):
            between = self._between(*seen, context)
            variables = {"params": params["discriminator"], **of_discriminator}

            def logits_of(images: Array) -> tuple[Any, None]:
                return self.discriminator.apply(variables, images, labels, train=False), None

            at = input_gradients(logits_of, between)[1]
            terms["gradient_penalty"] = Term(Mean.of(distances_from_one(at), weights), weight)
        metrics = {"margin": Mean.of(logits[0] - logits[1], weights)}
        return terms, Outputs(metrics, {**model_state, "discriminator": of_discriminator}, carry)

    def generator_loss(
        self, params: Params, model_state: Any, carry: Any, batch: Batch, context: Context
    ) -> tuple[dict[str, Mean | Term], Outputs]:
        """Gives the generator's objective, and how diverse its images are beside real ones.

        The discriminator's state stays as it is: it belongs to its own turn.
        """
        real, made, of_generator = self._images(params, model_state, batch, context)
        weights, labels = batch.get("weight"), self._labels(batch)
        seen = self._augmented(real, made, context)
        if self._objective.pairs:
            logits, _, _ = self._judge(params, model_state, seen, labels, weights, context, penalties=False)
        else:
            logit = self._apply("discriminator", params, model_state, seen[1], labels, weights, context)[0]
            logits = [logit, logit]  # of which it reads the second one
        terms: dict[str, Mean | Term] = {"adversarial": Mean.of(self._objective.generator(*logits), weights)}
        metrics = {"diversity": self._diversity(made, real, batch, context)}
        return terms, Outputs(metrics, {**model_state, "generator": of_generator}, carry)

    def loss(
        self, params: Params, model_state: Any, carry: Any, batch: Batch, context: Context
    ) -> tuple[dict[str, Mean | Term], Outputs]:
        """Gives, for evaluation, the discriminator's objective without penalties, its margin, and the diversity.

        On images that the discriminator was not trained on the margin tells how much of it is learnt by heart. The
        noise is the same for each batch of each evaluation, of a saved run as well.
        """
        context = replace(context, rng=jax.random.key(0))
        real, made, _ = self._images(params, model_state, batch, context)
        weights, labels = batch.get("weight"), self._labels(batch)
        seen = (real, made)
        logits, _, _ = self._judge(params, model_state, seen, labels, weights, context, penalties=False)
        metrics = {
            "margin": Mean.of(logits[0] - logits[1], weights),
            "diversity": self._diversity(made, real, batch, context),
        }
        term = Mean.of(self._objective.discriminator(*logits), weights)
        return {"adversarial": term}, Outputs(metrics, model_state, carry)

    def generate(
        self,
        params: Params,
        model_state: Any,
        rng: Key[Array, ""],
        latents: Float[Array, "batch latent"],
        labels: Int32[Array, " batch"] | None,
        *,
        guidance: float | None = None,
        steps: int | None = None,
    ) -> Float[Array, "batch height width channels"]:
        """Makes images from 0 to 1 of standard normal noise.

        Raises:
            UsageError: for guidance and steps, which are a diffusion model's; for classes that are missing or unknown.
        """
        if guidance is not None or steps is not None:
            name = "guidance" if guidance is not None else "steps"
            raise UsageError(f"{name} is for diffusion models: a generator makes its images in one step")
        if self.num_classes and labels is None:
            raise UsageError(
                f"the generator was trained with {self.num_classes} classes: say which ones to make"
            )
        if not self.num_classes and labels is not None:
            raise UsageError("the generator was trained without classes: leave them out")
        variables = {"params": params["generator"], **model_state["generator"]}
        images: Any = self.generator.apply(variables, latents, labels, train=False)
        return jnp.clip((images + 1) / 2, 0, 1)

    @property
    def _objective(self) -> Objective:
        return OBJECTIVES[self.objective]

    def _labels(self, batch: Batch) -> Array | None:
        return batch["label"] if self.num_classes else None

    def _images(
        self, params: Params, model_state: Any, batch: Batch, context: Context
    ) -> tuple[Array, Array, Any]:
        """Gives real images, made ones of the same classes, and the generator's new state."""
        latents = jax.vmap(lambda key: jax.random.normal(key, self.latent_shape))(_keys(context, _LATENTS))
        weights = batch.get("weight")
        made, state = self._apply(
            "generator", params, model_state, latents, self._labels(batch), weights, context
        )
        return signed_pixels(batch["image"]), made, state

    def _augmented(self, real: Array, made: Array, context: Context) -> tuple[Array, Array]:
        """Changes what the discriminator sees in training; the lowest value stands for nothing."""
        return (
            self.augmentation(_keys(context, _REAL), real, background=-1.0),
            self.augmentation(_keys(context, _MADE), made, background=-1.0),
        )

    def _between(self, real: Array, made: Array, context: Context) -> Array:
        shares = jax.vmap(jax.random.uniform)(_keys(context, _BETWEEN))
        shares = shares.reshape(-1, *(1,) * (real.ndim - 1))
        return shares * real + (1 - shares) * made

    def _judge(
        self,
        params: Params,
        model_state: Any,
        seen: tuple[Array, Array],
        labels: Array | None,
        weights: Array | None,
        context: Context,
        penalties: bool = True,
    ) -> tuple[list[Array], list[Array | None], Any]:
        """Gives the logits and, where they are penalised, the gradients of real and of made images, and the new state.

        Both kinds go through together where one makes no difference to the other.
        """
        wanted = [bool(penalties and self._penalty(name)) for name in ("r1", "r2")]
        if wanted[0] == wanted[1] and not self._batch_norm:
            logits, at, state = self._logits(
                params,
                model_state,
                jnp.concatenate(seen),
                _twice(labels),
                _twice(weights),
                context,
                wanted[0],
            )
            halves: list[Array | None] = [None, None] if at is None else [*jnp.split(at, 2)]
            return jnp.split(logits, 2), halves, state
        found: list[Array] = []
        gradients: list[Array | None] = []
        for images, penalised in zip(seen, wanted, strict=True):
            logits, at, state = self._logits(params, model_state, images, labels, weights, context, penalised)
            model_state = {**model_state, "discriminator": state}
            found.append(logits)
            gradients.append(at)
        return found, gradients, model_state["discriminator"]

    def _logits(
        self,
        params: Params,
        model_state: Any,
        images: Array,
        labels: Array | None,
        weights: Array | None,
        context: Context,
        with_gradients: bool,
    ) -> tuple[Array, Array | None, Any]:
        def logits_of(images: Array) -> tuple[Array, Any]:
            return self._apply("discriminator", params, model_state, images, labels, weights, context)

        if with_gradients:
            return input_gradients(logits_of, images)
        logits, state = logits_of(images)
        return logits, None, state

    def _apply(
        self,
        name: str,
        params: Params,
        model_state: Any,
        inputs: Array,
        labels: Array | None,
        weights: Array | None,
        context: Context,
    ) -> tuple[Array, Any]:
        """Applies one of the modules as the context says; gives its outputs and its new state."""
        module = getattr(self, name)
        return apply_model(module, params[name], model_state[name], inputs, context, weights, labels=labels)

    def _diversity(self, made: Array, real: Array, batch: Batch, context: Context) -> Any:
        weights = batch.get("weight")
        weights = jnp.ones(made.shape[0]) if weights is None else weights
        return diversity(*context.gather((made, real, self._labels(batch), weights)))


def _twice(leaf: Array | None) -> Array | None:
    return None if leaf is None else jnp.concatenate([leaf, leaf])


def _keys(context: Context, kind: int) -> Key[Array, " batch"]:
    return jax.vmap(lambda key: jax.random.fold_in(key, kind))(context.example_rngs())
