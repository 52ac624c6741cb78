"""Recurrent networks: layers that carry the state of their cells over time.

What a step takes from its inputs and what it takes from the hidden state are matrix products; the cell itself is what
happens after these, element by element. So the products with the inputs, and all gradients of kernels, are computed
for all steps at once, outside of the loop: see `recur`.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Integer, Shaped

from jaxgen.errors import UsageError, unknown
from jaxgen.metrics import AnyArray
from jaxgen.models.cells import CELLS, Carry, Cell, Normalised, Params
from jaxgen.models.layers import Dropout, check_dropout, check_sizes, dtype_name, kernel_init


class Masks(NamedTuple):
    """What is special about some steps or units; None where nothing is.

    Attributes:
        valid: [time, batch], 1, and 0 where there is padding: there the carry stays what it was.
        starts: [time, batch], 1 where another sequence starts, which knows nothing of what came before, else 0.
        kept: [batch, hidden], what the hidden state is multiplied by before the recurrent product, the same at all
            steps: a mask of variational dropout (Gal & Ghahramani 2016).
    """

    valid: Float[Array, "time batch"] | None = None
    starts: Float[Array, "time batch"] | None = None
    kept: Float[Array, "batch hidden"] | None = None

    def at_steps(self) -> dict[str, Array]:
        """Gives what differs from step to step, to scan over."""
        return {
            name: mask for name, mask in (("valid", self.valid), ("starts", self.starts)) if mask is not None
        }


def recur_plainly(
    cell: Cell,
    params: Params,
    carry: Carry,
    inputs: Float[Array, "time batch features"],
    masks: Masks,
) -> tuple[Float[Array, "time batch hidden"], Carry]:
    """Carries a cell over time, step by step, as one would write it down.

    Args:
        cell: what happens in a step.
        params: `input_kernel` [features, gates * hidden], `recurrent_kernel` [hidden, gates * hidden], `bias`, and
            `own`, the cell's.
        carry: the state to begin with, by name float32 [batch, hidden].
        inputs: time first.
        masks: of steps and units.

    Returns:
        The hidden state after each step, and the last carry.
    """

    def step(carry: Carry, now: tuple[Array, dict[str, Array]]) -> tuple[Carry, Array]:
        inputs, at_step = now
        before = _forget(carry, at_step)
        from_inputs = product(inputs, params["input_kernel"]) + params["bias"]
        from_hidden = product(_keep(before["hidden"], masks), params["recurrent_kernel"])
        after, _ = cell(params["own"], before, from_inputs, from_hidden)
        carry = _where_valid(after, before, at_step)
        return carry, carry["hidden"]

    carry, hidden = lax.scan(step, carry, (inputs, masks.at_steps()))
    return hidden, carry


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def recur(
    cell: Cell,
    params: Params,
    carry: Carry,
    inputs: Float[Array, "time batch features"],
    masks: Masks,
) -> tuple[Float[Array, "time batch hidden"], Carry]:
    """Does what `recur_plainly` does, with fewer and larger matrix products, and less memory for the gradient.

    Forwards, the inputs' product is one for all steps. Backwards, the loop goes through the cell's own derivative and
    the recurrent product alone, and the gradients of the kernels are one product each, over all steps. Beside the
    states a step keeps what its cell says, such as its gates. There is no gradient of `masks`.
    """
    return _recur_forwards(cell, params, carry, inputs, masks)[0]


def _recur_forwards(
    cell: Cell, params: Params, carry: Carry, inputs: Array, masks: Masks
) -> tuple[tuple[Array, Carry], tuple]:
    # For a single step, transposing takes longer than it saves.
    kernel = params["recurrent_kernel"].T if len(inputs) > 1 else params["recurrent_kernel"]
    multiply = by_columns if len(inputs) > 1 else product

    def step(carry: Carry, now: tuple[Array, dict[str, Array]]) -> tuple[Carry, tuple[Carry, Any]]:
        from_inputs, at_step = now
        before = _forget(carry, at_step)
        from_hidden = multiply(_keep(before["hidden"], masks), kernel)
        after, kept = cell(params["own"], before, from_inputs + params["bias"], from_hidden)
        carry = _where_valid(after, before, at_step)
        return carry, (carry, kept)

    last, (states, kept) = lax.scan(step, carry, (product(inputs, params["input_kernel"]), masks.at_steps()))
    return (states["hidden"], last), (params, carry, inputs, masks, states, kept)


def _recur_backwards(cell: Cell, residuals: tuple, gradients: tuple[Array, Carry]) -> tuple:
    params, carry, inputs, masks, states, kept = residuals
    of_hidden, of_last = gradients
    before = {name: jnp.concatenate([carry[name][None], states[name][:-1]]) for name in carry}
    before = _forget(before, masks.at_steps())
    transposed = params["recurrent_kernel"].T

    def step(loop: tuple[Carry, Any], now: tuple) -> tuple[tuple[Carry, Any], tuple[Array, ...]]:
        (of_carry, of_own), (before, after, kept, of_hidden, at_step) = loop, now
        of_carry = {**of_carry, "hidden": of_carry["hidden"] + of_hidden}
        nothing = jax.tree.map(jnp.zeros_like, of_carry)
        of_own_now, of_before, of_inputs, of_product = cell.backwards(
            params["own"], before, after, kept, _where_valid(of_carry, nothing, at_step)
        )
        of_before["hidden"] += _keep(product(of_product, transposed), masks)
        if "valid" in at_step:
            of_before = jax.tree.map(jnp.add, of_before, _where_valid(nothing, of_carry, at_step))
        products = (of_inputs,) if of_product is of_inputs else (of_inputs, of_product)
        return (_forget(of_before, at_step), jax.tree.map(jnp.add, of_own, of_own_now)), products

    rows = carry["hidden"].shape[:1]
    start = (of_last, jax.tree.map(lambda leaf: jnp.zeros(rows + leaf.shape, leaf.dtype), params["own"]))
    told = (before, states, kept, of_hidden, masks.at_steps())
    (of_carry, of_own), products = lax.scan(step, start, told, reverse=True)
    of_inputs, of_products = products[0], products[-1]
    of_params = {
        "input_kernel": sum_of_products(inputs, of_inputs, params["input_kernel"]),
        "recurrent_kernel": sum_of_products(
            _keep(before["hidden"], masks), of_products, params["recurrent_kernel"]
        ),
        "bias": of_inputs.sum(axis=(0, 1)).astype(params["bias"].dtype),
        "own": jax.tree.map(lambda leaf: leaf.sum(axis=0), of_own),
    }
    of_inputs = product(of_inputs, params["input_kernel"].T).astype(inputs.dtype)
    return of_params, of_carry, of_inputs, jax.tree.map(jnp.zeros_like, masks)


recur.defvjp(_recur_forwards, _recur_backwards)


def recur_in_chunks(
    cell: Cell, params: Params, carry: Carry, inputs: Float[Array, "time batch features"], masks: Masks
) -> tuple[Float[Array, "time batch hidden"], Carry]:
    """Does what `recur` does, chunk by chunk: what is kept for the gradient within a chunk is made again for it.

    Chunks and the steps of each are as many as the square root of the time, and so is the memory (Chen et al. 2016); it
    takes one more pass forwards.
    """
    length = max(1, math.isqrt(len(inputs)))
    whole = len(inputs) // length * length

    @jax.checkpoint
    def chunk(carry: Carry, now: tuple[Array, dict[str, Array]]) -> tuple[Carry, Array]:
        inputs, at_step = now
        hidden, carry = recur(cell, params, carry, inputs, masks._replace(**at_step))
        return carry, hidden

    def cut(leaf: Array) -> Array:
        return leaf[:whole].reshape(-1, length, *leaf.shape[1:])

    told = (inputs, masks.at_steps())
    carry, hidden = lax.scan(chunk, carry, jax.tree.map(cut, told))
    hidden = hidden.reshape(whole, *hidden.shape[2:])
    if whole < len(inputs):
        carry, rest = chunk(carry, jax.tree.map(lambda leaf: leaf[whole:], told))
        hidden = jnp.concatenate([hidden, rest])
    return hidden, carry


def product(
    array: Float[Array, "*batch rows"], kernel: Float[Array, "rows columns"]
) -> Float[Array, "*batch columns"]:
    """Multiplies in the kernel's dtype, and gives float32."""
    return (array.astype(kernel.dtype) @ kernel).astype(jnp.float32)


def by_columns(
    hidden: Float[Array, "batch hidden"], transposed: Float[Array, "width hidden"]
) -> Float[Array, "batch width"]:
    """Makes the recurrent product with a kernel that is transposed: wide rows, read row by row, collide in caches."""
    product = lax.dot_general(hidden.astype(transposed.dtype), transposed, (((1,), (1,)), ((), ())))
    return product.astype(jnp.float32)


def sum_of_products(inputs: Array, gradients: Array, kernel: Array) -> Array:
    """Gives the gradient of a kernel that all steps have in common, in its dtype; both arrays are time first."""
    # Over time and batch as they are: made one axis, the batch would be gathered from all devices.
    inputs, gradients = inputs.astype(kernel.dtype), gradients.astype(kernel.dtype)
    return lax.dot_general(inputs, gradients, (((0, 1), (0, 1)), ((), ())))


def _where_valid(new: Carry, old: Carry, at_step: Mapping[str, Array]) -> Carry:
    if "valid" not in at_step:
        return new
    return {name: jnp.where(at_step["valid"][:, None] != 0, new[name], old[name]) for name in new}


def _forget(carry: Carry, at_step: Mapping[str, Array]) -> Carry:
    if "starts" not in at_step:
        return carry
    return {name: jnp.where(at_step["starts"][..., None] != 0, 0, leaf) for name, leaf in carry.items()}


def _keep(hidden: Float[Array, "*steps batch hidden"], masks: Masks) -> Float[Array, "*steps batch hidden"]:
    return hidden if masks.kept is None else hidden * masks.kept


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
        remat: whether memory for the gradient is kept to the square root of the length; see `recur_in_chunks`.

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
    remat: bool = False

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
        starts: Shaped[AnyArray, "batch time"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "batch time outputs"], tuple[Carry, ...]]:
        """Gives the last layer's hidden state at each step, zero on padding, and the carry.

        Args:
            inputs: sequences, of one length or padded at their end.
            carry: the state to begin with, such as the last call gave; zeros by default.
            lengths: the steps that aren't padding, of each sequence; the carry is that after the last of these.
            starts: true (or not 0) where another sequence starts within a row, before which the carry is set to zero.
            train: whether dropout drops.
        """
        batch, time, _ = inputs.shape
        carry = self.initial_carry(batch) if carry is None else jax.tree.map(jnp.asarray, carry)
        if starts is not None and self.bidirectional:
            raise UsageError("starts within a row are for one direction: give each sequence a row of its own")
        masks = Masks(
            valid=None if lengths is None else (jnp.arange(time)[:, None] < lengths).astype(jnp.float32),
            starts=None if starts is None else jnp.asarray(starts, jnp.float32).T,
        )
        hidden, carries = jnp.swapaxes(jnp.asarray(inputs), 0, 1), []
        if masks.valid is not None:  # zero times NaN would be NaN in the kernels' gradients
            hidden = jnp.where(masks.valid[:, :, None] != 0, hidden, 0)
        for layer in range(self.num_layers):
            if layer:
                hidden = Dropout(self.dropout)(hidden, train=train)
            outputs = []
            for direction in range(self._directions):
                way = slice(None, None, -1 if direction else 1)
                name = f"layer_{layer}" + ("_backwards" if direction else "")
                module = _Layer(
                    self._cell(), self.hidden_size, self.recurrent_dropout, self.dtype, self.remat, name=name
                )
                begin = carry[layer * self._directions + direction]
                turned = jax.tree.map(lambda mask, way=way: mask[way], masks)
                states, last = module(begin, hidden[way], turned, train)
                outputs.append(states[way])
                carries.append(last)
            hidden = jnp.concatenate(outputs, axis=-1)
        if masks.valid is not None:
            hidden = hidden * masks.valid[:, :, None]
        hidden = jnp.swapaxes(hidden, 0, 1)
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
    remat: bool

    @nn.compact
    def __call__(
        self,
        carry: Carry,
        inputs: Float[Array, "time batch features"],
        masks: Masks,
        train: bool,
    ) -> tuple[Float[Array, "time batch hidden"], Carry]:
        size, width, dtype = self.hidden_size, self.cell.gates * self.hidden_size, self.dtype or jnp.float32
        input_kernel = self.param("input_kernel", kernel_init, (inputs.shape[-1], width), jnp.float32)
        recurrent_kernel = self.param("recurrent_kernel", orthogonal_gates, (size, width), jnp.float32)
        bias = self.param("bias", lambda rng: self.cell.init_bias(size))
        own = {
            name: self.param(name, lambda rng, value=value: value)
            for name, value in self.cell.init_own(size).items()
        }
        if isinstance(self.cell, Normalised):  # which adds the bias itself
            own["bias"], bias = bias, jnp.zeros(width)
        if train and self.recurrent_dropout:
            ones = jnp.ones((inputs.shape[1], size))
            masks = masks._replace(kept=Dropout(self.recurrent_dropout)(ones, train=True))
        params = {
            "input_kernel": input_kernel.astype(dtype),
            "recurrent_kernel": recurrent_kernel.astype(dtype),
            "bias": bias,
            "own": own,
        }
        go = recur_in_chunks if self.remat else recur
        return go(self.cell, params, carry, inputs, masks)


def orthogonal_gates(rng: Array, shape: tuple[int, int], dtype: Any) -> Array:
    """Makes each gate's recurrent kernel orthogonal by itself (Saxe et al. 2014)."""
    size, width = shape
    keys = jax.random.split(rng, width // size)
    return jnp.concatenate([nn.initializers.orthogonal()(key, (size, size), dtype) for key in keys], axis=-1)
