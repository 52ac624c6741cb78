"""A small DCGAN that makes the digit that is asked for, from 1,437 scans of digits that come with scikit-learn.

python -m experiments.digits_gan                                    # no network
python -m experiments.digits_gan --objective relativistic-r1        # or wgan-gp, hinge, lsgan
"""

from dataclasses import dataclass, field

from jaxgen.adversarial_config import AdversarialConfig, adversarial_task
from jaxgen.augment import DifferentiableAugmentation
from jaxgen.experiment import Experiment
from jaxgen.run import main


@dataclass(frozen=True, kw_only=True)
class Config(AdversarialConfig):
    """A small generator against a small discriminator."""

    data: str = "digits"
    """The data set: digits (no network), or any other set of square images."""
    epochs: int = 100
    """Length of the run, in passes over the training split."""
    evaluate_every: int | None = 230
    """Steps between evaluations."""
    learning_rate: float | None = 5e-4
    """Peak learning rate of the generator."""
    ema_decay: float | None = 0.99
    """Decay of the moving average of the parameters, which images are made with."""
    conditional: bool = True
    """Make images of a class that is asked for."""
    latent_size: int = 32
    """Numbers of noise that an image is made of."""
    channels: tuple[int, ...] = (32, 64)
    """Channels of the discriminator's stages, each of which halves the image; the generator's are its mirror."""
    augmentation: DifferentiableAugmentation = field(
        default_factory=lambda: DifferentiableAugmentation(translation=0.125)
    )
    """Random changes of all that the discriminator sees, for small sets."""


EXPERIMENT = Experiment(
    name="digits_gan",
    config=Config,
    task=adversarial_task,
    summary="small DCGAN that makes the digit that is asked for",
    data="digits (no network)",
    time="2 min, on one core",
    reference="99.2 % recognised as asked",
    needs=("image", "label"),
    smoke={"channels": (8, 16)},
)

if __name__ == "__main__":
    main(EXPERIMENT)
