"""What every task has in common: the protocol, and how a model is applied inside a loss."""

import inspect
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, Key, Shaped

from jaxgen.data.tokenizers import digest
from jaxgen.errors import UsageError
from jaxgen.metrics import AnyArray, Mean
from jaxgen.train.context import Batch, Context, Outputs, Params, Term


@runtime_checkable
class Task(Protocol):
    """A problem to optimise: a frozen dataclass around a model, known by its class name.

    A task that can refuse data early has `check`, one that can show its results `predict` and `plots` as well;
    see `ImageClassification`.
    """

    def init(self, rng: Key[Array, ""], example: Batch) -> tuple[Params, Any]:
        """Makes (params, model_state) from the shapes and dtypes of a batch."""
        ...

    def initial_carry(self, batch_size: int) -> Any:
        """Makes the recurrent state that a stream starts with, batch on axis 0; `()` without one."""
        ...

    def loss(
        self, params: Params, model_state: Any, carry: Any, batch: Batch, context: Context
    ) -> tuple[Mapping[str, Mean | Term], Outputs]:
        """Computes the terms to minimise, and the metrics; see `jaxgen.train.context.Loss`."""
        ...


def init_model(
    model: nn.Module,
    rng: Key[Array, ""],
    inputs: jax.ShapeDtypeStruct | Array,
    **others: jax.ShapeDtypeStruct,
) -> tuple[Params, Any]:
    """Makes (params, model_state) of a module from its inputs' shapes and dtypes, in one compiled call."""
    inputs = jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)
    named: dict[str, Any] = {**others, **_taken(model, train=False)}
    variables = jax.jit(lambda rng: model.lazy_init(rng, inputs, **named))(rng)
    model_state, params = _split(variables)
    return params, model_state


def apply_model(
    model: nn.Module,
    params: Params,
    model_state: Any,
    inputs: Array,
    context: Context,
    weights: Array | None = None,
    **others: Any,
) -> tuple[Any, Any]:
    """Applies a module inside a loss, as the context says: training or not, on a mapped axis or not.

    Args:
        model: takes `inputs`, and of `train` and `mask` (both optional) what it has a use for; with batch norm
            also an `axis_name` to average over.
        params: its parameters.
        model_state: its other variables, by collection.
        inputs: what it is applied to, batch on axis 0.
        context: of the loss.
        weights: the batch's, 0 on padding rows, which batch statistics leave out.
        others: more inputs, by name.

    Returns:
        (outputs, new model state).
    """
    if not context.train:
        return infer(model, params, model_state, inputs, **others), model_state
    if context.axis_name is not None and hasattr(model, "axis_name"):
        model = model.clone(axis_name=context.axis_name)
    outputs, new_model_state = model.apply(
        {"params": params, **model_state},
        inputs,
        rngs={"dropout": context.block_rng()},
        mutable=list(model_state),
        **others,
        **_taken(model, train=True, mask=weights),
    )
    return outputs, dict(new_model_state)


def infer(model: nn.Module, params: Params, model_state: Any, inputs: Array, **others: Any) -> Any:
    """Applies a module, to more inputs by name, as it is used once it is trained; gives what it gives."""
    return model.apply({"params": params, **model_state}, inputs, **others, **_taken(model, train=False))


def signed_pixels(images: Shaped[AnyArray, "..."]) -> Float[Array, "..."]:
    """Maps bytes to floats from -1 to 1; what are floats already is left alone."""
    values = jnp.asarray(images, jnp.float32)
    return values / 127.5 - 1 if images.dtype == jnp.uint8 else values


def pixel_rngs(rng: Key[Array, ""], images: Shaped[AnyArray, "batch ..."]) -> Key[Array, " batch"]:
    """Makes each image's key of its own pixels: the same whatever stands beside it, in each evaluation."""
    images = jnp.asarray(images)
    words = images.astype(jnp.uint32)
    if images.dtype != jnp.uint8:
        words = jax.lax.bitcast_convert_type(images.astype(jnp.float32), jnp.uint32)
    words = words.reshape(images.shape[0], -1)
    # A sum whose weights are powers of an odd number modulo 2**32 (of Knuth's generator): each place counts.
    powers = np.multiply.accumulate(np.full(words.shape[1], 1664525, np.uint32))
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, (words * powers).sum(axis=1))


def read_text(
    model: nn.Module,
    params: Params,
    model_state: Any,
    context: Context | None,
    method: str | None,
    *inputs: Any,
    **named: Any,
) -> Any:
    """Applies a method of a model of texts; dropout drops where a context of training is given."""
    train = context is not None and context.train
    rngs = {"dropout": context.block_rng()} if context is not None and train else {}
    known = {name: value for name, value in named.items() if value is not None}
    return model.apply(
        {"params": params, **model_state}, *inputs, **known, train=train, method=method, rngs=rngs
    )


def output_layer(model: nn.Module, params: Params) -> tuple[Array, Array]:
    """Gives the kernel and bias that a model of texts predicts tokens with."""
    layer: Any = model.apply({"params": params}, method="output")
    return layer


def likeliest(
    features: Float[Array, "batch time width"], kernel: Array, bias: Array
) -> tuple[Int32[Array, "batch time"], Float[Array, "batch time"]]:
    """Gives the likeliest tokens and their probabilities, and never has the logits of more than one place at once."""

    def of_place(hidden: Float[Array, "batch width"]) -> tuple[Array, Array]:
        logits = jnp.matmul(hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32) + bias
        probabilities = jnp.exp(logits.max(axis=-1) - jax.nn.logsumexp(logits, axis=-1))
        return logits.argmax(axis=-1).astype(jnp.int32), probabilities

    # By place, so that devices keep their rows.
    tokens, probabilities = jax.lax.map(of_place, jnp.moveaxis(features, 1, 0))
    return tokens.T, probabilities.T


def check_arrays(source: Any, needs: tuple[str, ...]) -> dict[str, Any]:
    """Gives an example of a data source; raises UsageError where that lacks arrays which are needed."""
    example: dict[str, Any] = source[0]
    if any(name not in example for name in needs):
        raise UsageError(f"{source.name} has {', '.join(example)}, not {' and '.join(needs)}")
    return example


def check_text(source: Any, needs: tuple[str, ...], tokenizer: str, target_tokenizer: str = "") -> None:
    """Checks that a data source has the arrays that are needed, of the tokenizers with these fingerprints ("" for any).

    Raises:
        UsageError: where it hasn't.
    """
    check_arrays(source, needs)
    if tokenizer and source.text is not None and tokenizer != digest(source.text.tokenizer):
        raise UsageError(f"the tokens of {source.name} are of another tokenizer than the task's")
    if target_tokenizer and source.text is not None:
        of_targets = getattr(source.text, "writing_tokenizer", source.text.tokenizer)
        if target_tokenizer != digest(of_targets):
            raise UsageError(f"the targets of {source.name} are of another tokenizer than the task's")


def check_vocabulary(source: Any, vocabulary_size: int) -> None:
    """Checks that a model knows a source's tokens; raises UsageError where it doesn't."""
    if source.num_classes > vocabulary_size:
        raise UsageError(
            f"{source.name} has {source.num_classes} tokens, but the model knows {vocabulary_size}"
        )


def check_words(source: Any, vocabulary_size: int) -> None:
    """Checks that a model has a vector for each of a source's words, and no more; raises UsageError where it hasn't."""
    if source.num_classes != vocabulary_size:
        raise UsageError(f"{source.name} has {source.num_classes} words, but the model {vocabulary_size}")


def _taken(model: nn.Module, **options: Any) -> dict[str, Any]:
    """Picks the options that a module's call knows: one without dropout and batch norm needs none."""
    known = inspect.signature(type(model).__call__).parameters
    return {name: value for name, value in options.items() if name in known}


def _split(variables: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    return {name: tree for name, tree in variables.items() if name != "params"}, variables["params"]
