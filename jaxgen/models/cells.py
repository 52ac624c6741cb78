"""Recurrent cells: Elman, GRU and LSTM, and their layer-normalised forms.

A cell is a pure function of (params, carry, inputs), all element by element: what a step takes from its inputs and what
it takes from the hidden state are matrix products, which `jaxgen.models.recurrent` makes. Its derivative, too, it gives
itself, from what it kept on the way.

The gates of a step are activated together, as one array: on CPUs what is cut out of the loop's inputs and then put
through an activation is not vectorised, and takes five times as long.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

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

    def __call__(
        self, params: Params, carry: Carry, from_inputs: Array, from_hidden: Array
    ) -> tuple[Carry, Any]:
        """Gives the next carry, and what to keep for `backwards`.

        Args:
            params: the cell's own parameters.
            carry: by state, float32 [batch, hidden].
            from_inputs: inputs times their kernel, plus bias, [batch, gates * hidden].
            from_hidden: hidden state times the recurrent kernel, [batch, gates * hidden].
        """
        ...

    def backwards(
        self, params: Params, before: Carry, after: Carry, kept: Any, of_carry: Carry
    ) -> tuple[dict[str, Array], Carry, Array, Array]:
        """Gives the gradients of params, of the carry before, of `from_inputs` and of `from_hidden`.

        Those of params are by row, [batch, ...]: what is added up over the batch at each step, devices would wait for.

        Args:
            params: the cell's own parameters.
            before: the carry that the step began with.
            after: the carry that it ended with.
            kept: on the way.
            of_carry: the gradient of the carry after the step.
        """
        ...


@dataclass(frozen=True)
class Elman:
    """h' = f(x W + h U + b), f the hyperbolic tangent or ReLU (Elman 1990)."""

    activation: str = "tanh"
    gates: ClassVar[int] = 1
    states: ClassVar[tuple[str, ...]] = ("hidden",)

    def init_bias(self, hidden_size: int) -> Float[Array, " gates_width"]:
        """Zeros."""
        return jnp.zeros(hidden_size)

    def init_own(self, hidden_size: int) -> dict[str, Array]:
        """None."""
        return {}

    def __call__(
        self, params: Params, carry: Carry, from_inputs: Array, from_hidden: Array
    ) -> tuple[Carry, Any]:
        """Gives the next hidden state, and keeps nothing."""
        activate = jnp.tanh if self.activation == "tanh" else jax.nn.relu
        return {"hidden": activate(from_inputs + from_hidden)}, ()

    def backwards(
        self, params: Params, before: Carry, after: Carry, kept: Any, of_carry: Carry
    ) -> tuple[dict[str, Array], Carry, Array, Array]:
        """Takes the activation's derivative from its value."""
        hidden = after["hidden"]
        slope = 1 - hidden**2 if self.activation == "tanh" else hidden > 0
        of_product = of_carry["hidden"] * slope
        return {}, {"hidden": jnp.zeros_like(hidden)}, of_product, of_product


@dataclass(frozen=True)
class LSTM:
    """Input, forget and output gates around a cell state (Hochreiter & Schmidhuber 1997, Gers et al. 2000).

    c' = sigmoid(f) c + sigmoid(i) tanh(g) and h' = sigmoid(o) tanh(c'), where (i, f, g, o) = x W + h U + b.
    """

    forget_bias: float = 1.0
    chrono_span: float | None = None
    gates: ClassVar[int] = 4
    states: ClassVar[tuple[str, ...]] = ("hidden", "cell")

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

    def __call__(
        self, params: Params, carry: Carry, from_inputs: Array, from_hidden: Array
    ) -> tuple[Carry, Any]:
        """Gives the next hidden and cell state, and keeps the gates."""
        width = from_inputs.shape[-1] // 4
        is_tanh = np.repeat([False, False, True, False], width)
        gates = _sigmoid_or(is_tanh, from_inputs + from_hidden)
        write, forget, candidate, read = jnp.split(gates, 4, axis=-1)
        cell = forget * carry["cell"] + write * candidate
        return {"hidden": read * jnp.tanh(cell), "cell": cell}, (write, forget, candidate, read)

    def backwards(
        self, params: Params, before: Carry, after: Carry, kept: Any, of_carry: Carry
    ) -> tuple[dict[str, Array], Carry, Array, Array]:
        """Takes the activations' derivatives from their values."""
        write, forget, candidate, read = kept
        squashed = jnp.tanh(after["cell"])
        of_cell = of_carry["cell"] + of_carry["hidden"] * read * (1 - squashed**2)
        of_products = (
            of_cell * candidate * write * (1 - write),
            of_cell * before["cell"] * forget * (1 - forget),
            of_cell * write * (1 - candidate**2),
            of_carry["hidden"] * squashed * read * (1 - read),
        )
        of_product = jnp.concatenate(of_products, axis=-1)
        of_before = {"hidden": jnp.zeros_like(of_cell), "cell": of_cell * forget}
        return {}, of_before, of_product, of_product


@dataclass(frozen=True)
class GRU:
    """Reset and update gates (Cho et al. 2014), the reset after the product, as in cuDNN and PyTorch.

    n = tanh(x W_n + b_n + sigmoid(r) (h U_n + d)) and h' = (1 - sigmoid(z)) n + sigmoid(z) h, where r and z are
    x W + h U + b; d is the recurrent bias.
    """

    chrono_span: float | None = None
    gates: ClassVar[int] = 3
    states: ClassVar[tuple[str, ...]] = ("hidden",)

    def init_bias(self, hidden_size: int) -> Float[Array, " gates_width"]:
        """Zeros, but for the update gate's where it is one of `chrono_biases`."""
        bias = jnp.zeros(3 * hidden_size)
        if self.chrono_span is None:
            return bias
        return bias.at[hidden_size : 2 * hidden_size].set(chrono_biases(self.chrono_span, hidden_size))

    def init_own(self, hidden_size: int) -> dict[str, Array]:
        """The recurrent bias, zeros."""
        return {"recurrent_bias": jnp.zeros(hidden_size)}

    def __call__(
        self, params: Params, carry: Carry, from_inputs: Array, from_hidden: Array
    ) -> tuple[Carry, Any]:
        """Gives the next hidden state, and keeps the gates, the candidate and the part of it that is reset."""
        width = from_inputs.shape[-1] // 3
        is_candidate = np.repeat([False, False, True], width)
        activated = jnp.where(is_candidate, from_inputs, jax.nn.sigmoid(from_inputs + from_hidden))
        reset, update, candidate_in = jnp.split(activated, 3, axis=-1)
        recalled = from_hidden[..., 2 * width :] + params["recurrent_bias"]
        candidate = jnp.tanh(candidate_in + reset * recalled)
        hidden = (1 - update) * candidate + update * carry["hidden"]
        return {"hidden": hidden}, (reset, update, candidate, recalled)

    def backwards(
        self, params: Params, before: Carry, after: Carry, kept: Any, of_carry: Carry
    ) -> tuple[dict[str, Array], Carry, Array, Array]:
        """Takes the activations' derivatives from their values."""
        reset, update, candidate, recalled = kept
        of_hidden = of_carry["hidden"]
        of_candidate = of_hidden * (1 - update) * (1 - candidate**2)
        of_reset = of_candidate * recalled * reset * (1 - reset)
        of_update = of_hidden * (before["hidden"] - candidate) * update * (1 - update)
        of_recalled = of_candidate * reset
        return (
            {"recurrent_bias": of_recalled},
            {"hidden": of_hidden * update},
            jnp.concatenate([of_reset, of_update, of_candidate], axis=-1),
            jnp.concatenate([of_reset, of_update, of_recalled], axis=-1),
        )


def _sigmoid_or(
    is_tanh: Bool[np.ndarray, " width"], products: Float[Array, "*batch width"]
) -> Float[Array, "*batch width"]:
    """Gives the hyperbolic tangent of some columns and the sigmoid of the others, (tanh(x / 2) + 1) / 2."""
    scale = np.where(is_tanh, 1, 0.5).astype(np.float32)
    return jnp.tanh(products * scale) * scale + np.where(is_tanh, 0, 0.5).astype(np.float32)


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

    def __call__(
        self, params: Params, carry: Carry, from_inputs: Array, from_hidden: Array
    ) -> tuple[Carry, Any]:
        """Gives the cell's next carry, and keeps the products."""
        normalised = _normalise(from_inputs) * params["input_scale"] + params["bias"]
        carry, _ = self.cell(params, carry, normalised, _normalise(from_hidden) * params["recurrent_scale"])
        return carry, (from_inputs, from_hidden)

    def backwards(
        self, params: Params, before: Carry, after: Carry, kept: Any, of_carry: Carry
    ) -> tuple[dict[str, Array], Carry, Array, Array]:
        """Leaves the derivative to JAX, row by row."""

        def of_row(before: Carry, kept: Any, of_carry: Carry) -> Any:
            _, pull = jax.vjp(lambda *given: self(*given)[0], params, before, *kept)
            return pull(of_carry)

        return jax.vmap(of_row)(before, kept, of_carry)


def _normalise(values: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
    centred = values - values.mean(axis=-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
