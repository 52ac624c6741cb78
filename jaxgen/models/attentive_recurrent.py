"""Recurrent layers that attend to what an encoder read."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Integer

from jaxgen.models.attention import UNSEEN
from jaxgen.models.cells import CELLS, Carry, Cell
from jaxgen.models.layers import Dropout, kernel_init
from jaxgen.models.recurrent import Masks, orthogonal_gates, product, recur
from jaxgen.models.recurrent_attention import (
    Source,
    State,
    attend_and_recur,
    drop,
    score_all,
    take_step,
)

KINDS = ("additive", "dot", "none")

# What each layer has beside its cell's own parameters.
_OF_LAYERS = ("input_kernel", "recurrent_kernel", "bias")


class AttentiveRecurrent(nn.Module):
    """Layers of recurrent cells whose top one attends to a source.

    Attributes:
        features: width of what is read.
        hidden_size: of each layer.
        width: of the attentional vector.
        source_width: of the source; 0 for none.
        cell: `elman`, `gru` or `lstm`.
        num_layers: how many.
        kind: of attention, `additive`, `dot` or `none`.
        feeds: whether the attentional vector is fed to the next step.
        dropout: part of what layers above the first one read, and of the attentional vector, that is dropped in
            training (rng `dropout`).
        dtype: to compute products in; None is float32. All else is float32.
    """

    features: int
    hidden_size: int
    width: int
    source_width: int
    cell: str
    num_layers: int
    kind: str
    feeds: bool
    dropout: float
    dtype: Any = None

    def setup(self) -> None:
        """Makes the parameters."""
        size, cell = self.hidden_size, CELLS[self.cell]()

        def layer(rng: Array, reads: int) -> dict[str, Array]:
            of_inputs, of_hidden = jax.random.split(rng)
            shapes = {
                "input_kernel": (reads, cell.gates * size),
                "recurrent_kernel": (size, cell.gates * size),
            }
            return {
                "input_kernel": kernel_init(of_inputs, shapes["input_kernel"], jnp.float32),
                "recurrent_kernel": orthogonal_gates(of_hidden, shapes["recurrent_kernel"], jnp.float32),
                "bias": cell.init_bias(size),
                **cell.init_own(size),
            }

        reads = [self.features + self.width * self.feeds, *[size] * (self.num_layers - 1)]
        self.layer = [self.param(f"layer_{n}", layer, width) for n, width in enumerate(reads)]
        attends = self.kind != "none"
        shape = (size + self.source_width * attends, self.width)
        self.readout_kernel = self.param("readout_kernel", kernel_init, shape, jnp.float32)
        self.readout_bias = self.param("readout_bias", nn.initializers.zeros, (self.width,), jnp.float32)
        if attends:
            shape = (self.source_width, size)
            self.key_kernel = self.param("key_kernel", kernel_init, shape, jnp.float32)
        if self.kind == "additive":
            self.query_kernel = self.param("query_kernel", kernel_init, (size, size), jnp.float32)
            self.energy = self.param("energy", lambda rng: kernel_init(rng, (size, 1), jnp.float32)[:, 0])
        self.dropped = Dropout(self.dropout)

    def source(
        self,
        encoded: Float[Array, "batch source_time source_width"],
        lengths: Integer[Array, " batch"] | None,
    ) -> Source | None:
        """Makes of what an encoder gave what there is to attend to; None without attention."""
        if self.kind == "none":
            return None
        places = jnp.arange(encoded.shape[1])
        lengths = jnp.full(len(encoded), len(places)) if lengths is None else lengths
        return Source(
            keys=product(encoded, self._cast(self.key_kernel)),
            values=product(encoded, self._cast(self.readout_kernel[self.hidden_size :])),
            unseen=jnp.where(places < lengths[:, None], 0.0, UNSEEN),
        )

    def begin(self, layers: tuple[Carry, ...]) -> State:
        """Gives the state that a text begins with; nothing has been fed."""
        return State(layers, jnp.zeros((len(layers[0]["hidden"]), self.width)))

    def __call__(
        self,
        inputs: Float[Array, "batch time features"],
        state: State,
        source: Source | None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "batch time width"], Float[Array, "batch time source_time"] | None]:
        """Gives the attentional vector of each step, and the scores, where there is a source."""
        cell, params = CELLS[self.cell](), self._params()
        shape = inputs.shape[1], inputs.shape[0]
        sizes = {f"layer_{n}": self.hidden_size for n in range(1, self.num_layers)} | {"vector": self.width}
        kept = {}
        if train and self.dropout:
            kept = {name: self.dropped(jnp.ones((*shape, size)), train=True) for name, size in sizes.items()}
        scores: Array | None
        if self.feeds and source is not None:
            vectors, scores = attend_and_recur(cell, params, state, self._projected(inputs), kept, source)
        else:
            vectors, scores = self._unfed(cell, params, state, jnp.swapaxes(inputs, 0, 1), kept, source)
        scores = None if scores is None else jnp.swapaxes(scores, 0, 1)
        return jnp.swapaxes(vectors, 0, 1), scores

    def step(
        self, inputs: Float[Array, "batch features"], state: State, source: Source | None
    ) -> tuple[State, Float[Array, "batch source_time"] | None]:
        """Takes one step more; gives the state after it, and the scores."""
        return take_step(
            CELLS[self.cell](), self._params(), state, self._projected(inputs[:, None])[0], source
        )

    def prefill(
        self, inputs: Float[Array, "batch time features"], state: State, source: Source | None
    ) -> tuple[State, Float[Array, "batch time source_time"] | None]:
        """Gives the states after all steps, [batch, time, ...], and the scores."""
        cell, params = CELLS[self.cell](), self._params()

        def step(state: State, now: Array) -> tuple[State, Any]:
            after, scores = take_step(cell, params, state, now, source)
            return after, (after, scores)

        _, found = lax.scan(step, state, self._projected(inputs))
        states, scores = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), found)
        return states, scores

    def _unfed(
        self, cell: Cell, params: Any, state: State, inputs: Array, kept: dict, source: Source | None
    ) -> tuple[Array, Array | None]:
        """Gives vectors and scores, where the layers know nothing of them: one after the other, for all steps."""
        hidden, scores = inputs, None
        for number, (layer, carry) in enumerate(zip(params["layers"], state.layers, strict=True)):
            kernel = self._cast(self.layer[number]["input_kernel"])
            told = {**layer, "input_kernel": kernel, "bias": self.layer[number]["bias"]}
            hidden, _ = recur(cell, told, carry, drop(hidden, kept, f"layer_{number}"), Masks())
        summed = product(hidden, params["readout_kernel"]) + params["readout_bias"]
        if source is not None:
            query = product(hidden, params["query_kernel"]) if "query_kernel" in params else hidden
            scores = score_all(query, source, params.get("energy"))
            summed += jnp.einsum("tbs,bsw->tbw", jax.nn.softmax(scores), source.values)
        return drop(jnp.tanh(summed), kept, "vector"), scores

    def _projected(self, inputs: Float[Array, "batch time features"]) -> Float[Array, "time batch width"]:
        """Makes what the first layer takes from what is read, for all steps at once."""
        layer = self.layer[0]
        kernel = self._cast(layer["input_kernel"][: self.features])
        return product(jnp.swapaxes(inputs, 0, 1), kernel) + layer["bias"]

    def _params(self) -> dict[str, Any]:
        """Gives the parameters as `take_step` has them."""
        layers = []
        for number, layer in enumerate(self.layer):
            own = {name: leaf for name, leaf in layer.items() if name not in _OF_LAYERS}
            told = {"recurrent_kernel": self._cast(layer["recurrent_kernel"]), "own": own}
            if number:
                told |= {"input_kernel": self._cast(layer["input_kernel"]), "bias": layer["bias"]}
            elif self.feeds:
                told["input_kernel"] = self._cast(layer["input_kernel"][self.features :])
            layers.append(told)
        params: dict[str, Any] = {
            "layers": tuple(layers),
            "readout_kernel": self._cast(self.readout_kernel[: self.hidden_size]),
            "readout_bias": self.readout_bias,
        }
        if self.kind == "additive":
            params |= {"query_kernel": self._cast(self.query_kernel), "energy": self.energy}
        return params

    def _cast(self, kernel: Array) -> Array:
        return kernel.astype(self.dtype or jnp.float32)
