"""Translations by models with random weights: unknown words, contexts, several texts for each, and their scores."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from jaxgen import text_to_text
from jaxgen.data.sequences import Row, SequenceFormat, Table
from jaxgen.data.subwords import SpecialTokens, Subwords
from jaxgen.data.tokenizers import Bytes, Words
from jaxgen.errors import UsageError
from jaxgen.generate import beam
from jaxgen.models import EncoderDecoderTransformer, RecurrentEncoderDecoder
from jaxgen.tasks import SequenceToSequence
from jaxgen.text_to_text import write_split
from jaxgen.train.state import TrainState
from jaxgen.translate import translate
from jaxgen.writing import Writer

SPECIAL = SpecialTokens(pad="<pad>", end="</s>", unknown="<unk>")
READ = Words.train(["the house is near the river"], 20)
WRITTEN = Subwords.train_word_pieces(["la casa queda cerca del rio"], 40, SPECIAL)


def writer_of(model, tokenizer, target_tokenizer=None, favoured=None):
    """Gives a writer with random weights, to which a token is likelier than all others if one is favoured."""
    task = SequenceToSequence(model)
    params, model_state = task.init(jax.random.key(0), {})
    if favoured is not None:
        params["output_bias"] = params["output_bias"].at[favoured].set(20.0)
    others = {"opt_state": (), "carry": (), "ema_params": None, "rng": jax.random.key(0)}
    state = TrainState(step=jnp.int32(0), params=params, model_state=model_state, **others)
    return Writer(task, state, tokenizer, target_tokenizer)


def recurrent(**options):
    sizes = {"embedding_size": 8, "hidden_size": 8, "source_vocabulary_size": len(READ.vocabulary)}
    return RecurrentEncoderDecoder(len(WRITTEN.vocabulary), **{**sizes, **options})


@pytest.mark.parametrize("num_beams", [1, 3])
def test_what_was_looked_at_most_stands_in_the_place_of_unknown_words(num_beams):
    """Words that the reading tokenizer doesn't know either come as they were, with their case."""
    writer = writer_of(recurrent(), READ, WRITTEN, favoured=WRITTEN.special_id("unknown"))
    ((best,), (other,)) = translate(
        writer, ["The Zebra is near Xanadu", "Ypsilon!"], num_beams=num_beams, max_tokens=4, attention=True
    )
    assert best.attention.keys == ["The", "Zebra", "is", "near", "Xanadu"]
    assert [name.strip() for name in best.attention.queries] == ["<unk>"] * 4
    (weights,) = best.attention.weights[0]
    assert weights.shape == (4, 5)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
    assert best.text.split() == [best.attention.keys[place] for place in weights.argmax(axis=-1)]
    assert set(other.text.split()) <= {"Ypsilon", "!"} and not other.complete


def test_without_attention_unknown_words_stay():
    writer = writer_of(
        recurrent(attention_kind="none"), READ, WRITTEN, favoured=WRITTEN.special_id("unknown")
    )
    ((best,),) = translate(writer, ["the Zebra"], num_beams=1, max_tokens=3)
    assert best.text == "<unk> <unk> <unk>" and best.attention is None
    with pytest.raises(UsageError, match="this model has no attention to look at"):
        translate(writer, ["the Zebra"], attention=True)
    with pytest.raises(UsageError, match="neither attention to look at nor hidden units"):
        writer.activations("the Zebra")


def test_several_texts_with_their_scores():
    """A score is what the whole model gives to the text; sentences of one bucket are compiled once."""
    writer = writer_of(recurrent(), READ, WRITTEN)
    search = {"num_beams": 4, "num_samples": 3, "max_tokens": 5, "length_penalty": 0.6}
    ((best, second, third),) = translate(writer, ["the house"], **search)
    assert best.score >= second.score >= third.score and len({best.text, second.text, third.text}) == 3
    compiled = beam._run._cache_size()
    assert [texts[0].text for texts in translate(writer, ["the house is near the river"], **search)]
    assert beam._run._cache_size() == compiled
    ((greedy,),) = translate(writer, ["the house"], num_beams=1, max_tokens=5, length_penalty=0.6)
    source = READ.encode("the house")[None]
    whole = jax.jit(writer.task.model.apply)
    tokens, log_probs = np.zeros((1, 6), np.int32), []
    while len(log_probs) < 5 and WRITTEN.special_id("end") not in tokens:
        found = jax.nn.log_softmax(whole({"params": writer.state.params}, source, tokens))
        found = np.asarray(found)[0, len(log_probs)]
        log_probs.append(found.max())
        tokens[0, len(log_probs)] = found.argmax()
    assert greedy.score == pytest.approx(sum(log_probs) / len(log_probs) ** 0.6, rel=1e-4)
    assert best.score >= greedy.score - 1e-5
    with pytest.raises(UsageError, match="3 texts of 2 beams"):
        translate(writer, ["the house"], num_beams=2, num_samples=3)


def test_texts_beyond_a_context():
    """Up to the context texts are read, though their bucket is longer; beyond it they are refused, or cut off."""
    model = EncoderDecoderTransformer(
        256, embedding_size=8, num_layers=1, num_heads=1, positions="learned", context_length=24
    )
    writer = writer_of(model, Bytes())
    short = {"num_beams": 1, "max_tokens": 4}
    ((fits,),) = translate(writer, ["a" * 24], **short)
    with pytest.raises(
        UsageError, match=r"text 2: the text has 30 tokens, and there is room for 24: .*--truncate"
    ):
        translate(writer, ["a", "a" * 30], **short)
    assert translate(writer, ["a" * 30], truncate=True, **short) == [[fits]]
    with pytest.raises(UsageError, match="a text to read has 30 tokens, and the model reads 24 at most"):
        writer.write(["a" * 30], max_tokens=4)
    with pytest.raises(UsageError, match="more than the model's window of 24"):
        translate(writer, ["a"], num_beams=1, max_tokens=24)


def test_what_was_trained_on_cut_off_texts_reads_no_more_of_others():
    writer = dataclasses.replace(writer_of(recurrent(), READ, WRITTEN), trained_on=3)
    short = {"num_beams": 1, "max_tokens": 4, "attention": True}
    long, begun = "the house is near the river", "the house is"
    ((of_begun,), (of_long,)) = translate(writer, [begun, long], **short)
    assert len(of_long.attention.keys) == 6
    for cut, truncate in ((dataclasses.replace(writer, cut_off=True), False), (writer, True)):
        ((found,),) = translate(cut, [long], truncate=truncate, **short)
        assert found.attention.keys == begun.split() and found.text == of_begun.text
        assert found.score == pytest.approx(of_begun.score, rel=1e-5)
    assert [len(one.encode(long)) for one in (writer, dataclasses.replace(writer, cut_off=True))] == [6, 3]


def test_splits_are_written_as_texts_of_ones_own():
    """Unknown words stand for what was looked at in either."""
    writer = writer_of(recurrent(), READ, WRITTEN, favoured=WRITTEN.special_id("unknown"))
    texts = ["the house is near", "river", "near the river"]
    table = Table("made", {"test": [Row(text, "la casa", "") for text in texts]}, (), "1")
    given = SequenceFormat.of(READ, 6, target_length=9, target_tokenizer=WRITTEN)
    source = table.source("test", given)
    found = write_split(writer.task, writer.state, source, max_tokens=4)
    assert found == [best.text for (best,) in translate(writer, texts, num_beams=1, max_tokens=4)]
    assert found[1] == "river river river river"


def test_few_long_texts_are_read_at_once(monkeypatch):
    """A batch has 16,384 tokens at most, and those of one bucket are of one size."""
    seen = []

    def search(decoder, params, model_state, prompt, lengths, *, inputs, **how):
        seen.append(inputs["tokens"].shape)
        return len(prompt)

    monkeypatch.setattr(text_to_text, "beam_search", search)
    writer = writer_of(recurrent(), READ, WRITTEN)
    lengths = [3] * 70 + [4097] * 3 + [1025] * 20 + [500] * 40 + [20_000]
    rows = [np.ones(length, np.int32) for length in lengths]
    found = list(text_to_text.searched(writer, rows, max_tokens=2))
    assert sorted(number for numbers, _ in found for number in numbers) == list(range(len(rows)))
    assert set(seen) == {(32, 16), (32, 512), (8, 2048), (2, 8192), (1, 32768)}


def test_texts_in_which_there_is_nothing():
    writer = writer_of(recurrent(), READ, WRITTEN)
    texts = {"text 2 is empty": ["the", ""], "text 1 is empty": [" \n"], "no text to write": []}
    for told, given in texts.items():
        with pytest.raises(UsageError, match=told):
            translate(writer, given)
    made = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1}, []))
    letters = dataclasses.replace(writer, tokenizer=Subwords(made.to_str()))
    with pytest.raises(UsageError, match="text 1: none of its characters is known to the run's tokenizer"):
        translate(letters, ["漢字"])
