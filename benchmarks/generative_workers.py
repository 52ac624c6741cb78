"""The contenders of `benchmarks.generative`, each in a process of its own that trains or samples when it is told to.

python -m benchmarks.generative_workers CONTENDER JOB DATA

JOB is dcgan, vae, unet or sampling. DATA is an npz with `image` uint8 [examples, 28, 28, 1] and `label`. The process
prints its matmul peak in FLOP/s once it has compiled; then it reads numbers of steps, a line each, takes them, and
prints the seconds that they took. A step of sampling makes all images of a sheet.
"""

import os
import sys
from typing import Any

import numpy as np

from benchmarks.serving import Work, jax_peak, jaxgen_training, serve, slices, torch_peak

PYTORCH = ("pytorch", "pytorch-channels_last", "pytorch-compiled", "pytorch-compiled-channels_last")
CONTENDERS = {
    "dcgan": ("jaxgen", *PYTORCH),
    "vae": ("jaxgen", "pytorch", "pytorch-compiled"),
    "unet": ("jaxgen", *PYTORCH),
    "sampling": ("jaxgen", *PYTORCH),
}
BATCH_SIZES = {"dcgan": 64, "vae": 128, "unet": 64, "sampling": 64}
SAMPLING_STEPS, GUIDANCE = 50, 1.5
_SHUFFLED = 10_000  # examples that the bare loops go round in


def jaxgen(job: str, data: dict[str, np.ndarray]) -> tuple[Work, float]:
    """The experiments' tasks, with their own defaults; in training the set is on the device."""
    from jaxgen.data import from_arrays
    from jaxgen.memory import keep_freed_memory

    keep_freed_memory()
    source = from_arrays({name: data[name] for name in ("image", "label")})
    task, config = _task(job, source)
    if job == "sampling":
        return _jaxgen_sampling(task, source), jax_peak()
    from jaxgen.experiment import optimizer_config

    optimizer: Any = optimizer_config(config, 10**6)
    if job == "dcgan":
        built = {name: one.build() for name, one in task.optimizers(optimizer).items()}
        optimizer = task.players(built)
    else:
        optimizer = optimizer.build()
    # As `fit` chooses: convolutions run one step a call on CPUs, other nets as many as between reports.
    steps_per_call = 100 if job == "vae" else 1
    work = jaxgen_training(
        task, source, BATCH_SIZES[job], steps_per_call, optimizer, ema_decay=config.ema_decay
    )
    return work, jax_peak()


def _task(job: str, source: Any) -> tuple[Any, Any]:
    import importlib

    names = {"dcgan": "mnist_gan", "vae": "mnist_vae"}
    experiment = importlib.import_module(f"experiments.{names.get(job, 'mnist_diffusion')}").EXPERIMENT
    config = experiment.options(**({"conditional": True} if job == "dcgan" else {}))
    return experiment.task(config, source), config


def _jaxgen_sampling(task: Any, source: Any) -> Work:
    import jax
    import jax.numpy as jnp

    params, model_state = task.init(jax.random.key(0), source.gather(np.arange(1)))
    labels = jnp.arange(BATCH_SIZES["sampling"]) % 10

    @jax.jit
    def make(params: Any, rng: Any) -> Any:
        latents = jax.random.normal(rng, (len(labels), *task.latent_shape))
        return task.generate(
            params, model_state, rng, latents, labels, guidance=GUIDANCE, steps=SAMPLING_STEPS
        )

    def work(steps: int) -> None:
        for step in range(steps):
            jax.block_until_ready(make(params, jax.random.key(step)))

    return work


def pytorch(job: str, data: dict[str, np.ndarray], *options: str) -> tuple[Work, float]:
    """The usual loop without a DataLoader: slices of tensors that lie in memory."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    images = torch.from_numpy(data["image"][:_SHUFFLED]).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(data["label"][:_SHUFFLED]).long()
    if job != "vae":
        images = 2 * images - 1
    if "channels_last" in options:
        images = images.contiguous(memory_format=torch.channels_last)
    step = _TORCH[job](options)

    def work(steps: int) -> None:
        for rows in slices(len(labels), BATCH_SIZES[job], steps):
            step(images[rows], labels[rows])

    return work, torch_peak()


def _torch_dcgan(options: tuple[str, ...]) -> Any:
    from benchmarks.generative_torch import Adversaries

    return Adversaries(options).step


def _torch_vae(options: tuple[str, ...]) -> Any:
    from benchmarks.generative_torch import GatedVAE

    def loss(module: Any, forward: Any, images: Any, labels: Any) -> Any:
        return forward(images.flatten(1))

    return _trained(GatedVAE, loss, options)


def _torch_unet(options: tuple[str, ...]) -> Any:
    from benchmarks.generative_torch import UNet

    return _trained(UNet, UNet.loss, options)


def _trained(kind: Any, loss: Any, options: tuple[str, ...]) -> Any:
    """Makes the step of a module with Adam and a moving average."""
    import torch

    from benchmarks.generative_torch import update_average

    module, average = kind(), kind()
    average.load_state_dict(module.state_dict())
    forward = _forward(module, options)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)

    def step(images: Any, labels: Any) -> None:
        optimizer.zero_grad()
        loss(module, forward, images, labels).backward()
        optimizer.step()
        update_average(average, module)

    return step


def _torch_sampling(options: tuple[str, ...]) -> Any:
    from benchmarks.generative_torch import UNet, denoise

    forward = _forward(UNet().eval(), options)
    return lambda images, labels: denoise(forward, labels, SAMPLING_STEPS, GUIDANCE)


def _forward(module: Any, options: tuple[str, ...]) -> Any:
    import torch

    if "channels_last" in options:
        module.to(memory_format=torch.channels_last)
    return torch.compile(module) if "compiled" in options else module


_TORCH = {"dcgan": _torch_dcgan, "vae": _torch_vae, "unet": _torch_unet, "sampling": _torch_sampling}


def main(contender: str, job: str, path: str) -> None:
    """Serves one contender."""
    name, *options = contender.split("-")
    with np.load(path) as stored:
        data = dict(stored)
    make = {"jaxgen": jaxgen, "pytorch": pytorch}[name]
    warm_up = {"vae": 100, "sampling": 1}.get(job, 10)
    serve(lambda: make(job, data, *options), warm_up=warm_up)


if __name__ == "__main__":
    main(*sys.argv[1:])
