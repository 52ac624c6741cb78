"""Runs that a test starts as processes of their own: `python resume_runs.py DIRECTORY STEPS [KILL_AT]`.

Every problem is run in a directory of its own with both kinds of feed, and its final state written as an npz.
"""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgen
from jaxgen.data.streams import TextFormat, training_streams
from jaxgen.data.text import Text
from jaxgen.data.tokenizers import Characters
from jaxgen.metrics import Mean
from jaxgen.models import RecurrentLanguageModel
from jaxgen.tasks import LanguageModelling, Regression
from jaxgen.train.context import Outputs
from jaxgen.train.hooks import Hook
from jaxgen.train.players import Player, Players


@dataclass(frozen=True)
class Memory:
    """A recurrent state that is carried from step to step, and noise that is drawn an example."""

    width: int = 5

    def init(self, rng, example):
        inputs = example["features"].shape[1]
        return {"mix": jax.random.normal(rng, (inputs + self.width, self.width)) / 3}, {}

    def initial_carry(self, batch_size):
        return jnp.zeros((batch_size, self.width))

    def loss(self, params, model_state, carry, batch, context):
        noise = jax.vmap(jax.random.normal)(context.example_rngs())
        carry = jnp.tanh(jnp.concatenate([batch["features"], carry], axis=1) @ params["mix"])
        error = (carry.sum(axis=1) + 0.1 * noise - batch["target"]) ** 2
        return {"error": Mean.of(error, batch["weight"])}, Outputs(
            {}, model_state, jax.lax.stop_gradient(carry)
        )


@dataclass(frozen=True)
class Game:
    """Two players: one moves a mean away from the data, the other follows it with two updates a round."""

    def init(self, rng, example):
        return {"leader": jnp.zeros(3), "follower": jax.random.normal(rng, (3,))}, {"rounds": jnp.zeros(())}

    def initial_carry(self, batch_size):
        return ()

    def loss(self, params, model_state, carry, batch, context, sign=1.0):
        distance = ((params["leader"] - params["follower"] + batch["features"][:, :3]) ** 2).sum(axis=1)
        outputs = Outputs({}, {"rounds": model_state["rounds"] + context.train}, carry)
        return {"distance": Mean.of(sign * jnp.tanh(distance), batch["weight"])}, outputs

    def players(self):
        flee = lambda *arguments: self.loss(*arguments, sign=-1.0)  # noqa: E731
        return Players(
            [
                Player("follower", self.loss, optax.adam(1e-2), repeats=2),
                Player("leader", flee, optax.sgd(1e-2)),
            ]
        )


class KillAt(Hook):
    def __init__(self, step):
        self.step = step

    def on_progress(self, step):
        if step >= self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def main(directory, steps, kill_at=None):
    rng = np.random.default_rng(0)
    data = {
        "features": rng.normal(size=(50, 4)).astype(np.float32),
        "target": rng.normal(size=50).astype(np.float32),
    }
    regression = Regression(jaxgen.FeedForward(widths=(8,), num_classes=1, dropout=0.2)).standardised(data)
    game = Game()
    language = LanguageModelling(RecurrentLanguageModel(3, 4, 5, dropout=0.2, recurrent_dropout=0.2))
    text = Text("made up", "train", ("".join(rng.choice(list("abc"), 200)),), "1")
    problems = {
        "plain": (regression, optax.adam(1e-2), data),
        "memory": (Memory(), optax.adam(1e-2), data),
        "game": (game, game.players(), data),
        "text": (language, optax.adam(1e-2), training_streams(text, TextFormat(Characters("abc"), 4, 8))),
    }
    for name, (task, optimizer, data) in problems.items():
        for resident in (True, False):
            workdir = directory / f"{name}-{'resident' if resident else 'host'}"
            result = jaxgen.fit(
                task,
                data,
                optimizer,
                steps=steps,
                batch_size=8,
                workdir=workdir,
                checkpoint_every=5,
                report_every=5,
                steps_per_call=3 if resident else None,
                resident=resident,
                ema_decay=0.9,
                hooks=[KillAt(kill_at)] if kill_at else [],
                progress=False,
            )
            state = result.state.replace(rng=jax.random.key_data(result.state.rng))
            leaves = {
                jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(state)
            }
            np.savez(workdir / "state.npz", **leaves)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(argument) for argument in sys.argv[2:]))
