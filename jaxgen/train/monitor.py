"""What decides which state of a run is the best: its validation loss, or a figure of what the state can do."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from jaxgen.data.sources import Source


@dataclass(frozen=True)
class Judge:
    """Figures of a state beside the task's own, one of which chooses the best state: such as ROUGE of what it writes.

    Attributes:
        score: gives figures by name, from a state and a split.
        chosen_by: the one of them that is highest for the best state.
    """

    score: Callable[[Any, Source], dict[str, float]]
    chosen_by: str


@dataclass(frozen=True)
class Monitor:
    """The figure that decides which state is the best; of states that are equal in a score it is the validation loss.

    A score such as a share of exact texts is often 0 for long, or 1 to the end, while the loss still falls.

    Attributes:
        name: of the figure, `SPLIT/NAME`.
        highest: whether the highest one is the best, else the lowest.
    """

    name: str
    highest: bool = False

    @classmethod
    def of(cls, splits: Collection[str], chosen_by: str | None) -> "Monitor | None":
        """Gives that of a run with these splits; None where there is no validation split, so nothing is chosen."""
        if "validation" not in splits:
            return None
        return cls(f"validation/{chosen_by or 'loss'}", chosen_by is not None)

    @property
    def title(self) -> str:
        """Names the figure to a person."""
        return self.name.replace("/", " ")

    def cost(self, figures: Mapping[str, float]) -> tuple[float, float]:
        """Gives what is lowest for the best state: the figure's cost, and what decides between equals, never NaN."""
        if not self.highest:
            return figures[self.name], 0.0
        loss = figures.get("validation/loss", math.nan)
        return -figures[self.name], math.inf if math.isnan(loss) else loss
