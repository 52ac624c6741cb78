"""Adversarial training: the game of `problems` in every way is tested in `test_step`; here is what it plays."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import BATCH, Problem, _game_loss, assert_close, compiled, game, on_host, run

from jaxgen.errors import UsageError
from jaxgen.train.players import Player, Players


def _noise(rng, place):
    return jax.random.normal(jax.random.fold_in(rng, place), (3,))


def play_by_hand(problem):
    """Plays one update after the other, as plainly as it can be written."""
    params, carry = dict(problem.params), np.zeros(BATCH, np.float32)
    rng = problem.state().rng
    for round_number, batch in enumerate(problem.batches):
        turns = [("judge", 0, -1.0), ("judge", 1, -1.0), ("maker", 1, 1.0)]
        for name, first_row, sign in turns:
            places = np.arange(first_row, 2 * BATCH, 2)
            turn_rng = jax.random.fold_in(jax.random.fold_in(rng, round_number), first_row)
            noise = jax.vmap(partial(_noise, turn_rng))(places)
            x, weight = batch["x"][places], batch["weight"][places]

            def objective(
                own, others=params, name=name, noise=noise, x=x, weight=weight, sign=sign, carry=carry
            ):
                judge = own if name == "judge" else others["judge"]
                fake = jnp.tanh(noise @ (own if name == "maker" else others["maker"]))
                score = jnp.tanh(x @ judge) - jnp.tanh(fake @ judge + 0.1 * carry)
                return ((sign * score + 0.1 * score**2) * weight).sum() / weight.sum(), fake

            gradient, fake = jax.grad(objective, has_aux=True)(params[name])
            params = {**params, name: params[name] - 0.5 * gradient}
            carry = jnp.tanh(carry + fake.sum(axis=1))
    return params, carry


def test_game_equals_a_plain_loop():
    state, metrics = run(game())
    params, carry = play_by_hand(game())
    assert_close(state.params, params)
    assert_close(state.carry, np.asarray(carry))
    assert set(metrics) == {"judge/loss", "judge/score", "maker/loss", "maker/score"}
    assert state.step == len(game().batches), "a step is a round"
    # The score is counted in both of the judge's updates, and in the maker's one.
    assert metrics["judge/score"].count == 2 * metrics["maker/score"].count == 2 * 3 * BATCH


def _momentum_game(**judge):
    problem = game()
    players = Players(
        [
            Player("judge", partial(_game_loss, -1.0), optax.sgd(0.1, momentum=0.9), repeats=2, **judge),
            Player("maker", partial(_game_loss, 1.0), optax.adam(0.1)),
        ]
    )
    return Problem(_game_loss, problem.params, problem.batches, players, jnp.zeros, problem.model_state)


def test_each_player_has_an_optimizer_for_what_it_owns():
    state = _momentum_game().state()
    shapes = jax.tree.map(lambda leaf: leaf.shape, state.opt_state)
    assert shapes["judge"][0].trace == {"judge": (3,)}
    assert shapes["maker"][0].mu == {"maker": (3, 3)}
    both = _momentum_game(owns=("judge", "maker")).state()
    assert set(both.opt_state["judge"][0].trace) == {"judge", "maker"}
    assert state.carry.shape == (BATCH,), "the carry has the rows of one update"


def test_moving_average_has_the_parts_of_all_players():
    problem = _momentum_game()
    step, state, _ = compiled(problem, "single", ema=True, ema_decay=0.5)
    state, _ = step(state, problem.batches[0])
    expected = jax.tree.map(lambda m, p: 0.5 * m + 0.5 * np.asarray(p), problem.params, state.params)
    assert_close(on_host(state).ema_params, expected)


def test_a_bad_objective_stops_its_player_and_is_named():
    def broken(params, model_state, carry, batch, context):
        terms, outputs = _game_loss(1.0, params, model_state, carry, batch, context)
        mean = terms["score"]
        return {"score": mean.replace(total=mean.total / jnp.where(context.step == 1, 0, 1))}, outputs

    problem = _momentum_game()
    players = Players([problem.optimizer.players[0], Player("maker", broken, optax.adam(0.1))])
    problem = Problem(broken, problem.params, problem.batches, players, jnp.zeros, problem.model_state)
    step, state, _ = compiled(problem, "single", ema=True, ema_decay=0.5)
    state, metrics = step(state, problem.batches[0])
    assert metrics["maker/loss"].first_bad_step() is None
    before = on_host(state)
    state, metrics = step(state, problem.batches[1])
    after = on_host(state)
    assert metrics["maker/loss"].first_bad_step() == 1
    assert metrics["judge/loss"].first_bad_step() is None
    for kept in ("maker", "ema"):
        pick = (
            (lambda s: s.ema_params) if kept == "ema" else lambda s: (s.params["maker"], s.opt_state["maker"])
        )
        jax.tree.map(np.testing.assert_array_equal, pick(after), pick(before))
    assert np.isfinite(after.params["judge"]).all() and after.step == 2


def test_games_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match=r"^player 'judge' has 0 repeats; it needs 1 or more$"):
        Player("judge", _game_loss, optax.sgd(0.1), repeats=0)
    player = Player("judge", _game_loss, optax.sgd(0.1))
    with pytest.raises(UsageError, match=r"different names, not \['judge', 'judge'\]$"):
        Players([player, player])
