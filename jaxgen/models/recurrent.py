"""Recurrent networks: layers that carry the state of their cells over time.

What a step takes from its inputs and what it takes from the hidden state are matrix products; the cell itself is what
happens after these, element by element. So the products with the inputs, and all gradients of kernels, are computed
for all steps at once, outside of the loop: see `recur`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Integer

from jaxgen.errors import UsageError, unknown
from jaxgen.metrics import AnyArray
from jaxgen.models.cells import CELLS, Carry, Cell, Normalised, Params
from jaxgen.models.layers import check_dropout, check_sizes, dtype_name, kernel_init


def recur_plainly(
    cell: Cell,
    params: Params,
    carry: Carry,
    inputs: Float[Array, "time batch features"],
    valid: Float[Array, "time batch"],
    kept: Float[Array, "batch hidden"],
) -> tuple[Float[Array, "time batch hidden"], Carry]:
    """Carries a cell over time, step by step, as one would write it down.

    Args:
        cell: what happens in a step.
        params: `input_kernel` [features, gates * hidden], `recurrent_kernel` [hidden, gates * hidden], `bias`, and
            `own`, the cell's.
        carry: the state to begin with, by name float32 [batch, hidden].
        inputs: time first.
        valid: 1, and 0 where there is padding: there the carry stays what it was.
        kept: what the hidden state is multiplied by before the recurrent product, the same at all steps: ones, or a
            mask of variational dropout (Gal & Ghahramani 2016).

    Returns:
        The hidden state after each step, and the last carry.
    """

    def step(carry: Carry, now: tuple[Array, Array]) -> tuple[Carry, Array]:
        inputs, valid = now
        from_inputs, from_hidden = _from_inputs(params, inputs), _from_hidden(params, carry["hidden"] * kept)
        carry = _where_valid(valid, cell(params["own"], carry, from_inputs, from_hidden), carry)
        return carry, carry["hidden"]

    carry, hidden = lax.scan(step, carry, (inputs, valid))
    return hidden, carry


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def recur(
    cell: Cell,
    params: Params,
    carry: Carry,
    inputs: Float[Array, "time batch features"],
    valid: Float[Array, "time batch"],
    kept: Float[Array, "batch hidden"],
) -> tuple[Float[Array, "time batch hidden"], Carry]:
    """Does what `recur_plainly` does, with fewer and larger matrix products, and less memory for the gradient.

    Forwards, the inputs' product is one for all steps. Backwards, both products are made again, each as one, for the
    states before all steps are known by then; so the states are all that is kept. The loop goes back through the cells
    and the recurrent product alone, and the gradients of the kernels are one product each. There is no gradient of
    `valid` and `kept`.
    """
    return _recur_forwards(cell, params, carry, inputs, valid, kept)[0]


def _recur_forwards(
    cell: Cell, params: Params, carry: Carry, inputs: Array, valid: Array, kept: Array
) -> tuple[tuple[Array, Carry], tuple]:
    def step(carry: Carry, now: tuple[Array, Array]) -> tuple[Carry, Carry]:
        from_inputs, valid = now
        from_hidden = _from_hidden(params, carry["hidden"] * kept)
        carry = _where_valid(valid, cell(params["own"], carry, from_inputs, from_hidden), carry)
        return carry, carry

    last, states = lax.scan(step, carry, (_from_inputs(params, inputs), valid))
    return (states["hidden"], last), (params, carry, inputs, valid, kept, states)


def _recur_backwards(cell: Cell, residuals: tuple, gradients: tuple[Array, Carry]) -> tuple:
    params, carry, inputs, valid, kept, states = residuals
    of_hidden, of_last = gradients
    before = {name: jnp.concatenate([carry[name][None], states[name][:-1]]) for name in carry}
    multiplied = before["hidden"] * kept

    def step(loop: tuple[Carry, Any], now: tuple) -> tuple[tuple[Carry, Any], tuple[Array, Array]]:
        (of_carry, of_own), (before, from_inputs, from_hidden, valid, of_hidden) = loop, now
        of_carry = {**of_carry, "hidden": of_carry["hidden"] + of_hidden}
        _, pull = jax.vjp(cell, params["own"], before, from_inputs, from_hidden)
        valid = valid[:, None]
        of_own_now, of_before, of_inputs, of_product = pull({n: valid * g for n, g in of_carry.items()})
        of_before["hidden"] += kept * _transposed_product(of_product, params["recurrent_kernel"])
        of_carry = {name: of_before[name] + (1 - valid) * of_carry[name] for name in of_carry}
        return (of_carry, jax.tree.map(jnp.add, of_own, of_own_now)), (of_inputs, of_product)

    start = (of_last, jax.tree.map(jnp.zeros_like, params["own"]))
    told = (before, _from_inputs(params, inputs), _from_hidden(params, multiplied), valid, of_hidden)
    (of_carry, of_own), (of_inputs, of_products) = lax.scan(step, start, told, reverse=True)
    of_params = {
        "input_kernel": _sum_of_products(inputs, of_inputs, params["input_kernel"]),
        "recurrent_kernel": _sum_of_products(multiplied, of_products, params["recurrent_kernel"]),
        "bias": of_inputs.sum(axis=(0, 1)).astype(params["bias"].dtype),
        "own": of_own,
    }
    of_inputs = _transposed_product(of_inputs, params["input_kernel"]).astype(inputs.dtype)
    return of_params, of_carry, of_inputs, jnp.zeros_like(valid), jnp.zeros_like(kept)


recur.defvjp(_recur_forwards, _recur_backwards)


def _from_inputs(params: Params, inputs: Float[Array, "*batch features"]) -> Float[Array, "*batch width"]:
    kernel = params["input_kernel"]
    return (inputs.astype(kernel.dtype) @ kernel).astype(jnp.float32) + params["bias"]


def _from_hidden(params: Params, hidden: Float[Array, "*batch hidden"]) -> Float[Array, "*batch width"]:
    kernel = params["recurrent_kernel"]
    return (hidden.astype(kernel.dtype) @ kernel).astype(jnp.float32)


def _transposed_product(gradient: Array, kernel: Array) -> Array:
    return (gradient.astype(kernel.dtype) @ kernel.T).astype(jnp.float32)


def _sum_of_products(inputs: Array, gradients: Array, kernel: Array) -> Array:
    inputs, gradients = (a.astype(kernel.dtype).reshape(-1, a.shape[-1]) for a in (inputs, gradients))
    return inputs.T @ gradients


def _where_valid(valid: Float[Array, " batch"], new: Carry, old: Carry) -> Carry:
    return {name: jnp.where(valid[:, None] != 0, new[name], old[name]) for name in new}


class Recurrent(nn.Module):
    """Layers of recurrent cells, one on top of the other.

    Attributes:
        hidden_size: of each layer, in each direction.
        cell: `elman`, `gru` or `lstm`.
        num_layers: how many.
        bidirectional: whether each layer reads the sequence backwards, too; the two hidden states are concatenated.
        dropout: part of each layer's outputs that is dropped in training before the next layer reads them (rng
            `dropout`).
        recurrent_dropout: part of the hidden state that is dropped before the recurrent product, the same units at all
            steps of a call (Gal & Ghahramani 2016).
        activation: of Elman cells, `tanh` or `relu`.
        forget_bias: of LSTM cells, to begin with.
        chrono_span: steps over which GRU and LSTM cells are to remember to begin with, 2 at least; of LSTM cells it
            takes the place of `forget_bias`. See `jaxgen.models.cells.chrono_biases`.
        layer_norm: whether the products are normalised before the cell (Ba et al. 2016).
        dtype: to compute products in, by name or as a dtype; None is float32. The carry is float32.

    Raises:
        UsageError: when it is made, for unknown names, or sizes and rates out of range.
    """

    hidden_size: int
    cell: str = "lstm"
    num_layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    activation: str = "tanh"
    forget_bias: float = 1.0
    layer_norm: bool = False
    dtype: Any = None
    chrono_span: float | None = None

    def __post_init__(self) -> None:
        """Refuses impossible values before anything is computed."""
        check_sizes(hidden_size=(self.hidden_size,), num_layers=(self.num_layers,))
        check_dropout(self.dropout)
        if not 0 <= self.recurrent_dropout < 1:
            raise UsageError(
                f"recurrent_dropout is {self.recurrent_dropout}; it must be at least 0 and below 1"
            )
        if self.cell not in CELLS:
            raise unknown("cell", self.cell, CELLS)
        if self.activation not in ("tanh", "relu"):
            raise unknown("activation", self.activation, ("tanh", "relu"))
        if self.chrono_span is not None and self.chrono_span < 2:
            raise UsageError(f"chrono_span is {self.chrono_span}; it must be 2 steps at least")
        self.dtype = dtype_name(self.dtype)
        super().__post_init__()

    def initial_carry(self, batch_size: int) -> tuple[Carry, ...]:
        """Gives zeros, by layer (and direction, forwards first) and state: float32 [batch, hidden]."""
        zeros = {name: jnp.zeros((batch_size, self.hidden_size)) for name in self._cell().states}
        return (zeros,) * (self.num_layers * self._directions)

    @nn.compact
    def __call__(
        self,
        inputs: Float[AnyArray, "batch time features"],
        carry: tuple[Mapping[str, AnyArray], ...] | None = None,
        *,
        lengths: Integer[AnyArray, " batch"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "batch time outputs"], tuple[Carry, ...]]:
        """Gives the last layer's hidden state at each step, zero on padding, and the carry.

        Args:
            inputs: sequences, of one length or padded at their end.
            carry: the state to begin with, such as the last call gave; zeros by default.
            lengths: the steps that aren't padding, of each sequence; the carry is that after the last of these.
            train: whether dropout drops.
        """
        batch, time, _ = inputs.shape
        carry = self.initial_carry(batch) if carry is None else jax.tree.map(jnp.asarray, carry)
        valid = jnp.ones((time, batch))
        if lengths is not None:
            valid = (jnp.arange(time)[:, None] < lengths).astype(jnp.float32)
        hidden, carries = jnp.swapaxes(jnp.asarray(inputs), 0, 1), []
        for layer in range(self.num_layers):
            if layer:
                hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
            outputs = []
            for direction in range(self._directions):
                way = slice(None, None, -1 if direction else 1)
                name = f"layer_{layer}" + ("_backwards" if direction else "")
                module = _Layer(self._cell(), self.hidden_size, self.recurrent_dropout, self.dtype, name=name)
                begin = carry[layer * self._directions + direction]
                states, last = module(begin, hidden[way], valid[way], train)
                outputs.append(states[way])
                carries.append(last)
            hidden = jnp.concatenate(outputs, axis=-1)
        hidden = jnp.swapaxes(hidden * valid[:, :, None], 0, 1)
        return hidden.astype(self.dtype or jnp.float32), tuple(carries)

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _cell(self) -> Cell:
        options: dict[str, dict[str, Any]] = {
            "elman": {"activation": self.activation},
            "gru": {"chrono_span": self.chrono_span},
            "lstm": {"forget_bias": self.forget_bias, "chrono_span": self.chrono_span},
        }
        cell: Cell = CELLS[self.cell](**options.get(self.cell, {}))
        return Normalised(cell) if self.layer_norm else cell


class _Layer(nn.Module):
    """One layer in one direction; time first."""

    cell: Cell
    hidden_size: int
    recurrent_dropout: float
    dtype: Any

    @nn.compact
    def __call__(
        self,
        carry: Carry,
        inputs: Float[Array, "time batch features"],
        valid: Float[Array, "time batch"],
        train: bool,
    ) -> tuple[Float[Array, "time batch hidden"], Carry]:
        size, width, dtype = self.hidden_size, self.cell.gates * self.hidden_size, self.dtype or jnp.float32
        input_kernel = self.param("input_kernel", kernel_init, (inputs.shape[-1], width), jnp.float32)
        recurrent_kernel = self.param("recurrent_kernel", _orthogonal_gates, (size, width), jnp.float32)
        bias = self.param("bias", lambda rng: self.cell.init_bias(size))
        own = {
            name: self.param(name, lambda rng, value=value: value)
            for name, value in self.cell.init_own(size).items()
        }
        if isinstance(self.cell, Normalised):  # which adds the bias itself
            own["bias"], bias = bias, jnp.zeros(width)
        kept = nn.Dropout(self.recurrent_dropout, deterministic=not train)(jnp.ones((inputs.shape[1], size)))
        params = {
            "input_kernel": input_kernel.astype(dtype),
            "recurrent_kernel": recurrent_kernel.astype(dtype),
            "bias": bias,
            "own": own,
        }
        return recur(self.cell, params, carry, inputs, valid, kept)


def _orthogonal_gates(rng: Array, shape: tuple[int, int], dtype: Any) -> Array:
    """Makes each gate's recurrent kernel orthogonal by itself (Saxe et al. 2014)."""
    size, width = shape
    keys = jax.random.split(rng, width // size)
    return jnp.concatenate([nn.initializers.orthogonal()(key, (size, size), dtype) for key in keys], axis=-1)
