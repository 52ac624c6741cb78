"""Small decoders of every kind: a table, a recurrent net, attention to itself in a window, attention to a source."""

import functools
from dataclasses import dataclass, field
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.generate import DecodeOutput
from jaxgen.models.recurrent import Recurrent

VOCABULARY, HIDDEN = 11, 8


def at(values, positions):
    return values[jnp.arange(len(values)), positions]


@dataclass(frozen=True)
class Table:
    """The next token's logits depend on the last token alone; the cache counts the steps."""

    max_length: ClassVar[int | None] = None

    def prefill(self, params, model_state, inputs, prompt, prompt_lengths, max_length):
        cache = {"steps": jnp.zeros(len(prompt))}
        return DecodeOutput(params[at(prompt, prompt_lengths - 1)], cache), cache

    def decode_step(self, params, model_state, tokens, cache):
        steps = cache["steps"] + 1
        return DecodeOutput(params[tokens], {"steps": steps}), {"steps": steps}


class RecurrentNet(nn.Module):
    @nn.compact
    def __call__(self, tokens, carry=None, lengths=None):
        embedded = nn.Embed(VOCABULARY, HIDDEN, embedding_init=nn.initializers.normal(1.0))(tokens)
        hidden, carry = Recurrent(HIDDEN, "lstm")(embedded, carry, lengths=lengths)
        dense = nn.Dense(VOCABULARY, kernel_init=nn.initializers.normal(2.0))
        return dense(hidden), carry


@dataclass(frozen=True)
class RecurrentToy:
    model: nn.Module = field(default_factory=RecurrentNet)
    max_length: ClassVar[int | None] = None

    def init(self):
        return jax.jit(self.model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]

    def prefill(self, params, model_state, inputs, prompt, prompt_lengths, max_length):
        logits, carry = self.model.apply({"params": params}, prompt, lengths=prompt_lengths)
        return DecodeOutput(at(logits, prompt_lengths - 1)), carry

    def decode_step(self, params, model_state, tokens, cache):
        logits, carry = self.model.apply({"params": params}, tokens[:, None], cache)
        return DecodeOutput(logits[:, 0]), carry


def weights(seed, **shapes):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


@dataclass(frozen=True)
class WindowedToy:
    """Attention to the tokens so far, with positions, so that there is a window."""

    max_length: int | None = 24

    def init(self):
        return weights(
            1,
            embedding=(VOCABULARY, HIDDEN),
            positions=(self.max_length, HIDDEN),
            query=(HIDDEN, HIDDEN),
            output=(HIDDEN, VOCABULARY),
        )

    def attend(self, params, query, cache):
        scores = jnp.einsum("bh,bth->bt", query @ params["query"], cache["keys"])
        seen = jnp.arange(scores.shape[1]) < cache["length"][:, None]
        attention = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
        logits = (query + jnp.einsum("bt,bth->bh", attention, cache["keys"])) @ params["output"]
        return DecodeOutput(logits, {"attention": attention})

    def prefill(self, params, model_state, inputs, prompt, prompt_lengths, max_length):
        assert prompt.shape[1] <= max_length <= self.max_length
        keys = params["embedding"][prompt] + params["positions"][: prompt.shape[1]]
        room = ((0, 0), (0, max_length - prompt.shape[1]), (0, 0))
        cache = {"keys": jnp.pad(keys, room), "length": prompt_lengths}
        return self.attend(params, at(keys, prompt_lengths - 1), cache), cache

    def decode_step(self, params, model_state, tokens, cache):
        length = cache["length"]
        key = params["embedding"][tokens] + params["positions"][length]
        keys = cache["keys"].at[jnp.arange(len(tokens)), length].set(key)
        cache = {"keys": keys, "length": length + 1}
        return self.attend(params, key, cache), cache


@dataclass(frozen=True)
class TranslatorToy:
    """Reads `source` where `source_mask` says so; a recurrent state attends to it (Bahdanau et al. 2015)."""

    max_length: ClassVar[int | None] = None

    def init(self):
        return weights(
            2,
            source=(VOCABULARY, HIDDEN),
            target=(VOCABULARY, HIDDEN),
            state=(HIDDEN, HIDDEN),
            output=(2 * HIDDEN, VOCABULARY),
        )

    def read(self, params, tokens, cache):
        state = jnp.tanh(params["target"][tokens] + cache["state"] @ params["state"])
        scores = jnp.einsum("bh,bsh->bs", state, cache["source"])
        attention = jax.nn.softmax(jnp.where(cache["source_mask"], scores, -jnp.inf))
        context = jnp.einsum("bs,bsh->bh", attention, cache["source"])
        logits = jnp.concatenate([state, context], axis=-1) @ params["output"]
        return DecodeOutput(logits, {"attention": attention}), {**cache, "state": state}

    def prefill(self, params, model_state, inputs, prompt, prompt_lengths, max_length):
        source = jnp.where(inputs["source_mask"][..., None], params["source"][inputs["source"]], 0)
        cache = {"source": source, "source_mask": inputs["source_mask"]}
        cache["state"] = jnp.zeros((len(prompt), HIDDEN))
        outputs = DecodeOutput(
            jnp.zeros((len(prompt), VOCABULARY)), {"attention": jnp.zeros(inputs["source"].shape)}
        )
        for position in range(prompt.shape[1]):
            valid = position < prompt_lengths
            new = self.read(params, prompt[:, position], cache)
            outputs, cache = jax.tree.map(
                lambda new, old, valid=valid: jnp.where(valid.reshape(-1, *(1,) * (new.ndim - 1)), new, old),
                new,
                (outputs, cache),
            )
        return outputs, cache

    def decode_step(self, params, model_state, tokens, cache):
        return self.read(params, tokens, cache)


@functools.cache
def params_of(decoder):
    return decoder.init()


@dataclass(frozen=True)
class Traced:
    """Another decoder, that notes when it is traced."""

    decoder: Any
    log: list = field(default_factory=list, compare=False)

    @property
    def max_length(self):
        return self.decoder.max_length

    def prefill(self, params, model_state, inputs, prompt, prompt_lengths, max_length):
        self.log.append(("prefill", prompt.shape[1], max_length))
        return self.decoder.prefill(params, model_state, inputs, prompt, prompt_lengths, max_length)

    def decode_step(self, params, model_state, tokens, cache):
        self.log.append("step")
        return self.decoder.decode_step(params, model_state, tokens, cache)
