"""Pictures of recurrent networks: how far back they reach."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from jaxgen.plot_style import COLOURS, declutter, message, new_figure, styled

Curve = Float[np.ndarray, " _"]

# Below this part of the largest norm, curves leave the picture: what is left there changes no weight.
_FLOOR = 1e-12


@styled
def gradient_by_lag(trained: Mapping[str, Curve], untrained: Mapping[str, Curve]) -> Figure:
    """Draws the norm of gradients against the lag, on a logarithmic scale: of trained nets solid, of others dashed.

    Args:
        trained: name to norms by lag, from 0 on, such as `jaxgen.gradient_flow.gradient_norms` gives them; norms that
            are zero or not finite are left out.
        untrained: the same of nets as they begin; one of the same name has the same colour.
    """
    names = list(dict.fromkeys([*untrained, *trained]))
    drawn = [
        (f"{name}, {state}", COLOURS[names.index(name) % len(COLOURS)], line, curve)
        for state, line, curves in (("trained", "-", trained), ("untrained", "--", untrained))
        for name, curve in curves.items()
    ]
    visible = [curve[np.isfinite(curve) & (curve > 0)] for _, _, _, curve in drawn]
    norms = np.concatenate([*visible, np.zeros(0, np.float32)])
    if not len(norms):
        return message("no gradients")
    figure = new_figure(6.2, 3.9)
    axes = figure.add_subplot()
    for label, colour, line, curve in drawn:
        shown = np.where(np.isfinite(curve) & (curve > 0), curve, np.nan)
        axes.plot(np.arange(len(curve)), shown, line, color=colour, label=label, linewidth=1.6)
    axes.set_yscale("log")
    highest = norms.max()
    axes.set_ylim(max(norms.min(), highest * _FLOOR) / 2, highest * 2)
    axes.set(
        xlabel="lag in steps",
        ylabel="norm of the gradient",
        title="gradient of the last state with respect to earlier inputs",
    )
    declutter(axes)
    figure.legend(loc="outside right upper")
    return figure
