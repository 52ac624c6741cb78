"""Hugging Face's Marian, of the sizes that jaxgen's Transformer has beside it."""

from typing import Any

from transformers import MarianConfig, MarianMTModel


def make_marian(*, width: int, layers: int, heads: int, inside: int, dropout: float, **others: Any) -> Any:
    """Makes one, not trained; `others` are fields of `MarianConfig`."""
    sizes = {
        f"{part}_{name}": value
        for part in ("encoder", "decoder")
        for name, value in (("layers", layers), ("attention_heads", heads), ("ffn_dim", inside))
    }
    config = MarianConfig(
        d_model=width,
        **sizes,
        dropout=dropout,
        attention_dropout=dropout,
        scale_embedding=True,
        forced_eos_token_id=None,
        **others,
    )
    return MarianMTModel(config)
