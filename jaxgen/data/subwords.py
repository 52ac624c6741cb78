"""Tokenizers of Hugging Face's `tokenizers`: pieces of words, trained here or read from files, and special tokens."""

import collections
import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int32

from jaxgen.errors import UsageError, unknown

Ids = Int32[np.ndarray, " tokens"]

TRAINED = ("bpe", "unigram", "wordpiece")
MODELS = (*TRAINED, "wordlevel")
_ALPHABET = 1000  # characters that word pieces are made of, at most


@dataclass(frozen=True)
class SpecialTokens:
    """Tokens that are no text, by their role; one token may have several roles.

    Attributes:
        pad: fills up rows.
        end: ends a text.
        unknown: stands for what has no token.
        begin: begins a text.
        cls: begins what BERT reads; the sequence's vector is taken there.
        sep: ends each sentence of what BERT reads.
        mask: is put in the place of a token to be guessed.
        sentinels: mark what was left out of a text for T5, the first one first.
    """

    pad: str | None = None
    end: str | None = None
    unknown: str | None = None
    begin: str | None = None
    cls: str | None = None
    sep: str | None = None
    mask: str | None = None
    sentinels: tuple[str, ...] = ()

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "SpecialTokens":
        """Makes them of what `told` has told."""
        return cls(**{**told, "sentinels": tuple(told.get("sentinels", ()))})

    def told(self) -> dict[str, Any]:
        """Gives those that there are, as JSON."""
        return {role: value for role, value in dataclasses.asdict(self).items() if value}

    @property
    def in_texts(self) -> bool:
        """Whether they have a place in texts, as BERT's mask has, and not only at the ends of rows."""
        return self.told().keys() != {"pad", "end"}

    @property
    def names(self) -> list[str]:
        """The tokens, each once: those with a role in the order of the roles, then the sentinels."""
        roles = {role: token for role, token in self.told().items() if role != "sentinels"}
        return list(dict.fromkeys([*roles.values(), *self.sentinels]))

    def find(self, role: str) -> str:
        """Gives the token that has a role.

        Raises:
            UsageError: if none has.
        """
        token = getattr(self, role)
        if token is None:
            raise UsageError(f"the tokenizer has no {role} token; its special tokens: {self._listed()}")
        return token

    def _listed(self) -> str:
        return (
            ", ".join(f"{role} {token}" for role, token in self.told().items() if role != "sentinels")
            or "none"
        )


BERT_TOKENS = SpecialTokens(pad="[PAD]", unknown="[UNK]", cls="[CLS]", sep="[SEP]", mask="[MASK]")


def t5_tokens(sentinels: int = 100) -> SpecialTokens:
    """Gives the special tokens of T5 (Raffel et al. 2020), with so many sentinels."""
    names = tuple(f"<extra_id_{number}>" for number in range(sentinels))
    return SpecialTokens(pad="<pad>", end="</s>", unknown="<unk>", sentinels=names)


@dataclass(frozen=True)
class Subwords:
    """Pieces of words, by Hugging Face's `tokenizers`.

    Those of `train` are made of bytes, so that nothing is unknown to them, but for word pieces.

    Attributes:
        serialised: the library's own description.
        model: `bpe`, byte-pair encoding (Sennrich et al. 2016), `unigram`, the likeliest of all ways to cut a word
            (Kudo 2018), `wordpiece`, the longest piece first (Devlin et al. 2019), or `wordlevel`, whole words.
        special: tokens that are no text; they are found in texts, and shown in them. Where all that they do is to end
            texts and to fill up rows they are not found: what is written as they are is text as any other.
    """

    serialised: str = field(repr=False)
    model: str = "bpe"
    special: SpecialTokens = SpecialTokens()

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocabulary_size: int = 1000,
        model: str = "bpe",
        special: SpecialTokens = SpecialTokens(),
    ) -> "Subwords":
        """Learns a vocabulary of bytes and what they are put together to.

        Args:
            texts: to learn from.
            vocabulary_size: tokens, the 256 bytes and the special ones among them.
            model: `bpe` or `unigram`; `wordpiece` for what `train_word_pieces` gives.
            special: tokens to reserve. They are the first ones; sentinels the last ones, the first of them last.

        Raises:
            UsageError: for a vocabulary that has no room for the bytes and special tokens, or a model that can't be
                trained.
        """
        if model == "wordpiece":
            return cls.train_word_pieces(texts, vocabulary_size, special)
        if model not in TRAINED:
            raise unknown("model of subwords to train", model, TRAINED)
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers, trainers

        _check_room(vocabulary_size, special, 256, "the bytes alone")
        learner = tokenizers.Tokenizer(models.BPE() if model == "bpe" else models.Unigram())
        learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        learner.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer if model == "bpe" else trainers.UnigramTrainer
        # It comes in another order each time.
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        room = vocabulary_size - len(special.names)
        with _one_thread():
            learner.train_from_iterator(
                texts, trainer(vocab_size=room, initial_alphabet=alphabet, show_progress=False)
            )
        serialised = learner.to_str()
        serialised = serialised if model == "bpe" else _settled(serialised)
        return cls(_reserve(serialised, special), model, special)

    @classmethod
    def train_word_pieces(
        cls,
        texts: Iterable[str],
        vocabulary_size: int = 8000,
        special: SpecialTokens = BERT_TOKENS,
        lowercase: bool = True,
    ) -> "Subwords":
        """Learns a vocabulary as BERT's: words, their beginnings, and what goes on inside of words, written `##ing`.

        Words with other characters than the thousand most frequent ones are unknown.

        Args:
            texts: to learn from.
            vocabulary_size: tokens, the characters and the special ones among them.
            special: tokens to reserve; they are the first ones. One of them stands for unknown words.
            lowercase: whether case and accents are left out.

        Raises:
            UsageError: for a vocabulary that has no room for the characters and special tokens, or no token for
                unknown words.
        """
        from tokenizers import trainers

        learner = word_piece_tokenizer({}, special.find("unknown"), lowercase)
        texts = list(texts)
        alphabet, pieces = _word_alphabet(learner, texts)
        _check_room(vocabulary_size, special, len(pieces), "the characters of the text")
        # Pieces of one frequency are taken in the order of their parts, and the library meets those inside words in
        # any order: as special tokens they have theirs.
        trainer: Any = trainers.WordPieceTrainer(
            vocab_size=vocabulary_size - len(special.names),
            special_tokens=pieces,
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            show_progress=False,
        )
        with _one_thread():
            learner.train_from_iterator(texts, trainer)
        learnt = learner.get_vocab()
        rebuilt = word_piece_tokenizer(learnt, special.find("unknown"), lowercase)
        return cls(_reserve(rebuilt.to_str(), special), "wordpiece", special)

    @property
    def _tokenizer(self) -> Any:
        return _loaded(self.serialised, self.special.in_texts)

    @property
    def vocabulary(self) -> Sequence[str]:
        """The subwords; those of bytes show a space as `Ġ`, as is usual."""
        return tokens_in_order(self._tokenizer.get_vocab())

    def encode(self, text: str) -> Ids:
        """Gives the subwords, without special tokens around them; raises UsageError for bytes that are no text."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError("the text has bytes that are no UTF-8: leave them out") from error
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def parts(self, text: str) -> list[str]:
        """Gives the part of a text that each of its subwords stands for; of half a character the whole."""
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        return [text[begin:end] for begin, end in encoded.offsets]

    def encode_pair(self, first: str, second: str | None = None) -> tuple[Ids, Ids]:
        """Gives what BERT reads of one sentence or two: `cls`, the first, `sep`, the second, `sep`; and type ids.

        Raises:
            UsageError: if there are no such special tokens, and as `encode` does.
        """
        cls, sep = self.special_id("cls"), self.special_id("sep")
        parts = [[cls, *self.encode(first), sep]]
        if second is not None:
            parts.append([*self.encode(second), sep])
        types = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        return np.concatenate(parts).astype(np.int32), types.astype(np.int32)

    def special_id(self, role: str) -> int:
        """Gives the number of the special token with a role, such as `pad`; raises UsageError without one."""
        return self._tokenizer.token_to_id(self.special.find(role))

    @property
    def sentinel_ids(self) -> Ids:
        """The numbers of the sentinels, the first one first."""
        return np.array([self._tokenizer.token_to_id(name) for name in self.special.sentinels], np.int32)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Gives the text, with the special tokens in it."""
        return self._tokenizer.decode([int(number) for number in ids], skip_special_tokens=False)

    def describe(self) -> dict[str, Any]:
        """The library's own description, and the special tokens if there are any."""
        special = self.special.told()
        return {"serialised": json.loads(self.serialised), **({"special": special} if special else {})}


def word_piece_tokenizer(
    vocabulary: Mapping[str, int],
    unknown: str,
    lowercase: bool,
    *,
    strip_accents: bool | None = None,
    chinese: bool = True,
) -> Any:
    """Gives a tokenizer of the library's that cuts texts as BERT does, without special tokens yet.

    Args:
        vocabulary: pieces and their numbers.
        unknown: the token for words that can't be put together.
        lowercase: whether case is left out.
        strip_accents: whether accents are left out; None does as with case.
        chinese: whether Chinese characters are words each.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    model = models.WordPiece(dict(vocabulary), unk_token=unknown, max_input_chars_per_word=100)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=chinese
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def finish(tokenizer: Any, special: SpecialTokens) -> str:
    """Serialises a tokenizer with its special tokens, and with how others' programs put them around texts.

    That is as BERT does where there are `cls` and `sep`, and as T5 does, which ends texts, where there are sentinels.
    """
    from tokenizers import AddedToken, processors

    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special.names])
    single = pair = None
    if special.cls and special.sep:
        single = f"{special.cls} $A {special.sep}"
        pair = f"{single} $B:1 {special.sep}:1"
    elif special.end and special.sentinels:
        single, pair = f"$A {special.end}", f"$A {special.end} $B {special.end}"
    if single is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single,
            pair=pair,
            special_tokens=[(name, tokenizer.token_to_id(name)) for name in special.names],
        )
    return tokenizer.to_str()


def letters_of_bytes() -> list[str]:
    """Gives the letter that stands for each byte, as GPT-2 has it: its own where that is seen, else others in order."""
    seen = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in seen else chr(next(others)) for byte in range(256)]


def tokens_in_order(numbers: Mapping[str, int]) -> list[str]:
    """Gives the tokens by number; an empty one where a number is left out."""
    tokens = [""] * (max(numbers.values(), default=-1) + 1)
    for token, number in numbers.items():
        tokens[number] = token
    return tokens


def _check_room(vocabulary_size: int, special: SpecialTokens, parts: int, what: str) -> None:
    reserved = f" and the special tokens {len(special.names)}" if special.names else ""
    if vocabulary_size <= parts + len(special.names):
        raise UsageError(f"a vocabulary of {vocabulary_size} is too small: {what} are {parts}{reserved}")


def _word_alphabet(learner: Any, texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Gives the characters to make pieces of, and the smallest pieces: these, and those of them inside words."""
    counts, insides = collections.Counter[str](), set[str]()
    for text in texts:
        for word, _ in learner.pre_tokenizer.pre_tokenize_str(learner.normalizer.normalize_str(text)):
            counts.update(word)
            insides.update(word[1:])
    alphabet = sorted(sorted(counts, key=lambda letter: (-counts[letter], letter))[:_ALPHABET])
    known = set(alphabet)
    return alphabet, [*alphabet, *(f"##{letter}" for letter in sorted(insides & known))]


def _reserve(serialised: str, special: SpecialTokens) -> str:
    """Gives special tokens their numbers: the first ones, and the last ones to sentinels."""
    if not special.names:
        return serialised
    import tokenizers

    told = json.loads(serialised)
    model, names = told["model"], special.names
    first, last = [n for n in names if n not in special.sentinels], list(reversed(special.sentinels))
    if model["type"] == "Unigram":
        learnt = [entry for entry in model["vocab"] if entry[0] not in names]
        model["vocab"] = [*([name, 0.0] for name in first), *learnt, *([name, 0.0] for name in last)]
    else:
        learnt = [token for token in tokens_in_order(model["vocab"]) if token not in names]
        model["vocab"] = {token: number for number, token in enumerate([*first, *learnt, *last])}
    return finish(tokenizers.Tokenizer.from_str(json.dumps(told)), special)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Has `tokenizers` count in one thread: several add up in an order that is never the same."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def _settled(serialised: str) -> str:
    """Takes out of a unigram model what differs from one training to the next.

    That is the last digits of scores, the order of pieces, and the scores of bytes that are rare or not there at all:
    these get the lowest one, and 0.0001 more each, in no order.
    """
    told = json.loads(serialised)
    scores = {piece: round(score, 6) for piece, score in told["model"]["vocab"]}
    lowest = min(scores.values())
    rare = [piece for piece, score in scores.items() if len(piece) == 1 and score < lowest + 256 * 1.1e-4]
    scores.update(dict.fromkeys(rare, lowest))
    ranked = sorted(scores, key=lambda piece: (-scores[piece], piece))
    told["model"]["vocab"] = [[piece, scores[piece]] for piece in ranked]
    return json.dumps(told)


@functools.lru_cache(maxsize=8)
def _loaded(serialised: str, special_in_texts: bool) -> Any:
    import tokenizers

    loaded = tokenizers.Tokenizer.from_str(serialised)
    loaded.encode_special_tokens = not special_in_texts
    return loaded
