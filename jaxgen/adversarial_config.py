"""Adversarial experiments: the options that they share, and how these become a task."""

from dataclasses import dataclass, field
from typing import Literal

from jaxgen.augment import DifferentiableAugmentation
from jaxgen.data.sources import Source
from jaxgen.errors import UsageError
from jaxgen.experiment import PictureConfig
from jaxgen.models.gan import Discriminator, Generator
from jaxgen.tasks.adversarial import AdversarialImages

# How often the discriminator is updated for one update of the generator, where it isn't once.
_STEPS = {"wgan-gp": 5}


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig(PictureConfig):
    """A generator against a discriminator, on images."""

    data: str = "mnist"
    """The data set: mnist, digits (no network), any tfds set of images, or a folder of pictures, square ones."""
    batch_size: int = 64
    """Real images, and made ones, in an update of either player, over all devices."""
    learning_rate: float | None = 2e-4
    """Peak learning rate of the generator."""
    beta1: float | None = 0.5
    """For adam and its kin: part of the mean of gradients that is kept from step to step."""
    beta2: float | None = 0.99
    """For adam and its kin: part of the mean of squared gradients that is kept from step to step."""
    ema_decay: float | None = 0.999
    """Decay of the moving average of the parameters, which images are made with."""
    objective: Literal["ns", "wgan-gp", "hinge", "lsgan", "relativistic-r1"] = "ns"
    """The game: non-saturating, Wasserstein with gradient penalty, hinge, least squares, or relativistic pairs with
    penalties of the gradient at real and made images."""
    conditional: bool = False
    """Make images of a class that is asked for."""
    conditioning: Literal["embedding", "batch_norm"] = "embedding"
    """How the generator is told the class: by a vector, or by the scales and shifts of batch norm."""
    latent_size: int = 100
    """Numbers of noise that an image is made of."""
    channels: tuple[int, ...] = (64, 128)
    """Channels of the discriminator's stages, each of which halves the image; the generator's are its mirror."""
    block: Literal["dcgan", "residual"] = "dcgan"
    """What a stage is: one convolution of 4 x 4, or two of 3 x 3 beside a shortcut."""
    batch_norm: bool = True
    """Normalise the generator over the batch."""
    discriminator_batch_norm: bool = False
    """Normalise the discriminator over the batch; not with a penalty of the gradient."""
    spectral_norm: bool = False
    """Use the discriminator's kernels with a spectral norm of one."""
    attention: bool = False
    """Have both attend to all of the image after the first stage."""
    discriminator_steps: int | None = None
    """Updates of the discriminator for one of the generator. By default one; 5 for wgan-gp."""
    discriminator_rate: float = 1.0
    """The discriminator's learning rate, as a multiple of the generator's."""
    r1: float | None = None
    """Weight of half the squared gradient at real images. By default 1 for relativistic-r1, else none."""
    r2: float | None = None
    """The same at made images."""
    gradient_penalty: float | None = None
    """Weight of the gradient's squared distance from a norm of 1. By default 10 for wgan-gp, else none."""
    augmentation: DifferentiableAugmentation = field(default_factory=DifferentiableAugmentation)
    """Random changes of all that the discriminator sees, for small sets."""


def adversarial_task(config: AdversarialConfig, train: Source) -> AdversarialImages:
    """Makes the task of a training split: for its image size and, where classes are asked for, its classes."""
    if config.conditioning == "batch_norm" and not config.conditional:
        raise UsageError("--conditioning says how the class is told: give --conditional with it")
    num_classes = train.num_classes if config.conditional else 0
    generator = Generator(
        image_shape=tuple(size or 0 for size in train.shape),  # those of different sizes are refused before
        latent_size=config.latent_size,
        num_classes=num_classes,
        channels=config.channels[::-1],
        block=config.block,
        batch_norm=config.batch_norm,
        attention=config.attention,
        conditioning=config.conditioning,
    )
    discriminator = Discriminator(
        num_classes=num_classes,
        channels=config.channels,
        block=config.block,
        batch_norm=config.discriminator_batch_norm,
        spectral_norm=config.spectral_norm,
        attention=config.attention,
    )
    return AdversarialImages(
        generator,
        discriminator,
        objective=config.objective,
        r1=config.r1,
        r2=config.r2,
        gradient_penalty=config.gradient_penalty,
        discriminator_steps=_STEPS.get(config.objective, 1)
        if config.discriminator_steps is None
        else config.discriminator_steps,
        discriminator_rate=config.discriminator_rate,
        augmentation=config.augmentation,
        class_names=train.class_names,
    )
