"""What both players minimise, against the papers' formulas of logits that the modules themselves give."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from point_players import PointDiscriminator, PointGenerator

import jaxgen
from jaxgen.augment import DifferentiableAugmentation
from jaxgen.tasks import AdversarialImages


def softplus(values):
    return np.logaddexp(0, values)


# What the discriminator and the generator minimise, and the usual weights of the penalties.
GAMES = {
    "ns": (lambda real, made: softplus(-real) + softplus(made), lambda real, made: softplus(-made), {}),
    "wgan-gp": (lambda real, made: made - real, lambda real, made: -made, {"gradient_penalty": 10.0}),
    "hinge": (
        lambda real, made: np.maximum(1 - real, 0) + np.maximum(1 + made, 0),
        lambda real, made: -made,
        {},
    ),
    "lsgan": (
        lambda real, made: (real - 1) ** 2 / 2 + made**2 / 2,
        lambda real, made: (made - 1) ** 2 / 2,
        {},
    ),
    "relativistic-r1": (
        lambda real, made: softplus(made - real),
        lambda real, made: softplus(real - made),
        {"r1": 1.0, "r2": 1.0},
    ),
}


class Game:
    """Two small modules with parameters of some size, a batch, and all that losses read, got from the modules."""

    def __init__(self):
        rng = np.random.default_rng(2)
        self.generator = PointGenerator((4, 4, 1), num_classes=3, widths=(8,))
        self.discriminator = PointDiscriminator(num_classes=3, widths=(8,))
        self.augmentation = DifferentiableAugmentation(0.25, 0.5, 0.5)
        self.batch = {
            "image": jnp.asarray(rng.integers(0, 256, (8, 4, 4, 1)), jnp.uint8),
            "label": jnp.asarray(rng.integers(0, 3, 8), jnp.int32),
        }
        params, self.model_state = self.task("ns").init(jax.random.key(0), self.batch)
        self.params = jax.tree.map(
            lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), params
        )
        self.context = jaxgen.train.Context(jax.random.key(1), jnp.int32(0), jnp.arange(8), train=True)
        self.real_keys, self.made_keys = self.keys(1), self.keys(2)
        self.latents = jnp.stack([jax.random.normal(key, (4,)) for key in self.keys(0)])
        self.shares = np.array([jax.random.uniform(key) for key in self.keys(3)])[:, None, None, None]
        self.logits_with = jax.jit(lambda generator: [self.logits(one) for one in self.images(generator)])

    def task(self, objective, **options):
        return AdversarialImages(
            self.generator, self.discriminator, objective, augmentation=self.augmentation, **options
        )

    def keys(self, kind):
        each = [jax.random.fold_in(self.context.rng, place) for place in range(8)]
        return jnp.stack([jax.random.fold_in(key, kind) for key in each])

    def images(self, generator):
        """Real and made images, augmented."""
        made = self.generator.apply({"params": generator}, self.latents, self.batch["label"])
        both = ((self.real_keys, self.batch["image"] / 127.5 - 1), (self.made_keys, made))
        return [self.augmentation(keys, images, background=-1.0) for keys, images in both]

    def logits(self, images):
        variables = {"params": self.params["discriminator"]}
        return self.discriminator.apply(variables, images, self.batch["label"])

    def squared_norms(self):
        """Of the gradients at real and made images, and at one point between each two."""
        real, made = self.images(self.params["generator"])
        between = made + self.shares * (real - made)
        gradients = map(jax.grad(lambda images: self.logits(images).sum()), (real, made, between))
        return [jnp.square(gradient).sum(axis=(1, 2, 3)) for gradient in gradients]


@pytest.fixture(scope="module")
def game():
    return Game()


@pytest.fixture(scope="module")
def squared_norms(game):
    return jax.jit(game.squared_norms)()


@pytest.mark.usefixtures("compiled_quickly")
@pytest.mark.parametrize(
    ("objective", "options"),
    [*((name, {}) for name in GAMES), ("relativistic-r1", {"r1": 3.0, "r2": 0.0, "gradient_penalty": 2.0})],
)
def test_the_discriminators_terms_are_the_objective_and_its_weighted_penalties(
    objective, options, game, squared_norms
):
    loss = jax.jit(game.task(objective, **options).discriminator_loss)
    terms, outputs = loss(game.params, game.model_state, (), game.batch, game.context)
    real, made = map(np.asarray, game.logits_with(game.params["generator"]))
    of_discriminator, _, weights = GAMES[objective]
    np.testing.assert_allclose(terms.pop("adversarial").total, of_discriminator(real, made).sum(), rtol=1e-4)
    np.testing.assert_allclose(outputs.metrics["margin"].compute(), np.mean(real - made), rtol=1e-4)
    usual_or_given = {name: weight for name, weight in (weights | options).items() if weight}
    assert {name: float(term.weight) for name, term in terms.items()} == usual_or_given
    at_real, at_made, at_between = squared_norms
    expected = {"r1": at_real / 2, "r2": at_made / 2, "gradient_penalty": (np.sqrt(at_between) - 1) ** 2}
    for name, term in terms.items():
        np.testing.assert_allclose(term.mean.total, expected[name].sum(), rtol=1e-4)
        assert term.mean.count == 8


@pytest.mark.usefixtures("compiled_quickly")
@pytest.mark.parametrize("objective", GAMES)
def test_the_generators_term_is_the_objective_and_its_gradient_that_of_finite_differences(objective, game):
    task, generator = game.task(objective), game.params["generator"]

    def given(generator):
        params = {**game.params, "generator": generator}
        terms, _ = task.generator_loss(params, game.model_state, (), game.batch, game.context)
        assert terms.keys() == {"adversarial"}
        return terms["adversarial"].total

    def expected(generator):
        logits = (np.asarray(each, np.float64) for each in game.logits_with(generator))
        return GAMES[objective][1](*logits).sum()

    value, gradient = jax.jit(jax.value_and_grad(given))(generator)
    np.testing.assert_allclose(value, expected(generator), rtol=1e-4)
    # Along itself the gradient's slope is its norm.
    norm = math.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(gradient)))
    assert norm > 0.1
    along = jax.tree.map(lambda leaf: 1e-3 * leaf / norm, gradient)
    up, down = (expected(jax.tree.map(move, generator, along)) for move in (jnp.add, jnp.subtract))
    assert (up - down) / 2e-3 == pytest.approx(norm, rel=0.02)
