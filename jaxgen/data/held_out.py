"""What is held out of one's own examples for validation, where nothing says which: their contents decide.

So equal examples lie on one side, and new ones move no others.
"""

from collections.abc import Iterable, Mapping

_HELD_OUT = 0.1


def held_out(classes: Mapping[str, Iterable[str]]) -> set[str]:
    """Chooses about a tenth of examples.

    Where that leaves a class without one for validation, its smallest digest is taken, and without one to train on, its
    largest is not.

    Args:
        classes: the digests of the examples of each, hexadecimal.
    """
    digests = {name: sorted(set(of_class)) for name, of_class in classes.items()}
    everything = {digest for of_class in digests.values() for digest in of_class}
    chosen = {digest for digest in everything if int(digest[:8], 16) / 2**32 < _HELD_OUT}
    for of_class in digests.values():
        if len(of_class) > 1 and chosen.isdisjoint(of_class):
            chosen.add(of_class[0])
    for of_class in digests.values():
        if chosen.issuperset(of_class):
            chosen.remove(of_class[-1])
    return chosen
