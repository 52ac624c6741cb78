"""Recurrent cells: Elman, GRU and LSTM, and their layer-normalised forms.

A cell is a pure function of (params, carry, inputs), all element by element: what a step takes from its inputs and what
it takes from the hidden state are matrix products, which `jaxgen.models.recurrent` makes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Carry = dict[str, Array]
Params = Mapping[str, Any]


@runtime_checkable
class Cell(Protocol):
    """What happens in a step, element by element."""

    @property
    def gates(self) -> int:
        """How many times the hidden size the products are wide."""
        ...

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the carry's parts, `hidden` first."""
        ...

    def init_bias(self, hidden_size: int) -> Float[Array, " gates_width"]:
        """Gives the bias of the inputs' product to begin with."""
        ...

    def init_own(self, hidden_size: int) -> dict[str, Array]:
        """Gives the cell's own parameters to begin with, by name."""
        ...

    def __call__(self, params: Params, carry: Carry, from_inputs: Array, from_hidden: Array) -> Carry:
        """Gives the next carry.

        Args:
            params: the cell's own parameters.
            carry: by state, float32 [batch, hidden].
            from_inputs: inputs times their kernel, plus bias, [batch, gates * hidden].
            from_hidden: hidden state times the recurrent kernel, [batch, gates * hidden].
        """
        ...


@dataclass(frozen=True)
class Elman:
    """h' = f(x W + h U + b), f the hyperbolic tangent or ReLU (Elman 1990)."""

    activation: str = "tanh"
    gates: int = 1
    states: tuple[str, ...] = ("hidden",)

    def init_bias(self, hidden_size: int) -> Float[Array, " gates_width"]:
        """Zeros."""
        return jnp.zeros(hidden_size)

    def init_own(self, hidden_size: int) -> dict[str, Array]:
        """None."""
        return {}

    def __call__(self, params: Params, carry: Carry, from_inputs: Array, from_hidden: Array) -> Carry:
        """Gives the next hidden state."""
        activate = jnp.tanh if self.activation == "tanh" else jax.nn.relu
        return {"hidden": activate(from_inputs + from_hidden)}


@dataclass(frozen=True)
class LSTM:
    """Input, forget and output gates around a cell state (Hochreiter & Schmidhuber 1997, Gers et al. 2000).

    c' = sigmoid(f) c + sigmoid(i) tanh(g) and h' = sigmoid(o) tanh(c'), where (i, f, g, o) = x W + h U + b.
    """

    forget_bias: float = 1.0
    chrono_span: float | None = None
    gates: int = 4
    states: tuple[str, ...] = ("hidden", "cell")

    def init_bias(self, hidden_size: int) -> Float[Array, " gates_width"]:
        """Zeros, but for the forget gate's (Jozefowicz et al. 2015), or those of `chrono_biases`."""
        forget, write = jnp.full(hidden_size, self.forget_bias), jnp.zeros(hidden_size)
        if self.chrono_span is not None:
            forget = chrono_biases(self.chrono_span, hidden_size)
            write = -forget
        return jnp.concatenate([write, forget, jnp.zeros(2 * hidden_size)])

    def init_own(self, hidden_size: int) -> dict[str, Array]:
        """None."""
        return {}

    def __call__(self, params: Params, carry: Carry, from_inputs: Array, from_hidden: Array) -> Carry:
        """Gives the next hidden and cell state."""
        write, forget, candidate, read = jnp.split(from_inputs + from_hidden, 4, axis=-1)
        cell = jax.nn.sigmoid(forget) * carry["cell"] + jax.nn.sigmoid(write) * jnp.tanh(candidate)
        return {"hidden": jax.nn.sigmoid(read) * jnp.tanh(cell), "cell": cell}


@dataclass(frozen=True)
class GRU:
    """Reset and update gates (Cho et al. 2014), the reset after the product, as in cuDNN and PyTorch.

    n = tanh(x W_n + b_n + sigmoid(r) (h U_n + d)) and h' = (1 - sigmoid(z)) n + sigmoid(z) h, where r and z are
    x W + h U + b; d is the recurrent bias.
    """

    chrono_span: float | None = None
    gates: int = 3
    states: tuple[str, ...] = ("hidden",)

    def init_bias(self, hidden_size: int) -> Float[Array, " gates_width"]:
        """Zeros, but for the update gate's where it is one of `chrono_biases`."""
        bias = jnp.zeros(3 * hidden_size)
        if self.chrono_span is None:
            return bias
        return bias.at[hidden_size : 2 * hidden_size].set(chrono_biases(self.chrono_span, hidden_size))

    def init_own(self, hidden_size: int) -> dict[str, Array]:
        """The recurrent bias, zeros."""
        return {"recurrent_bias": jnp.zeros(hidden_size)}

    def __call__(self, params: Params, carry: Carry, from_inputs: Array, from_hidden: Array) -> Carry:
        """Gives the next hidden state."""
        reset_in, update_in, new_in = jnp.split(from_inputs, 3, axis=-1)
        reset_hidden, update_hidden, new_hidden = jnp.split(from_hidden, 3, axis=-1)
        reset = jax.nn.sigmoid(reset_in + reset_hidden)
        update = jax.nn.sigmoid(update_in + update_hidden)
        new = jnp.tanh(new_in + reset * (new_hidden + params["recurrent_bias"]))
        return {"hidden": (1 - update) * new + update * carry["hidden"]}


def chrono_biases(span: float, hidden_size: int) -> Float[Array, " hidden_size"]:
    """Gives biases with which gates keep their units for 1 to `span` steps (Tallec & Ollivier 2018, section 3).

    Where the paper draws from log(uniform(1, span - 1)), these are evenly spaced quantiles of that distribution.
    """
    quantiles = (jnp.arange(hidden_size) + 0.5) / hidden_size
    return jnp.log(1 + quantiles * (span - 2))


CELLS: dict[str, Callable[..., Cell]] = {"elman": Elman, "gru": GRU, "lstm": LSTM}


@dataclass(frozen=True)
class Normalised:
    """A cell whose two products are layer-normalised each, before the cell adds them (Ba et al. 2016, equation 20)."""

    cell: Cell

    @property
    def gates(self) -> int:
        """Those of the cell."""
        return self.cell.gates

    @property
    def states(self) -> tuple[str, ...]:
        """Those of the cell."""
        return self.cell.states

    def init_bias(self, hidden_size: int) -> Float[Array, " gates_width"]:
        """That of the cell, which is added after the normalisation."""
        return self.cell.init_bias(hidden_size)

    def init_own(self, hidden_size: int) -> dict[str, Array]:
        """The cell's, and scales of one."""
        scales = {name: jnp.ones(self.gates * hidden_size) for name in ("input_scale", "recurrent_scale")}
        return {**self.cell.init_own(hidden_size), **scales}

    def __call__(self, params: Params, carry: Carry, from_inputs: Array, from_hidden: Array) -> Carry:
        """Gives the cell's next carry."""
        from_inputs = _normalise(from_inputs) * params["input_scale"] + params["bias"]
        return self.cell(params, carry, from_inputs, _normalise(from_hidden) * params["recurrent_scale"])


def _normalise(values: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
    centred = values - values.mean(axis=-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
