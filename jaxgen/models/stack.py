"""A stack of transformer's blocks: one after the other or one loop, its insides kept for the gradient or made again."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32

from jaxgen.models.cache import Cache
from jaxgen.models.transformer import Architecture, Block, Step, Surroundings


class Stack(nn.Module):
    """Blocks, one after the other; parameters as `layer_0`, `layer_1` and so on, whatever the options.

    Attributes:
        architecture: of all blocks.
        num_layers: how many.
        remat: whether what is inside of a block is computed again for the gradient, and not kept.
        scan_layers: whether the blocks are one loop, which compiles faster, and not one after the other.
    """

    architecture: Architecture
    num_layers: int
    remat: bool = False
    scan_layers: bool = False

    def setup(self) -> None:
        """Makes the blocks."""
        self.layer = [Block(self.architecture) for _ in range(self.num_layers)]

    def __call__(
        self, hidden: Float[Array, "batch time width"], around: Surroundings, *, train: bool = False
    ) -> Float[Array, "batch time width"]:
        """Gives what the last block gives."""
        if self.is_initializing():
            for block in self.layer:
                hidden = block(hidden, around)
            return hidden
        block = Block(self.architecture, parent=None)
        keys = jax.random.split(self.make_rng("dropout"), self.num_layers) if self._drops(train) else None

        def apply(hidden: Array, layer: tuple[Any, Array | None]) -> tuple[Array, None]:
            params, key = layer
            rngs = {} if key is None else {"dropout": key}
            after: Any = block.apply({"params": params}, hidden, around, train=train, rngs=rngs)
            return after, None

        if self.remat:
            apply = jax.checkpoint(apply, prevent_cse=not self.scan_layers)
        params = [layer.variables["params"] for layer in self.layer]
        if self.scan_layers:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
            return lax.scan(apply, hidden, (stacked, keys))[0]
        for number, own in enumerate(params):
            hidden, _ = apply(hidden, (own, None if keys is None else keys[number]))
        return hidden

    def prefill(
        self, hidden: Float[Array, "batch time width"], around: Surroundings
    ) -> tuple[Float[Array, "batch time width"], tuple[dict[str, Cache], ...]]:
        """Gives what the last block gives, and each block's keys and values."""
        caches = []
        for block in self.layer:
            hidden, cache = block.prefill(hidden, around)
            caches.append(cache)
        return hidden, tuple(caches)

    def step(
        self, hidden: Float[Array, "batch width"], caches: tuple[dict[str, Any], ...], step: Step
    ) -> tuple[Float[Array, "batch width"], tuple[dict[str, Any], ...], tuple[Array | None, ...]]:
        """Reads one more token a row; gives the caches, and each block's weights of the source as well."""
        after, weights = [], []
        for block, before in zip(self.layer, caches, strict=True):
            hidden, cache, of_source = block.step(hidden, before, step)
            after.append(cache)
            weights.append(of_source)
        return hidden, tuple(after), tuple(weights)

    def weights(
        self, hidden: Float[Array, "batch time width"], around: Surroundings
    ) -> dict[str, Float32[Array, "batch layers heads time keys"]]:
        """Gives all blocks' weights of attention: `own`, and `cross` where there is a source."""
        weights = []
        for block in self.layer:
            weights.append(block.weights(hidden, around))
            hidden = block(hidden, around)
        return {name: jnp.stack([layer[name] for layer in weights], axis=1) for name in weights[0]}

    def _drops(self, train: bool) -> bool:
        return train and self.architecture.dropout > 0
