"""Parameters for tests: larger than those that models begin with, so that all parts matter, norms and biases too."""

import jax
import jax.numpy as jnp
import numpy as np


def random_params(model, *inputs, deviation=0.2):
    """Draws a model's parameters, without compiling its initialisation; scales lie around 1."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        drawn = rng.normal(size=leaf.shape) * deviation + (path[-1].key == "scale")
        return jnp.asarray(drawn, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(model, *inputs))


def shapes_of(model, *inputs):
    """Gives the shapes of a model's parameters."""
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]


def number_of_parameters(model, *inputs):
    """Counts a model's parameters, without making them."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes_of(model, *inputs)))
