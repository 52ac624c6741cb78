"""Tokenizers as Hugging Face's directories have them: opened, and written so that `transformers` opens them.

What a directory says of special tokens is read from `tokenizer_config.json` and `special_tokens_map.json`; what they
don't say is taken from the names that the tokens usually have.
"""

import base64
import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from jaxgen.data.sentencepieces import SentencePieces
from jaxgen.data.subwords import (
    BERT_TOKENS,
    SpecialTokens,
    Subwords,
    finish,
    letters_of_bytes,
    t5_tokens,
    word_piece_tokenizer,
)
from jaxgen.data.tokenizers import Bytes, Characters, Tokenizer
from jaxgen.errors import JaxgenError, UsageError, shown
from jaxgen.files import read_json, write_json, write_text

_SENTENCEPIECE_FILES = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
_END_OF_TEXT = "<|endoftext|>"
# What transformers calls the roles, and the usual tokens for each.
_ROLES = {
    "pad": ("pad_token", ("[PAD]", "<pad>")),
    "end": ("eos_token", ("</s>", _END_OF_TEXT)),
    "unknown": ("unk_token", ("[UNK]", "<unk>")),
    "begin": ("bos_token", ("<s>", _END_OF_TEXT)),
    "cls": ("cls_token", ("[CLS]",)),
    "sep": ("sep_token", ("[SEP]",)),
    "mask": ("mask_token", ("[MASK]", "<mask>")),
}
# What BERT's tokenizers do to a text before they cut it, as transformers and as the library calls it.
_BERT_SETTINGS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
_SENTINEL = re.compile(r"<extra_id_(\d+)>")


def open_tokenizer(directory: Path) -> Tokenizer:
    """Opens the tokenizer of a directory.

    That is the first it has of `tokenizer.json` (the `tokenizers` library), `vocab.json` and `merges.txt` (GPT-2's
    bytes), `vocab.txt` (BERT's word pieces; whether case counts is told by `do_lower_case` of
    `tokenizer_config.json`), `spiece.model`, `tokenizer.model` or `sentencepiece.bpe.model` (SentencePiece). Texts are
    cut as there, but neither cut off nor filled up, and no special tokens are put around them.

    Raises:
        JaxgenError: if there is none of them, or one is damaged.
    """
    kinds: tuple[tuple[tuple[str, ...], Callable[[Path, dict[str, Any]], Tokenizer]], ...] = (
        (("tokenizer.json",), _open_serialised),
        (("vocab.json", "merges.txt"), _open_byte_pairs),
        (("vocab.txt",), _open_word_pieces),
        *(((name,), _open_sentencepieces(name)) for name in _SENTENCEPIECE_FILES),
    )
    for names, opened in kinds:
        if all((directory / name).is_file() for name in names):
            try:
                return opened(directory, _told(directory))
            except JaxgenError:
                raise
            except Exception as error:  # the library's errors have no class of their own
                told = " ".join(str(error).split())
                raise JaxgenError(
                    f"{' or '.join(shown(directory / name) for name in names)} is damaged: {told}; restore it"
                ) from error
    wanted = ", ".join(" with ".join(names) for names, _ in kinds)
    raise JaxgenError(f"{shown(directory)} has no tokenizer; looked for {wanted}")


def write_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Writes a tokenizer into a directory, as `transformers` opens it.

    Characters and bytes are byte pairs of which none is put together; characters that aren't known are left out. Word
    pieces come as `vocab.txt`, too.

    Raises:
        UsageError: for words, which have no such form.
        JaxgenError: if a file can't be written.
    """
    if isinstance(tokenizer, Characters | Bytes):
        tokenizer = _as_byte_pairs(tokenizer)
    roles = {name: getattr(_special(tokenizer), role) for role, (name, _) in _ROLES.items()}
    config: dict[str, Any] = {name: token for name, token in roles.items() if token is not None}
    if sentinels := _special(tokenizer).sentinels:
        config["additional_special_tokens"] = list(sentinels)
    if "cls_token" in config:
        config["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    if isinstance(tokenizer, Subwords):
        write_text(directory / "tokenizer.json", tokenizer.serialised)
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        if tokenizer.model == "wordpiece":
            config |= _write_word_pieces(tokenizer, directory)
    elif isinstance(tokenizer, SentencePieces):
        (directory / "spiece.model").write_bytes(base64.b64decode(tokenizer.serialised))
        config |= {"tokenizer_class": "T5Tokenizer", "extra_ids": len(sentinels)}
    write_json(directory / "tokenizer_config.json", {**config, "clean_up_tokenization_spaces": False})


def _write_word_pieces(tokenizer: Subwords, directory: Path) -> dict[str, Any]:
    """Writes the list of pieces, where that and a few settings tell all of a tokenizer; gives these."""
    normalizer = json.loads(tokenizer.serialised)["normalizer"] or {}
    if normalizer.get("type") != "BertNormalizer":
        return {}
    write_text(directory / "vocab.txt", "".join(f"{piece}\n" for piece in tokenizer.vocabulary))
    return {name: normalizer[ours] for name, ours in _BERT_SETTINGS.items()}


def _as_byte_pairs(tokenizer: Characters | Bytes) -> Subwords:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    if isinstance(tokenizer, Characters):
        library = tokenizers.Tokenizer(models.BPE(tokenizer.numbers, []))
        library.decoder = decoders.Fuse()
    else:
        numbers = {letter: byte for byte, letter in enumerate(letters_of_bytes())}
        library = tokenizers.Tokenizer(models.BPE(numbers, []))
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        library.decoder = decoders.ByteLevel()
    return Subwords(library.to_str(), "bpe")


def _special(tokenizer: Tokenizer) -> SpecialTokens:
    if isinstance(tokenizer, Subwords | SentencePieces):
        return tokenizer.special
    kind = type(tokenizer).__name__.lower()
    raise UsageError(f"a tokenizer of {kind} has no form that others open; train with subwords, such as bpe")


def _told(directory: Path) -> dict[str, Any]:
    """Gives what the directory says of its tokenizer, beside the vocabulary."""
    told: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            told |= read_json(directory / name)
    if (directory / "config.json").is_file():
        told["model_type"] = read_json(directory / "config.json").get("model_type")
    return told


def _roles(told: Mapping[str, Any], vocabulary: Collection[str], usual: Collection[str]) -> SpecialTokens:
    """Finds the special tokens: those told that the vocabulary has, and where a role isn't told the usual ones."""
    found = {}
    for role, (name, candidates) in _ROLES.items():
        token = told[name] if name in told else next((t for t in candidates if t in usual), None)
        token = token["content"] if isinstance(token, dict) else token
        if token in vocabulary:
            found[role] = token
    numbered = {int(match[1]): token for token in vocabulary if (match := _SENTINEL.fullmatch(token))}
    return SpecialTokens(**found, sentinels=tuple(numbered[number] for number in sorted(numbered)))


def _open_serialised(directory: Path, told: dict[str, Any]) -> Subwords:
    import tokenizers

    serialised = read_json(directory / "tokenizer.json")
    # Texts come whole: what is cut off or filled up is the caller's matter.
    serialised["truncation"] = serialised["padding"] = None
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(serialised))
    kind = type(tokenizer.model).__name__.lower()
    added = {token["content"] for token in serialised.get("added_tokens", ()) if token["special"]}
    return Subwords(tokenizer.to_str(), kind, _roles(told, tokenizer.get_vocab(), added))


def _open_byte_pairs(directory: Path, told: dict[str, Any]) -> Subwords:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    tokenizer = tokenizers.Tokenizer(
        models.BPE.from_file(str(directory / "vocab.json"), str(directory / "merges.txt"))
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=told.get("add_prefix_space", False))
    tokenizer.decoder = decoders.ByteLevel()
    special = _roles(told, tokenizer.get_vocab(), {_END_OF_TEXT} & tokenizer.get_vocab().keys())
    return Subwords(finish(tokenizer, special), "bpe", special)


def _open_word_pieces(directory: Path, told: dict[str, Any]) -> Subwords:
    pieces = (directory / "vocab.txt").read_text(encoding="utf-8").split("\n")
    # A last line may end with a newline or not.
    numbers = {
        piece.rstrip("\r"): number for number, piece in enumerate(pieces[:-1] if not pieces[-1] else pieces)
    }
    special = _roles(told, numbers, set(BERT_TOKENS.names) & numbers.keys())
    if special.unknown is None:
        raise JaxgenError(f"{shown(directory / 'vocab.txt')} has no token for unknown words, such as [UNK]")
    tokenizer = word_piece_tokenizer(
        numbers,
        special.unknown,
        told.get("do_lower_case", True),
        strip_accents=told.get("strip_accents"),
        chinese=told.get("tokenize_chinese_chars", True),
    )
    return Subwords(finish(tokenizer, special), "wordpiece", special)


def _open_sentencepieces(name: str) -> Callable[[Path, dict[str, Any]], Tokenizer]:
    def opened(directory: Path, told: dict[str, Any]) -> SentencePieces:
        model = base64.b64encode((directory / name).read_bytes()).decode()
        try:
            pieces = set(SentencePieces(model, SpecialTokens()).vocabulary)
        except JaxgenError as error:
            raise JaxgenError(f"{shown(directory / name)}: {error}") from error
        is_t5 = told.get("model_type") == "t5" or str(told.get("tokenizer_class")).startswith("T5")
        sentinels = t5_tokens(told.get("extra_ids", 100) if is_t5 else 0).sentinels
        control = {token for _, candidates in _ROLES.values() for token in candidates} & pieces
        return SentencePieces(model, _roles(told, pieces | set(sentinels), control))

    return opened
