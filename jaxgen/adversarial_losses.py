"""What discriminators and generators minimise for each image or pair, and penalties of the gradient by the image."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32, Shaped

from jaxgen.metrics import AnyArray, Mean, Ratio

Logits = Float[Array, " batch"]


class Objective(NamedTuple):
    """One game: values to minimise, from the logits of real images and of made ones, row by row.

    Attributes:
        discriminator: gives the discriminator's.
        generator: gives the generator's.
        pairs: whether the generator's are of pairs, so that it needs the real logits, too.
        r1: usual weight of the penalty of the same name.
        r2: usual weight of the penalty of the same name.
        gradient_penalty: usual weight of the penalty of the same name.
    """

    discriminator: Callable[[Logits, Logits], Logits]
    generator: Callable[[Logits, Logits], Logits]
    pairs: bool = False
    r1: float = 0.0
    r2: float = 0.0
    gradient_penalty: float = 0.0


OBJECTIVES: dict[str, Objective] = {
    # Goodfellow et al. 2014, the generator's form of section 3 that does not saturate.
    "ns": Objective(
        lambda real, fake: jax.nn.softplus(-real) + jax.nn.softplus(fake),
        lambda real, fake: jax.nn.softplus(-fake),
    ),
    # Gulrajani et al. 2017, equation 3.
    "wgan-gp": Objective(lambda real, fake: fake - real, lambda real, fake: -fake, gradient_penalty=10.0),
    # Lim & Ye 2017; as Miyato et al. 2018, equations 16 and 17.
    "hinge": Objective(
        lambda real, fake: jax.nn.relu(1 - real) + jax.nn.relu(1 + fake), lambda real, fake: -fake
    ),
    # Mao et al. 2017, equation 9, with targets of 1 for real images and 0 for made ones.
    "lsgan": Objective(
        lambda real, fake: ((real - 1) ** 2 + fake**2) / 2, lambda real, fake: (fake - 1) ** 2 / 2
    ),
    # Jolicoeur-Martineau 2018, with both penalties: Huang et al. 2024 (R3GAN), equations 2 and 5.
    "relativistic-r1": Objective(
        lambda real, fake: jax.nn.softplus(fake - real),
        lambda real, fake: jax.nn.softplus(real - fake),
        pairs=True,
        r1=1.0,
        r2=1.0,
    ),
}


def squared_norms(gradients: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
    """Gives the squared norm of each row: R1 and R2 are half of its mean (Mescheder et al. 2018, equation 9)."""
    return (gradients**2).reshape(gradients.shape[0], -1).sum(axis=1)


def distances_from_one(gradients: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
    """Gives the squared distance of each row's norm from 1 (Gulrajani et al. 2017, equation 3)."""
    # The root's derivative at 0 is infinite, and 0 times it NaN.
    norms = jnp.sqrt(jnp.maximum(squared_norms(gradients), 1e-12))
    return (norms - 1) ** 2


def diversity(
    made: Float[Array, "batch ..."],
    real: Float[Array, "batch ..."],
    labels: Int32[Array, " batch"] | None,
    weights: Shaped[AnyArray, " batch"] | None,
) -> Ratio:
    """Gives the mean distance of two made images of a batch, as a part of that of two real ones.

    It is 0 where all images made are the same, and about 1 where they differ as real ones do.

    Args:
        made: images.
        real: images.
        labels: with them only images of one class are compared, so that classes alone are no diversity.
        weights: 0 on rows that aren't compared.
    """
    kept = jnp.ones(made.shape[0]) if weights is None else (jnp.asarray(weights) != 0).astype(jnp.float32)
    pairs = kept[:, None] * kept * (1 - jnp.eye(made.shape[0]))
    if labels is not None:
        pairs *= labels[:, None] == labels
    return Ratio(*(Mean.of(_distances(images), pairs) for images in (made, real)))


def _distances(images: Float[Array, "batch ..."]) -> Float[Array, "batch batch"]:
    flat = lax.stop_gradient(images).reshape(images.shape[0], -1)
    squares = (flat**2).sum(axis=1)
    return jnp.sqrt(jnp.maximum(squares[:, None] + squares - 2 * flat @ flat.T, 0))


def input_gradients(
    logits_of: Callable[[Array], tuple[Logits, Any]], images: Float[Array, "batch ..."]
) -> tuple[Logits, Float[Array, "batch ..."], Any]:
    """Gives (logits, the gradient of each image's logit by that image, what else `logits_of` gives).

    Each logit must be a function of its own image alone.
    """
    logits, pull, rest = jax.vjp(logits_of, images, has_aux=True)
    return logits, pull(jnp.ones_like(logits))[0], rest
