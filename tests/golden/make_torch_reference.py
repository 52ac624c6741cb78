"""Writes what PyTorch computes for small nets: logits, losses, gradients, parameters after three updates.

Run it with PyTorch and NumPy installed; it writes the `torch_*.npz` beside it. Everything is in jaxgen's
layout: images [batch, height, width, channels], kernels [..., in, out], parameters by their path in the model.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

STEPS = 3
# Beside each name, what jaxgen's `OptimizerConfig` is given: learning rate and weight decay.
OPTIMIZERS = {"sgd": (0.1, 0.0), "momentum": (0.05, 0.0), "adam": (1e-3, 0.0), "adamw": (1e-3, 0.1)}


class FeedForward(nn.Module):
    """Dense layers, named as jaxgen's; `grid` is the (channels, height, width) of the inputs."""

    def __init__(self, grid, widths, num_classes, batch_norm=False):
        super().__init__()
        inputs = math.prod(grid)
        for layer, width in enumerate(widths):
            self.add_module(f"hidden_{layer}", nn.Linear(inputs, width))
            if batch_norm:
                self.add_module(f"norm_{layer}", nn.BatchNorm1d(width))
            inputs = width
        self.add_module("output", nn.Linear(inputs, num_classes))
        self.grid, self.depth, self.batch_norm = grid, len(widths), batch_norm

    def forward(self, inputs):
        hidden = inputs.flatten(1)
        for layer in range(self.depth):
            hidden = getattr(self, f"hidden_{layer}")(hidden)
            if self.batch_norm:
                hidden = getattr(self, f"norm_{layer}")(hidden)
            hidden = functional.relu(hidden)
        return self.output(hidden)


class ConvNet(nn.Module):
    """Convolution, ReLU and pooling, stage by stage, and a `FeedForward` on top."""

    def __init__(self, grid, channels, widths, num_classes, kernel_size=3, pooling="max"):
        super().__init__()
        inputs, height, width = grid
        for stage, features in enumerate(channels):
            self.add_module(f"conv_{stage}", nn.Conv2d(inputs, features, kernel_size))
            height, width = (height - kernel_size + 1) // 2, (width - kernel_size + 1) // 2
            inputs = features
        self.pool = functional.max_pool2d if pooling == "max" else functional.avg_pool2d
        self.depth = len(channels)
        self.head = FeedForward((inputs, height, width), widths, num_classes)

    def forward(self, inputs):
        for stage in range(self.depth):
            inputs = self.pool(functional.relu(getattr(self, f"conv_{stage}")(inputs)), 2)
        return self.head(inputs)


def reference(model, grid, num_classes, batch_size=8, seed=0):
    """Computes everything that is compared, as a flat dict of arrays in jaxgen's layout."""
    generator = torch.Generator().manual_seed(seed)
    start = {
        # Biases and scales are random as well: differences must show.
        name: 0.3 * torch.randn(parameter.shape, generator=generator)
        for name, parameter in model.named_parameters()
    }
    inputs = torch.randn(batch_size, *grid, generator=generator)
    labels = torch.randint(num_classes, (batch_size,), generator=generator)
    targets = torch.randn(batch_size, num_classes, generator=generator)
    losses = {
        "cross_entropy": lambda logits: functional.cross_entropy(logits, labels),
        "smoothed_cross_entropy": lambda logits: functional.cross_entropy(
            logits, labels, label_smoothing=0.1
        ),
        "mse": lambda logits: functional.mse_loss(logits, targets),
        "huber": lambda logits: functional.huber_loss(logits, targets, delta=0.7),
    }
    found = {
        "inputs": inputs.permute(0, 2, 3, 1),
        "labels": labels.int(),
        "targets": targets,
        **{f"params/{path}": value for path, value in jaxgen_layout(model, start).items()},
    }
    for name, loss in losses.items():
        restart(model, start)
        logits = model(inputs)
        value = loss(logits)
        value.backward()
        gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
        found |= {"logits": logits, f"losses/{name}": value}
        found |= {f"gradients/{name}/{path}": g for path, g in jaxgen_layout(model, gradients).items()}
    found |= running_averages(model, batch_size)
    for name in OPTIMIZERS:
        restart(model, start)
        optimizer = make_optimizer(name, model)
        for _ in range(STEPS):
            optimizer.zero_grad()
            losses["cross_entropy"](model(inputs)).backward()
            optimizer.step()
        after = jaxgen_layout(model, dict(model.named_parameters()))
        found |= {f"after/{name}/{path}": value for path, value in after.items()}
    return {key: np.ascontiguousarray(value.detach().numpy()) for key, value in found.items()}


def restart(model, start):
    """Sets the parameters and forgets running averages and gradients."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.reset_running_stats()
    model.load_state_dict(start, strict=False)
    model.zero_grad()


def make_optimizer(name, model):
    """Makes the optimiser; weight decay leaves out what has fewer than two axes."""
    rate, decay = OPTIMIZERS[name]
    parameters = list(model.parameters())
    if name == "momentum":
        return torch.optim.SGD(parameters, rate, momentum=0.9)
    if name == "adamw":
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, rate)
    return {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[name](parameters, rate)


def jaxgen_layout(model, tensors):
    """Renames parameters by jaxgen's paths and turns kernels round."""
    turned = {}
    head = getattr(model, "head", model)
    first = "hidden_0" if head.depth else "output"
    for name, tensor in tensors.items():
        path, kind = name.rsplit(".", 1)
        if kind == "weight":
            kind = "scale" if tensor.ndim == 1 else "kernel"
        if tensor.ndim == 4:
            tensor = tensor.permute(2, 3, 1, 0)
        elif tensor.ndim == 2:
            # PyTorch flattens [channels, height, width], jaxgen [height, width, channels].
            if path.endswith(first):
                tensor = tensor.unflatten(1, head.grid).permute(0, 2, 3, 1).flatten(1)
            tensor = tensor.T
        turned[f"{path.replace('.', '/')}/{kind}"] = tensor.detach().clone()
    return turned


def running_averages(model, batch_size):
    """Gives the running averages after one batch, with the biased variance in place of the unbiased one."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm1d):
            keep = 1 - module.momentum
            found[f"batch_stats/{name}/mean"] = module.running_mean.clone()
            biased = (module.running_var - keep) * (batch_size - 1) / batch_size
            found[f"batch_stats/{name}/var"] = keep + biased
    return found


def main():
    """Writes the files. Two channels and sides that differ, since a single channel hides mistakes in the layout."""
    classes = 5
    models = {
        "feed_forward": ((2, 5, 4), FeedForward((2, 5, 4), (6, 7), classes)),
        "feed_forward_norm": ((2, 5, 4), FeedForward((2, 5, 4), (6, 7), classes, batch_norm=True)),
        "conv_net": ((2, 11, 10), ConvNet((2, 11, 10), (8, 6), (10,), classes)),
        "conv_net_average": ((2, 11, 10), ConvNet((2, 11, 10), (8, 6), (10,), classes, pooling="average")),
    }
    for name, (grid, model) in models.items():
        np.savez_compressed(Path(__file__).with_name(f"torch_{name}.npz"), **reference(model, grid, classes))


if __name__ == "__main__":
    main()
