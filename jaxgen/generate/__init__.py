"""Decoding: one loop that writes for every autoregressive model, how it draws, and the text that it wrote."""

from jaxgen._lazy import exports

_NAMES = {
    "Beams": "jaxgen.generate.beam",
    "CausalDecoder": "jaxgen.generate.transformer",
    "DecodeOutput": "jaxgen.generate.contract",
    "Decoder": "jaxgen.generate.contract",
    "EncoderDecoder": "jaxgen.generate.transformer",
    "Generated": "jaxgen.generate.decode",
    "History": "jaxgen.generate.sampling",
    "LogitBias": "jaxgen.generate.sampling",
    "MinP": "jaxgen.generate.sampling",
    "NoRepeatNgrams": "jaxgen.generate.sampling",
    "PresencePenalty": "jaxgen.generate.sampling",
    "RecurrentDecoder": "jaxgen.generate.recurrent",
    "RepetitionPenalty": "jaxgen.generate.sampling",
    "Sampler": "jaxgen.generate.sampling",
    "Temperature": "jaxgen.generate.sampling",
    "Text": "jaxgen.generate.text",
    "TopK": "jaxgen.generate.sampling",
    "TopP": "jaxgen.generate.sampling",
    "Typical": "jaxgen.generate.sampling",
    "beam_search": "jaxgen.generate.beam",
    "generate": "jaxgen.generate.decode",
    "pad_prompts": "jaxgen.generate.prompts",
    "score": "jaxgen.generate.scoring",
    "stream": "jaxgen.generate.decode",
}

__all__ = sorted(_NAMES)
__getattr__ = exports(__name__, _NAMES)
