"""Watches a game for its usual failure: a generator that makes few different images."""

from typing import Any

from jaxgen.train.hooks import Hook, say
from jaxgen.train.state import TrainState

_LEAST_DIVERSITY = 0.5
_WATCHED = ("train/generator/diversity", "train/discriminator/margin")


class CollapseWatch(Hook):
    """Says when made images differ less than half as much as real ones, and adds the last figures to the result."""

    def __init__(self) -> None:
        self._latest: dict[str, float] = {}
        self._diverse = False

    def on_report(self, step: int, figures: dict[str, float]) -> None:
        """Notes the figures; speaks when a generator that was diverse isn't any more."""
        self._latest |= {name: figures[name] for name in _WATCHED if name in figures}
        diversity = self._latest.get(_WATCHED[0], 1.0)
        if self._diverse and diversity < _LEAST_DIVERSITY:
            say(f"step {step}: {_told(diversity)}")
        self._diverse = diversity >= _LEAST_DIVERSITY

    def on_finish(self, figures: dict[str, Any], state: TrainState) -> None:
        """Adds the figures of the last report, and says how a run ends that has collapsed."""
        figures.update(self._latest)
        if self._latest and not self._diverse:
            say(f"the run ends collapsed: {_told(self._latest[_WATCHED[0]])}")


def _told(diversity: float) -> str:
    return (
        f"two images made differ only {diversity:.2f} times as much as two real ones; try another --seed, a smaller "
        "--learning-rate, or --objective relativistic-r1"
    )
