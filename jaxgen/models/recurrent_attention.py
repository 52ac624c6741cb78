"""Attention of recurrent layers to what an encoder read: the score, and the loop that feeds it back.

A step is that of Luong et al. 2015 (section 3): the layers go on, the top one's new state asks, and what it asked for
and itself make the attentional vector, from which a token is predicted, and which is fed to the next step (section
3.3). What doesn't hang on the step before is made for all steps at once, outside of the loop: the products of what is
read, the keys, and the projection of what the weights average; backwards, the gradients of all kernels.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxgen.models.cells import Carry, Cell
from jaxgen.models.recurrent import by_columns, product, sum_of_products


class Source(NamedTuple):
    """What there is to attend to, float32.

    Attributes:
        keys: [batch, source time, size], which the scores are made of.
        values: [batch, source time, width], which the weights average.
        unseen: [batch, source time], 0, and on padding what makes a score count for nothing.
    """

    keys: Array
    values: Array
    unseen: Array


class State(NamedTuple):
    """What goes from step to step, float32: each layer's carry, and the attentional vector [batch, width]."""

    layers: tuple[Carry, ...]
    vector: Array


class _Made(NamedTuple):
    """What a step made on its way."""

    gates: tuple[Any, ...]
    query: Array
    weights: Array
    squashed: Array


def score(
    query: Float[Array, "batch size"], source: Source, energy: Float[Array, "#batch size"] | None
) -> Float[Array, "batch source_time"]:
    """Gives the scores of one query a row: query . key, or with an energy its product with tanh(query + key).

    The first is Luong et al. 2015, equation 8, whose key is projected already; the second Bahdanau et al. 2015,
    appendix A.1.2. Where there are fewer sources, as many queries, one after the other, share each of them.
    """
    if len(query) != len(source.keys):
        shared = query.reshape(len(source.keys), -1, query.shape[1])
        scores = jax.vmap(lambda one: score(one, source, energy), 1, 1)(shared)
        return scores.reshape(len(query), -1)
    if energy is None:
        scores = jnp.einsum("bd,bsd->bs", query, source.keys)
    else:
        scores = (jnp.tanh(source.keys + query[:, None]) * energy[:, None]).sum(axis=-1)
    return scores + source.unseen


def average(weights: Float[Array, "batch source_time"], source: Source) -> Float[Array, "batch width"]:
    """Gives the values as they are weighed by each row; sources may be shared, as by `score`."""
    shared = weights.reshape(len(source.values), -1, weights.shape[1])
    return jnp.einsum("bqs,bsw->bqw", shared, source.values).reshape(len(weights), -1)


def _score_backwards(
    query: Array, source: Source, energy: Array | None, of_scores: Array
) -> tuple[Array, dict[str, Array]]:
    """Gives the gradient of the query, and those of the keys and the energy, where they aren't products over time."""
    if energy is None:
        return jnp.einsum("bs,bsd->bd", of_scores, source.keys), {}
    squashed = jnp.tanh(source.keys + query[:, None])
    of_sums = of_scores[..., None] * energy[:, None] * (1 - squashed**2)
    of_energy = jnp.einsum("bs,bsd->bd", of_scores, squashed)
    return of_sums.sum(axis=1), {"keys": of_sums, "energy": of_energy}


def score_all(
    queries: Float[Array, "time batch size"], source: Source, energy: Float[Array, " size"] | None
) -> Float[Array, "time batch source_time"]:
    """Gives the scores of all queries of a text; of an additive attention one step's at a time, for the memory."""
    if energy is None:
        return jnp.einsum("tbd,bsd->tbs", queries, source.keys) + source.unseen
    # By row, so that devices add the gradient up once, behind the loop.
    rows = jnp.broadcast_to(energy, queries.shape[1:])
    return lax.map(jax.checkpoint(lambda query: score(query, source, rows)), queries)


def take_step(
    cell: Cell, params: Any, state: State, inputs: Array, source: Source | None, multiply: Any = product
) -> tuple[State, Array | None]:
    """Takes one step; gives the state after it, and the scores [batch, source time], where there is a source.

    Args:
        cell: of the layers.
        params: `layers`, for each `recurrent_kernel` [hidden, gates * hidden], `own`, the cell's, `input_kernel`, of
            what it reads, and but for the first one `bias`; what the first one reads by `input_kernel` is the
            attentional vector, and where that isn't fed it has none. Then `readout_kernel` [hidden, width],
            `readout_bias`; and of additive attention `query_kernel` [hidden, size] and `energy` [size].
        state: what the step begins with.
        inputs: what the first layer reads beside, projected, [batch, gates * hidden].
        source: what to attend to; None for no attention.
        multiply: makes the products.
    """
    after, _, scores = _step(cell, params, state, inputs, {}, source, multiply)
    return after, None if source is None else scores


def _step(
    cell: Cell,
    params: Any,
    state: State,
    inputs: Array,
    kept: dict[str, Any],
    source: Source | None,
    multiply: Any,
) -> tuple[State, _Made, Array]:
    layers: list[Carry] = []
    gates: list[Any] = []
    for number, (layer, before) in enumerate(zip(params["layers"], state.layers, strict=True)):
        from_inputs = layer["bias"] if number else inputs
        if "input_kernel" in layer:
            read = drop(layers[-1]["hidden"], kept, f"layer_{number}") if number else state.vector
            from_inputs = multiply(read, layer["input_kernel"]) + from_inputs
        from_hidden = multiply(before["hidden"], layer["recurrent_kernel"])
        after, kept_gates = cell(layer["own"], before, from_inputs, from_hidden)
        layers.append(after)
        gates.append(kept_gates)
    hidden = layers[-1]["hidden"]
    summed = multiply(hidden, params["readout_kernel"]) + params["readout_bias"]
    query = weights = scores = hidden
    if source is not None:
        query = multiply(hidden, params["query_kernel"]) if "query_kernel" in params else hidden
        scores = score(query, source, _energy(params))
        weights = jax.nn.softmax(scores)
        summed += average(weights, source)
    squashed = jnp.tanh(summed)
    state = State(tuple(layers), drop(squashed, kept, "vector"))
    return state, _Made(tuple(gates), query, weights, squashed), scores


def _energy(params: Any) -> Array | None:
    return params["energy"][None] if "energy" in params else None


def drop(values: Array, kept: dict[str, Any], name: str) -> Array:
    """Multiplies by the mask of a name, where there is one."""
    return values * kept[name] if name in kept else values


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_and_recur(
    cell: Cell,
    params: Any,
    state: State,
    inputs: Float[Array, "time batch gates_width"],
    kept: dict[str, Float[Array, "time batch _"]],
    source: Source,
) -> tuple[Float[Array, "time batch width"], Float[Array, "time batch source_time"]]:
    """Takes a step after the other; gives the attentional vectors and the scores.

    Args:
        cell: see `take_step`, as for the others.
        params: of layers that are fed.
        state: what the first step begins with.
        inputs: of each step.
        kept: what is multiplied by, for dropout: `layer_1` and so on what these layers read, `vector` the attentional
            vector. There is no gradient of it. Empty for none.
        source: what to attend to.
    """
    return _forwards(cell, params, state, inputs, kept, source)[0]


def _forwards(
    cell: Cell, params: Any, state: State, inputs: Array, kept: dict[str, Any], source: Source
) -> tuple[tuple[Array, Array], tuple]:
    # As in `jaxgen.models.recurrent.recur`: wide rows, read row by row, collide in caches.
    turned = _turned(params)

    def step(before: State, now: tuple[Array, dict[str, Any]]) -> tuple[State, tuple[State, _Made, Array]]:
        after, made, scores = _step(cell, turned, before, *now, source, by_columns)
        return after, (after, made, scores)

    _, (states, made, scores) = lax.scan(step, state, (inputs, kept))
    return (states.vector, scores), (params, state, kept, source, states, made)


def _backwards(cell: Cell, residuals: tuple, gradients: tuple[Array, Array]) -> tuple:
    params, state, kept, source, states, made = residuals
    before = jax.tree.map(lambda first, all_: jnp.concatenate([first[None], all_[:-1]]), state, states)
    turned, energy = _turned(params), _energy(params)

    def step(loop: tuple[State, Any], now: tuple) -> tuple[tuple[State, Any], dict[str, Any]]:
        (of_state, sums), (before, after, made, kept, of_vector, of_scores) = loop, now
        of_sum = drop(of_state.vector + of_vector, kept, "vector") * (1 - made.squashed**2)
        of_weights = jnp.einsum("bw,bsw->bs", of_sum, source.values)
        average = (made.weights * of_weights).sum(axis=-1, keepdims=True)
        of_scores += made.weights * (of_weights - average)
        of_query, of_source = _score_backwards(made.query, source, energy, of_scores)
        of_hidden = product(of_sum, turned["readout_kernel"])
        of_hidden += product(of_query, turned["query_kernel"]) if "query_kernel" in turned else of_query
        found: dict[str, Any] = {"sum": of_sum, "scores": of_scores, "query": of_query}
        of_layers, of_own = list(of_state.layers), {}
        for number, layer in reversed(list(enumerate(turned["layers"]))):
            of_carry = {**of_layers[number], "hidden": of_layers[number]["hidden"] + of_hidden}
            of_own[number], of_before, of_inputs, of_product = cell.backwards(
                layer["own"], before.layers[number], after.layers[number], made.gates[number], of_carry
            )
            of_before["hidden"] += product(of_product, layer["recurrent_kernel"])
            of_hidden = drop(product(of_inputs, layer["input_kernel"]), kept, f"layer_{number}")
            of_layers[number] = of_before
            found[f"layer_{number}"] = (of_inputs, of_product)
        sums = jax.tree.map(jnp.add, sums, {"own": of_own, **of_source})
        return (State(tuple(of_layers), of_hidden), sums), found

    nothing = (jax.tree.map(jnp.zeros_like, state), _no_sums(params, source))
    told = (before, states, made, kept, *gradients)
    (of_state, sums), found = lax.scan(step, nothing, told, reverse=True)
    of_params = _of_params(params, before, states, kept, sums, found)
    return of_params, of_state, found["layer_0"][0], None, _of_source(source, made, sums, found)


def _turned(params: Any) -> Any:
    """Transposes the kernels."""

    def turn(path: Any, leaf: Array) -> Array:
        return leaf.T if path[-1].key.endswith("_kernel") else leaf

    return jax.tree_util.tree_map_with_path(turn, params)


def _no_sums(params: Any, source: Source) -> dict[str, Any]:
    """Gives zeros for what is added up on the way back, by row: what is added over the batch, devices wait for."""
    rows = source.keys.shape[:1]

    def by_row(leaf: Array) -> Array:
        return jnp.zeros(rows + leaf.shape, jnp.float32)

    sums: dict[str, Any] = {
        "own": {n: jax.tree.map(by_row, layer["own"]) for n, layer in enumerate(params["layers"])}
    }
    if "energy" in params:
        sums |= {"keys": jnp.zeros_like(source.keys), "energy": by_row(params["energy"])}
    return sums


def _of_params(params: Any, before: State, states: State, kept: dict, sums: Any, found: Any) -> Any:
    """Makes the gradients of all parameters, kernels by one product over all steps each."""
    of_layers = []
    for number, layer in enumerate(params["layers"]):
        of_inputs, of_product = found[f"layer_{number}"]
        read = before.vector
        if number:
            read = drop(states.layers[number - 1]["hidden"], kept, f"layer_{number}")
        hidden = before.layers[number]["hidden"]
        of_layer = {
            "input_kernel": sum_of_products(read, of_inputs, layer["input_kernel"]),
            "recurrent_kernel": sum_of_products(hidden, of_product, layer["recurrent_kernel"]),
            "own": jax.tree.map(lambda rows: rows.sum(axis=0), sums["own"][number]),
        }
        if number:
            of_layer["bias"] = of_inputs.sum(axis=(0, 1))
        of_layers.append(of_layer)
    asking = states.layers[-1]["hidden"]
    of_params: dict[str, Any] = {
        "layers": tuple(of_layers),
        "readout_kernel": sum_of_products(asking, found["sum"], params["readout_kernel"]),
        "readout_bias": found["sum"].sum(axis=(0, 1)),
    }
    if "energy" in params:
        of_params["query_kernel"] = sum_of_products(asking, found["query"], params["query_kernel"])
        of_params["energy"] = sums["energy"].sum(axis=0)
    return of_params


def _of_source(source: Source, made: _Made, sums: Any, found: Any) -> Source:
    keys = sums["keys"] if "keys" in sums else jnp.einsum("tbs,tbd->bsd", found["scores"], made.query)
    values = jnp.einsum("tbs,tbw->bsw", made.weights, found["sum"])
    return Source(keys, values, jnp.zeros_like(source.unseen))


attend_and_recur.defvjp(_forwards, _backwards)
