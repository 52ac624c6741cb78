"""Writes what PyTorch's recurrent layers compute: outputs, last states, and the gradients of everything.

Run it with PyTorch and NumPy installed; it writes the `torch_*.npz` of the cells beside it. Everything is in jaxgen's
layout: batch first, kernels [in, out], parameters by their path in the model.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils import rnn

CELLS = {
    "elman": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="tanh", **options),
    "elman_relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}


def reference(cell, features, hidden_size, num_layers, bidirectional, lengths, seed=0):
    """Computes everything that is compared, as a flat dict of arrays; `lengths` are those of the sequences."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    options = {"num_layers": num_layers, "bidirectional": bidirectional, "batch_first": True}
    model = CELLS[cell](features, hidden_size, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            # Larger ones would make chaos of wide layers, which blows rounding errors up.
            parameter.copy_(normal(*parameter.shape) / hidden_size**0.5)
    batch, directions = len(lengths), 2 if bidirectional else 1
    names = ("hidden", "cell") if cell == "lstm" else ("hidden",)
    inputs = normal(batch, max(lengths), features).requires_grad_()
    begin = [normal(num_layers * directions, batch, hidden_size).requires_grad_() for _ in names]
    packed = rnn.pack_padded_sequence(inputs, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    outputs, last = model(packed, tuple(begin) if cell == "lstm" else begin[0])
    outputs, _ = rnn.pad_packed_sequence(outputs, batch_first=True)
    last = last if cell == "lstm" else (last,)
    weights = [normal(*values.shape) for values in (outputs, *last)]
    sum((w * v).sum() for w, v in zip(weights, (outputs, *last), strict=True)).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    found = {"inputs": inputs, "lengths": torch.tensor(lengths), "outputs": outputs, "of_inputs": inputs.grad}
    found["weights"] = weights[0]
    for name, values, start, weight in zip(names, last, begin, weights[1:], strict=True):
        for index in range(len(values)):
            found |= {
                f"begin/{index}/{name}": start[index],
                f"last/{index}/{name}": values[index],
                f"last_weights/{index}/{name}": weight[index],
                f"of_begin/{index}/{name}": start.grad[index],
            }
    found |= {f"params/{path}": value for path, value in layout(cell, dict(model.named_parameters())).items()}
    found |= {f"of_params/{path}": value for path, value in layout(cell, gradients, True).items()}
    return {key: np.ascontiguousarray(value.detach().numpy()) for key, value in found.items()}


def layout(cell, tensors, gradients=False):
    """Renames parameters by jaxgen's paths, turns kernels round, and makes of the two biases what jaxgen has."""
    turned = {}
    for name, tensor in tensors.items():
        if not name.startswith("weight_ih"):
            continue
        place = name.removeprefix("weight_ih_")
        path = "layer_" + place[1:].replace("_reverse", "_backwards")
        of_inputs, of_hidden = (tensors[f"bias_{part}_{place}"].detach() for part in ("ih", "hh"))
        # Two biases that are added up have the same gradient, which is that of their sum.
        bias = of_inputs.clone() if gradients else of_inputs + of_hidden
        if cell == "gru":
            third = len(bias) // 3
            bias[2 * third :] = of_inputs[2 * third :]
            turned[f"{path}/recurrent_bias"] = of_hidden[2 * third :]
        turned[f"{path}/bias"] = bias
        turned[f"{path}/input_kernel"] = tensor.T
        turned[f"{path}/recurrent_kernel"] = tensors[f"weight_hh_{place}"].T
    return turned


def main():
    """Writes the files: two layers in two directions, sequences of different lengths."""
    for cell in CELLS:
        found = reference(cell, 5, 4, num_layers=2, bidirectional=True, lengths=[6, 2, 5])
        np.savez_compressed(Path(__file__).with_name(f"torch_{cell}.npz"), **found)


if __name__ == "__main__":
    main()
