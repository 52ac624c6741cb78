"""Adversarial training: several players on the one step contract."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from jaxgen.errors import UsageError
from jaxgen.train.context import Batch, Loss, Params
from jaxgen.train.gradients import dense
from jaxgen.train.state import TrainState
from jaxgen.train.step import (
    AxisName,
    Metrics,
    Step,
    advance,
    check_ema_decay,
    make_update,
    named_axis,
    split_batch,
    training_context,
)


@dataclass(frozen=True)
class Player:
    """One side of an adversarial game.

    Attributes:
        name: key of its optimiser's state, and prefix of its metrics.
        loss: its loss; sees the parameters of all players.
        owns: keys of `params` that it changes; its name alone by default.
        optimizer: an Optax transformation.
        repeats: updates a round. A batch holds as many slices as the largest; others take the last ones.
    """

    name: str
    loss: Loss
    optimizer: Any
    owns: tuple[str, ...] = ()
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UsageError(f"player {self.name!r} has {self.repeats} repeats; it needs 1 or more")

    def owned(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Picks the part of the parameters that this player changes."""
        return {key: params[key] for key in self.owns or (self.name,)}


@dataclass(frozen=True)
class Players:
    """The players of a game in the order of their turns; has the `init` of an optimiser."""

    players: Sequence[Player]

    def __post_init__(self) -> None:
        names = [player.name for player in self.players]
        if not names or len(set(names)) < len(names):
            raise UsageError(f"a game needs players of different names, not {names}")

    def init(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Makes the optimiser states, by player."""
        return {player.name: player.optimizer.init(player.owned(params)) for player in self.players}

    def turns(self) -> Iterator[tuple[Player, int]]:
        """Yields (player, index of the batch slice) in the order of play."""
        rounds = self.slices
        for player in self.players:
            for slice_index in range(rounds - player.repeats, rounds):
                yield player, slice_index

    @property
    def slices(self) -> int:
        """The number of slices that a batch is cut into."""
        return max(player.repeats for player in self.players)


def make_players_step(
    players: Players, *, axis_name: AxisName = None, accumulate: int = 1, ema_decay: float | None = None
) -> Step:
    """Makes the step of adversarial training: every player in turn, each seeing the others' new parameters.

    `params` and `ema_params` are dicts by part, `opt_state` by player. The batch holds `players.slices` times
    the rows of one update; the carry, if any, holds the rows of one update. Gradients are taken only for what
    a player owns; every player gets and returns the whole model state. `step` counts rounds. Players that take the
    same slice have the same keys: what both make of it with the same parameters is computed once.

    Args and result are those of `make_train_step`, with metrics named `player/metric`.
    """
    check_ema_decay(ema_decay)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        context = training_context(state, batch, axis_name)
        slices = split_batch((batch, context.places), players.slices)
        params, opt_state = dict(state.params), dict(state.opt_state)
        model_state, carry = state.model_state, state.carry
        metrics: Metrics = {}
        for player, slice_index in players.turns():
            part, places = jax.tree.map(lambda leaf, i=slice_index: leaf[i], slices)
            update = make_update(_with_others(player.loss, params), player.optimizer, accumulate, dense)
            owned, opt_state[player.name], model_state, carry, reported = update(
                player.owned(params),
                opt_state[player.name],
                model_state,
                carry,
                part,
                replace(context, rng=jax.random.fold_in(context.rng, slice_index), places=places),
            )
            params.update(owned)
            reported = {f"{player.name}/{name}": metric for name, metric in reported.items()}
            metrics = {**metrics, **{k: metrics[k] + m if k in metrics else m for k, m in reported.items()}}
        return advance(state, params, opt_state, model_state, carry, metrics, ema_decay), metrics

    return named_axis(step, axis_name)


def _with_others(loss: Loss, params: Params) -> Loss:
    """Fixes the parameters that a player doesn't own."""
    return lambda owned, *rest: loss({**params, **owned}, *rest)
