"""Decoding as one would write it down: NumPy, and a Python loop over one row."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.generate import (
    LogitBias,
    MinP,
    PresencePenalty,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    Typical,
)


def softmax(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def keep_first(logits, order, weights, least):
    """The first tokens in an order, until they weigh enough."""
    total, kept = 0.0, np.full(len(logits), -np.inf)
    for token in sorted(range(len(logits)), key=lambda token: order[token]):
        if total >= least:
            break
        kept[token] = logits[token]
        total += weights[token]
    return kept


def apply_rule(rule, logits, counts):
    """One row, in float64."""
    probs = softmax(logits)
    match rule:
        case Temperature():
            return logits / rule.value if rule.value else logits
        case TopK():
            return keep_first(logits, -logits, np.ones(len(logits)), rule.k)
        case TopP():
            return keep_first(logits, -logits, probs, rule.p)
        case MinP():
            return np.array(
                [x if p >= rule.p * probs.max() else -np.inf for x, p in zip(logits, probs, strict=True)]
            )
        case Typical():
            with np.errstate(divide="ignore"):
                information = -np.log(probs)
            entropy = sum(p * i for p, i in zip(probs, information, strict=True) if p > 0)
            return keep_first(logits, abs(information - entropy), probs, rule.p)
        case RepetitionPenalty():
            changed = np.where(logits < 0, logits * rule.penalty, logits / rule.penalty)
            return np.where(counts > 0, changed, logits)
        case PresencePenalty():
            return np.where(counts > 0, logits - rule.penalty, logits)
        case LogitBias():
            logits = logits.copy()
            for token, bias in rule.biases:
                logits[token] += bias
            return logits
    raise AssertionError(rule)


def pick(sampler, logits, counts, uniform):
    for rule in sampler.rules:
        logits = apply_rule(rule, logits, counts)
    if sampler.greedy:
        return int(np.argmax(logits))
    return int(np.searchsorted(np.cumsum(softmax(logits)), uniform, side="right"))


@functools.partial(jax.jit, static_argnums=(0, 4))
def prefill(decoder, params, inputs, prompt, max_length):
    lengths = jnp.array([prompt.shape[1]])
    return decoder.prefill(params, {}, inputs, prompt, lengths, max_length)


@functools.partial(jax.jit, static_argnums=0)
def decode_step(decoder, params, token, cache):
    return decoder.decode_step(params, {}, token[None], cache)


def write(decoder, params, prompt, rng, place, sampler, max_tokens, stop_tokens=(), inputs=None):
    """Writes one row, alone and unpadded; gives its tokens, their log-probabilities, and the extras."""
    rng = jax.random.fold_in(jax.random.fold_in(rng, place[0]), place[1])
    tokens, log_probs, extras = list(prompt), [], []
    output, cache = prefill(decoder, params, inputs, jnp.array([prompt]), len(prompt) + max_tokens)
    for position in range(max_tokens):
        logits = np.asarray(output.logits[0], np.float64)
        uniform = float(jax.random.uniform(jax.random.fold_in(rng, position)))
        token = pick(sampler, logits, np.bincount(tokens, minlength=len(logits)), uniform)
        tokens.append(token)
        log_probs.append(np.log(softmax(logits)[token]))
        extras.append(jax.tree.map(lambda leaf: np.asarray(leaf[0]), output.extras))
        if token in stop_tokens:
            break
        output, cache = decode_step(decoder, params, jnp.int32(token), cache)
    return tokens[len(prompt) :], np.array(log_probs), extras
