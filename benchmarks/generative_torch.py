"""The networks that make images as a PyTorch user writes them: the same layers and sizes as the experiments'."""

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

NUM_CLASSES = 10


class Generator(nn.Module):
    """`mnist_gan --conditional`'s: 7 x 7 x 128, 14 x 14 x 64, 28 x 28 x 1, the class added behind the dense layer."""

    def __init__(self, latent_size: int = 100) -> None:
        super().__init__()
        self.latent_size = latent_size
        self.dense = nn.Linear(latent_size, 7 * 7 * 128)
        self.classes = nn.Embedding(NUM_CLASSES, 7 * 7 * 128)
        self.stages = nn.Sequential(
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.ConvTranspose2d(128, 64, 4, 2, 1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 1, 4, 2, 1),
        )
        self.apply(_glorot)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Gives images from -1 to 1."""
        hidden = self.dense(latents) + self.classes(labels)
        return torch.tanh(self.stages(hidden.view(-1, 128, 7, 7)))


class Discriminator(nn.Module):
    """Its opponent: 14 x 14 x 64, 7 x 7 x 128, and a projection of the class (Miyato & Koyama 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            nn.Conv2d(1, 64, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(64, 128, 4, 2, 1), nn.LeakyReLU(0.2)
        )
        self.dense = nn.Linear(7 * 7 * 128, 1)
        self.classes = nn.Embedding(NUM_CLASSES, 7 * 7 * 128)
        self.apply(_glorot)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Gives logits."""
        hidden = self.stages(images).flatten(1)
        return self.dense(hidden)[:, 0] + (hidden * self.classes(labels)).sum(1)


def _glorot(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
        nn.init.xavier_uniform_(layer.weight)
        if (bias := getattr(layer, "bias", None)) is not None:
            nn.init.zeros_(bias)


class Adversaries:
    """Both in training: the non-saturating game, Adam at 2e-4, and a moving average of the generator.

    Attributes:
        average: the generator whose parameters are the average; running averages of batch norm are the last ones.
    """

    def __init__(self, options: tuple[str, ...] = (), learning_rate: float = 2e-4) -> None:
        layout = torch.channels_last if "channels_last" in options else torch.contiguous_format
        self.generator, self.average = (Generator().to(memory_format=layout) for _ in range(2))
        self.discriminator = Discriminator().to(memory_format=layout)
        self.average.load_state_dict(self.generator.state_dict())
        compile_ = torch.compile if "compiled" in options else lambda module: module
        self._make, self._judge = compile_(self.generator), compile_(self.discriminator)
        self._optimizers = [
            torch.optim.Adam(module.parameters(), lr=learning_rate, betas=(0.5, 0.99), fused=True)
            for module in (self.discriminator, self.generator)
        ]

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Updates the discriminator, then the generator by the same made images, then the average."""
        of_discriminator, of_generator = self._optimizers
        made = self._make(torch.randn(len(images), self.generator.latent_size), labels)
        logits = self._judge(torch.cat([images, made.detach()]), torch.cat([labels, labels]))
        real, fake = logits.chunk(2)
        of_discriminator.zero_grad()
        (functional.softplus(-real).mean() + functional.softplus(fake).mean()).backward()
        of_discriminator.step()
        self.discriminator.requires_grad_(False)  # no gradients of kernels that this turn doesn't change
        of_generator.zero_grad()
        functional.softplus(-self._judge(made, labels)).mean().backward()
        self.discriminator.requires_grad_(True)
        of_generator.step()
        update_average(self.average, self.generator)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Sets both players' learning rate."""
        for optimizer in self._optimizers:
            optimizer.param_groups[0]["lr"] = learning_rate

    @torch.no_grad()
    def sample(self, labels: Tensor) -> Tensor:
        """Makes images in [0, 1] with the average."""
        self.average.load_state_dict(dict(self.generator.named_buffers()), strict=False)
        self.average.eval()
        return (self.average(torch.randn(len(labels), self.average.latent_size), labels) + 1) / 2


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, decay: float = 0.999) -> None:
    """Moves an average of parameters, all of them in one call."""
    torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - decay)


class GatedVAE(nn.Module):
    """`mnist_vae`'s: two layers of 300 gated units each way, 50 latents."""

    def __init__(self, latents: int = 50, width: int = 300) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *_gated(784, width), *_gated(width, width), nn.Linear(width, 2 * latents)
        )
        self.decoder = nn.Sequential(*_gated(latents, width), *_gated(width, width), nn.Linear(width, 784))

    def forward(self, images: Tensor) -> Tensor:
        """Gives the negative bound, of pixels that are drawn as 0 or 1."""
        values = torch.bernoulli(images)
        mean, log_variance = self.encoder(values).chunk(2, dim=1)
        latents = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        reconstruction = functional.binary_cross_entropy_with_logits(
            self.decoder(latents), values, reduction="sum"
        )
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum()
        return (reconstruction + divergence) / len(images)


def _gated(inputs: int, width: int) -> tuple[nn.Module, nn.Module]:
    return nn.Linear(inputs, 2 * width), nn.GLU()


class UNet(nn.Module):
    """`mnist_diffusion`'s: 14 x 14 x 64 and 7 x 7 x 128, one residual block each way, attention at the lowest."""

    def __init__(self, channels: tuple[int, int] = (64, 128), groups: int = 8) -> None:
        super().__init__()
        first, second = channels
        told = 4 * first
        self.width = 2 * first
        self.time, self.told = nn.Linear(self.width, told), nn.Linear(told, told)
        self.classes = nn.Embedding(NUM_CLASSES + 1, told)
        self.first = nn.Conv2d(4, first, 3, padding=1)
        self.blocks = nn.ModuleList(
            _Block(*sizes, told, groups)
            for sizes in ((first, first), (first, second), (second, second), (first, first))
        )
        self.attention = _Attention(second, groups)
        self.up = nn.Conv2d(second, first, 1)
        self.last_norm = nn.GroupNorm(groups, first)
        self.last = nn.Conv2d(first, 4, 3, padding=1)

    def forward(self, images: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        """Gives predictions of the images' shape; of no class where a label is `NUM_CLASSES`."""
        rates = torch.exp(torch.arange(0, self.width, 2) * (-math.log(10_000) / self.width))
        angles = 1000 * times[:, None] * rates
        hidden = self.time(torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)) + self.classes(
            labels
        )
        told = functional.silu(self.told(functional.silu(hidden)))
        down_first, down_second, up_second, up_first = self.blocks
        hidden = skip = down_first(self.first(functional.pixel_unshuffle(images, 2)), told)
        hidden = self.attention(down_second(functional.avg_pool2d(hidden, 2), told))
        hidden = functional.interpolate(self.up(up_second(hidden, told)), scale_factor=2)
        hidden = up_first((hidden + skip) / math.sqrt(2), told)
        hidden = self.last(functional.silu(self.last_norm(hidden)))
        return functional.pixel_shuffle(hidden, 2)

    def loss(self, forward: Any, images: Tensor, labels: Tensor) -> Tensor:
        """Gives the squared error of v at random times, with a tenth of the labels withheld."""
        times, noise = torch.rand(len(images)), torch.randn_like(images)
        labels = torch.where(torch.rand(len(labels)) < 0.1, NUM_CLASSES, labels)
        alpha, sigma = cosine(times[:, None, None, None])
        predicted = forward(alpha * images + sigma * noise, times, labels)
        return functional.mse_loss(predicted, alpha * noise - sigma * images)


class _Block(nn.Module):
    def __init__(self, inputs: int, features: int, told: int, groups: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(groups, inputs), nn.GroupNorm(groups, features)])
        self.first = nn.Conv2d(inputs, features, 3, padding=1)
        self.second = nn.Conv2d(features, features, 3, padding=1)
        self.told = nn.Linear(told, 2 * features)
        self.shortcut = nn.Identity() if inputs == features else nn.Conv2d(inputs, features, 1)

    def forward(self, inputs: Tensor, told: Tensor) -> Tensor:
        hidden = self.first(functional.silu(self.norms[0](inputs)))
        scale, shift = self.told(told)[:, :, None, None].chunk(2, dim=1)
        hidden = functional.silu(self.norms[1](hidden) * (1 + scale) + shift)
        return self.shortcut(inputs) + self.second(hidden)


class _Attention(nn.Module):
    def __init__(self, features: int, groups: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, features)
        self.query_key_value, self.out = nn.Linear(features, 3 * features), nn.Linear(features, features)

    def forward(self, inputs: Tensor) -> Tensor:
        batch, features, rows, columns = inputs.shape
        places = self.norm(inputs).flatten(2).transpose(1, 2)
        parts = self.query_key_value(places).view(batch, rows * columns, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value)
        attended = self.out(attended.transpose(1, 2).reshape(batch, rows * columns, features))
        return inputs + attended.transpose(1, 2).view(inputs.shape)


def cosine(times: Tensor) -> tuple[Tensor, Tensor]:
    """Gives how much of image and noise there is (Nichol & Dhariwal 2021)."""
    angles = (times + 0.008) / 1.008 * math.pi / 2
    alpha = (torch.cos(angles) / math.cos(0.008 / 1.008 * math.pi / 2)).clamp(5e-5, 1)
    return alpha, torch.sqrt(1 - alpha**2)


@torch.inference_mode()
def denoise(forward: Any, labels: Tensor, steps: int, guidance: float) -> Tensor:
    """Samples by DDIM with guidance: one call of the net a step for both predictions."""
    images = torch.randn(len(labels), 1, 28, 28)
    both = torch.cat([labels, torch.full_like(labels, NUM_CLASSES)])
    times = torch.linspace(1, 0, steps + 1)
    for now, then in itertools.pairwise(times):
        (alpha, sigma), (alpha_to, sigma_to) = cosine(now), cosine(then)
        predicted = forward(torch.cat([images, images]), now.expand(len(both)), both)
        conditional, unconditional = predicted.chunk(2)
        v = unconditional + guidance * (conditional - unconditional)
        clean = (alpha * images - sigma * v).clamp(-1, 1)
        images = alpha_to * clean + sigma_to * (images - alpha * clean) / sigma
    return images
