"""The one train step: a pure function of (state, batch), the same under `jit`, on a mesh, and under `pmap`.

The counts of every term are summed over microbatches and devices before anything is divided, so averages over
ragged batches, padding, microbatches and devices are exact.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxgen.errors import UsageError
from jaxgen.metrics import Mean, Metric
from jaxgen.train.context import Batch, Context, Loss, Objective, Outputs, Params, Term, add_metrics
from jaxgen.train.gradients import (
    GradientMethod,
    RowOptimizer,
    apply_gradients,
    dense,
    gather_rows,
    is_row_gradient,
    keep_if,
)
from jaxgen.train.state import TrainState

AxisName = str | tuple[str, ...] | None
Metrics = dict[str, Metric]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_step(
    loss: Loss,
    optimizer: Any,
    *,
    axis_name: AxisName = None,
    accumulate: int = 1,
    ema_decay: float | None = None,
    gradient: GradientMethod = dense,
) -> Step:
    """Makes `step(state, batch) -> (state, metrics)`, a pure function for the caller to compile.

    Apply `jax.jit(step, donate_argnums=0)` on one device or a mesh, or give `axis_name` and apply `jax.pmap`
    (see `jaxgen.parallel.pmap_step`) or `jax.shard_map(..., check_vma=False)`. All are the same function of
    the global batch. A step whose objective is NaN or infinite changes nothing but the step counter; the
    metric `loss` remembers which step that was.

    Args:
        loss: see `Loss`.
        optimizer: an Optax transformation, or a `RowOptimizer` when the gradient is by rows.
        axis_name: the mapped axis or axes under `pmap` or `shard_map`.
        accumulate: microbatches a step; must divide the batch that one device holds. Batch norm then takes
            its statistics per microbatch, and dropout inside activations is equal only in distribution.
        ema_decay: decay of the moving average of the parameters, for a state that has one.
        gradient: `dense`, or `rows(...)`.

    Returns:
        The step. Its metrics are sums: those of the loss function, `loss` (an `Objective`), and each term
        under its own name where there are several.
    """
    check_ema_decay(ema_decay)
    update = make_update(loss, optimizer, accumulate, gradient)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        context = training_context(state, batch, axis_name)
        params, opt_state, model_state, carry, metrics = update(
            state.params, state.opt_state, state.model_state, state.carry, batch, context
        )
        return advance(state, params, opt_state, model_state, carry, metrics, ema_decay), metrics

    return named_axis(step, axis_name)


def make_eval_step(
    loss: Loss, *, axis_name: AxisName = None, gradient: GradientMethod = dense
) -> Callable[[TrainState, Any, Batch], tuple[Metrics, Any]]:
    """Makes `eval_step(state, carry, batch) -> (metrics, carry)`; it never changes the state.

    The parameters are the moving average where there is one. Metrics are sums, as those of the train step.
    `gradient` is that of the train step: it chooses what parameters the loss sees.
    """

    def eval_step(state: TrainState, carry: Any, batch: Batch) -> tuple[Metrics, Any]:
        context = replace(training_context(state, batch, axis_name), train=False)

        def evaluate(params: Params, batch: Batch) -> tuple[Mapping[str, Mean | Term], Outputs]:
            return loss(params, state.model_state, carry, batch, context)

        terms, outputs = _see(gradient, evaluate, state.evaluation_params(), batch)
        means, weights = _read_terms(terms)
        return _report(_over_devices((means, outputs.metrics), axis_name), weights, context), outputs.carry

    return eval_step


def named_axis(step: Step, axis_name: AxisName) -> Step:
    """Notes on a step the axis that it was made for: mapped over another one, it would not add anything up."""
    step.axis_name = axis_name  # type: ignore[attr-defined]
    return step


def repeat(step: Step) -> Callable[[TrainState, Batch, Int[Array, ""]], tuple[TrainState, Metrics]]:
    """Makes `chunk(state, batches, count)`: the first `count` of the stacked batches in one call.

    One compilation serves every count, and k steps in one call are bit for bit the same as k calls of one.
    Metrics are summed over the steps. Convolutions inside a loop are slow on XLA's CPU backend: call the step
    itself there.
    """

    def chunk(state: TrainState, batches: Batch, count: Int[Array, ""]) -> tuple[TrainState, Metrics]:
        def body(index: Array, loop: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics = loop
            state, latest = step(state, jax.tree.map(lambda leaf: leaf[index], batches))
            return state, add_metrics(metrics, latest)

        _, shapes = jax.eval_shape(step, state, jax.tree.map(lambda leaf: leaf[0], batches))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.fori_loop(0, count, body, (state, zeros))

    return chunk


def training_context(state: TrainState, batch: Batch, axis_name: AxisName) -> Context:
    """Makes the context of a step over the batch, or the part of it that a device holds."""
    size = jax.tree.leaves(batch)[0].shape[0]
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * size
    return Context(
        rng=jax.random.fold_in(state.rng, state.step),
        step=state.step,
        places=first + jnp.arange(size, dtype=jnp.int32),
        train=True,
        axis_name=axis_name,
    )


def check_ema_decay(ema_decay: float | None) -> None:
    """Refuses a decay that makes no average."""
    if ema_decay is not None and not 0 <= ema_decay < 1:
        raise UsageError(f"ema_decay is {ema_decay}; it must be at least 0 and below 1")


def advance(
    state: TrainState,
    params: Params,
    opt_state: Any,
    model_state: Any,
    carry: Any,
    metrics: Metrics,
    ema_decay: float | None,
) -> TrainState:
    """Puts the results of a step into the state, counts it, and moves the average of the parameters.

    The average stays where an objective was not finite, as the parameters do.
    """
    ema_params = state.ema_params
    if ema_decay is not None:
        if ema_params is None:
            raise UsageError(
                "ema_decay is given but the state has no ema_params: TrainState.create(..., ema=True)"
            )
        moved = jax.tree.map(lambda m, p: ema_decay * m + (1 - ema_decay) * p, ema_params, params)
        bad = [metric.bad for metric in metrics.values() if isinstance(metric, Objective)]
        ema_params = keep_if(sum(bad) == 0, moved, ema_params)
    return replace(
        state,
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        model_state=model_state,
        carry=carry,
        ema_params=ema_params,
    )


def make_update(
    loss: Loss, optimizer: Any, accumulate: int, gradient: GradientMethod
) -> Callable[..., tuple[Params, Any, Any, Any, Metrics]]:
    """Makes one optimiser update: (params, opt_state, model_state, carry, batch, context) to what follows."""
    if accumulate < 1:
        raise UsageError(f"accumulate must be at least 1, not {accumulate}")
    if isinstance(optimizer, RowOptimizer) and gradient is dense:
        raise UsageError("a RowOptimizer needs gradients by row: give gradient=rows(...) as well")
    differentiate = _whole if accumulate == 1 else functools.partial(_microbatched, accumulate)

    def update(
        params: Params, opt_state: Any, model_state: Any, carry: Any, batch: Batch, context: Context
    ) -> tuple[Params, Any, Any, Any, Metrics]:
        gradients, (means, weights, outputs) = differentiate(
            loss, gradient, params, (model_state, carry, batch, context)
        )
        gradients = _sum_gradients(gradients, context.axis_name)
        metrics = _report(_over_devices((means, outputs.metrics), context.axis_name), weights, context)
        finite = jnp.isfinite(metrics["loss"].compute())
        params, opt_state = apply_gradients(optimizer, gradients, opt_state, params, finite)
        model_state, carry = keep_if(finite, (outputs.model_state, outputs.carry), (model_state, carry))
        return params, opt_state, model_state, carry, metrics

    return update


def _evaluate(
    loss: Loss, params: Params, inputs: tuple, divided: bool = False
) -> tuple[dict[str, Mean], tuple[dict[str, Array], Outputs]]:
    terms, outputs = loss(params, *inputs)
    _check_kept("model_state", inputs[0], outputs.model_state)
    _check_kept("carry", inputs[1], outputs.carry)
    for name, term in terms.items():
        if divided and isinstance(term, Term) and term.whole_batch:
            raise UsageError(f"the term {name!r} needs the whole batch at once: use accumulate=1")
    means, weights = _read_terms(terms)
    return means, (weights, outputs)


def _check_kept(name: str, before: Any, after: Any) -> None:
    """Refuses what the next step couldn't take in the place of what this one got."""

    def form(leaf: Any) -> str:
        return f"{getattr(leaf, 'dtype', type(leaf).__name__)}{list(jnp.shape(leaf))}"

    def forms(tree: Any) -> dict[str, str]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): form(leaf) for path, leaf in leaves}

    got, returned = forms(before), forms(after)
    for path in {**got, **returned}:
        forth, back = got.get(path, "absent"), returned.get(path, "absent")
        if forth != back:
            raise UsageError(f"the loss got {name}{path} as {forth}; in its Outputs it is {back}")


def _whole(loss: Loss, gradient: GradientMethod, params: Params, inputs: tuple) -> tuple[Any, tuple]:
    """Differentiates the objective of the whole block at once; the counts come from the same pass."""
    model_state, carry, batch, context = inputs

    def objective(params: Params, batch: Batch) -> tuple[Array, tuple]:
        means, rest = _evaluate(loss, params, (model_state, carry, batch, context))
        return _weigh(means, rest[0], _global_counts(means, context.axis_name)), (means, *rest)

    return gradient(objective, params, batch)


def _microbatched(
    accumulate: int, loss: Loss, gradient: GradientMethod, params: Params, inputs: tuple
) -> tuple[Any, tuple]:
    """Differentiates microbatch by microbatch; a first pass finds the counts, XLA drops the rest."""
    model_state, carry, batch, context = inputs
    parts = split_batch((carry, batch, context.places), accumulate)

    def evaluate(params: Params, model_state: Any, carry: Any, batch: Batch, places: Array) -> tuple:
        inputs = (model_state, carry, batch, replace(context, places=places))
        return _evaluate(loss, params, inputs, divided=True)

    def count(part: tuple) -> dict[str, Mean]:
        carry, batch, places = part

        def means(params: Params, batch: Batch) -> dict[str, Mean]:
            return evaluate(params, model_state, carry, batch, places)[0]

        return _see(gradient, means, params, batch)

    counted = jax.vmap(count)(parts)
    counts = _global_counts(_sum_over(counted), context.axis_name)

    def differentiate(model_state: Any, part: tuple) -> tuple[Any, tuple]:
        carry, batch, places = part

        def objective(params: Params, batch: Batch) -> tuple[Array, tuple]:
            means, rest = evaluate(params, model_state, carry, batch, places)
            return _weigh(means, rest[0], counts), (means, *rest)

        return gradient(objective, params, batch)

    def body(loop: tuple, part: tuple) -> tuple[tuple, tuple]:
        summed, model_state = loop
        gradients, (means, weights, outputs) = differentiate(model_state, part)
        by_parameter, by_row = _separate(gradients)
        summed = jax.tree.map(jnp.add, summed, by_parameter)
        return (summed, outputs.model_state), (by_row, means, weights, outputs.metrics, outputs.carry)

    shapes, _ = jax.eval_shape(differentiate, model_state, jax.tree.map(lambda leaf: leaf[0], parts))
    structure = jax.tree.structure(shapes, is_leaf=is_row_gradient)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), _separate(shapes)[0])
    (summed, model_state), stacked = jax.lax.scan(body, (zeros, model_state), parts)
    by_row, means, weights, metrics, carries = stacked
    by_row = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), by_row)
    gradients = jax.tree.unflatten(
        structure, [a if b is None else b for a, b in zip(summed, by_row, strict=True)]
    )
    outputs = Outputs(_sum_over(metrics), model_state, _join(carries))
    return gradients, (_sum_over(means), jax.tree.map(lambda leaf: leaf[0], weights), outputs)


def _see(
    gradient: GradientMethod, function: Callable[[Params, Batch], Any], params: Params, batch: Batch
) -> Any:
    """Applies a function to the parameters that the gradient method lets the loss see, with no gradient."""
    if gradient is dense:
        return function(params, batch)

    def constant(params: Params, batch: Batch) -> tuple[Array, Any]:
        return jnp.float32(0), function(jax.lax.stop_gradient(params), batch)

    return gradient(constant, params, batch)[1]


def _separate(gradients: Any) -> tuple[list, list]:
    """Splits the leaves into dense gradients, which add up, and row gradients, which are strung together."""
    leaves = jax.tree.leaves(gradients, is_leaf=is_row_gradient)
    return (
        [None if is_row_gradient(leaf) else leaf for leaf in leaves],
        [leaf if is_row_gradient(leaf) else None for leaf in leaves],
    )


def _read_terms(terms: Mapping[str, Mean | Term]) -> tuple[dict[str, Mean], dict[str, Array]]:
    full = {name: term if isinstance(term, Term) else Term(term) for name, term in terms.items()}
    return (
        {name: term.mean for name, term in full.items()},
        {name: jnp.asarray(term.weight, jnp.float32) for name, term in full.items()},
    )


def _global_counts(means: dict[str, Mean], axis_name: AxisName) -> dict[str, Array]:
    return _over_devices({name: jax.lax.stop_gradient(mean.count) for name, mean in means.items()}, axis_name)


def _weigh(means: dict[str, Mean], weights: dict[str, Array], counts: dict[str, Array]) -> Array:
    """Sums weight * total / count, where the totals are those at hand and the counts are global."""
    return sum(
        (weights[name] * Mean(mean.total, counts[name]).compute() for name, mean in means.items()),
        jnp.float32(0),
    )


def _report(sums: tuple[dict[str, Mean], Any], weights: dict[str, Array], context: Context) -> Metrics:
    means, metrics = sums
    terms = means if len(means) > 1 else {}
    return {**terms, **metrics, "loss": Objective.of_step(means, weights, context.step)}


def _over_devices(tree: Any, axis_name: AxisName) -> Any:
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def _sum_gradients(gradients: Any, axis_name: AxisName) -> Any:
    """Adds up dense gradients over devices, and strings together those by row."""
    if axis_name is None:
        return gradients

    leaves, structure = jax.tree.flatten(gradients, is_leaf=is_row_gradient)
    by_row = [place for place, leaf in enumerate(leaves) if is_row_gradient(leaf)]
    gathered = gather_rows([leaves[place] for place in by_row], axis_name)
    summed = [None if is_row_gradient(leaf) else jax.lax.psum(leaf, axis_name) for leaf in leaves]
    for place, leaf in zip(by_row, gathered, strict=True):
        summed[place] = leaf
    return jax.tree.unflatten(structure, summed)


def split_batch(tree: Any, parts: int) -> Any:
    """Cuts axis 0 into strided parts: [batch, ...] to [parts, batch / parts, ...].

    Part i holds rows i, i + parts, ...: each device cuts its own rows, and nothing moves.
    """

    def cut(leaf: Any) -> Array:
        if leaf.shape[0] % parts:
            raise UsageError(f"a batch of {leaf.shape[0]} on a device can't be cut into {parts} equal parts")
        return jnp.moveaxis(leaf.reshape(leaf.shape[0] // parts, parts, *leaf.shape[1:]), 1, 0)

    return jax.tree.map(cut, tree)


def _join(tree: Any) -> Any:
    """Undoes `split_batch`."""
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1).reshape(-1, *leaf.shape[2:]), tree)


def _sum_over(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sum(axis=0), tree)
