"""A DCGAN that makes MNIST's digits: a generator against a discriminator.

python -m experiments.mnist_gan                                     # digits of any kind
python -m experiments.mnist_gan --conditional                       # digits that are asked for
python -m experiments.mnist_gan --objective relativistic-r1         # or wgan-gp, hinge, lsgan
python -m experiments.mnist_gan --data fashion_mnist                # or any other set of square images
"""

from dataclasses import dataclass

from jaxgen.adversarial_config import AdversarialConfig, adversarial_task
from jaxgen.experiment import Experiment
from jaxgen.run import main


@dataclass(frozen=True, kw_only=True)
class Config(AdversarialConfig):
    """A generator against a discriminator, on MNIST."""

    schedule: str = "linear"
    """How the learning rate changes: constant, cosine, linear, inverse_sqrt or piecewise."""
    final_fraction: float = 0.1
    """What cosine and linear come down to, as a part of the peak learning rate."""


EXPERIMENT = Experiment(
    name="mnist_gan",
    config=Config,
    task=adversarial_task,
    summary="DCGAN: a generator against a discriminator, that makes digits",
    data="MNIST (--data digits: no network)",
    time="23 min, on one core",
    reference="--conditional: 98.8 % recognised as asked",
    needs=("image", "label"),
    smoke={"data": "digits", "channels": (8, 16)},
)

if __name__ == "__main__":
    main(EXPERIMENT)
