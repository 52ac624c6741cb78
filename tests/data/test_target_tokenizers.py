"""Texts to write may have a tokenizer of their own: it is kept with the run, and checked like the other one."""

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxgen.data import tables, tokenizers
from jaxgen.data.description import describe_text
from jaxgen.data.sequences import SequenceFormat
from jaxgen.data.subwords import SpecialTokens, Subwords
from jaxgen.errors import JaxgenError, UsageError
from jaxgen.metrics import Mean
from jaxgen.models import T5
from jaxgen.saved_run import SavedRun
from jaxgen.tasks import SequenceToSequence
from jaxgen.train.context import Outputs
from jaxgen.train.fit import fit

PAIRS = [(f"house {number} tree", f"casa {number} árbol") for number in range(60)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    file = tmp_path_factory.mktemp("pairs") / "a.tsv"
    file.write_text("\n".join(f"{target}\tplace\t{source}" for source, target in PAIRS))
    table = tables.read(str(file), labelled=False, columns=("3", "1"))
    read, written = (
        Subwords.train(texts, size, "bpe", special)
        for texts, size, special in (
            (table.texts_to_read(), 280, SpecialTokens(pad="<pad>", end="</s>")),
            (table.texts_to_write(), 290, SpecialTokens(end="</s>")),
        )
    )
    given = SequenceFormat.of(read, 12, target_length=14, target_tokenizer=written, columns=("3", "1"))
    given = table.bucketed(given, 400, most_buckets=1)
    return table, table.sources(given), given


def test_each_side_is_cut_by_its_own_tokenizer(made):
    table, sources, given = made
    example, row = sources["train"][0], table.splits["train"][0]
    tokens = example["tokens"][: example["lengths"]].tolist()
    labels = [token for token in example["labels"].tolist() if token >= 0]
    assert tokens[-1:] == [*given.last] == [given.tokenizer.special_id("end")]
    assert labels[-1:] == [*given.last_written] == [given.writing_tokenizer.special_id("end")]
    assert given.last != given.last_written
    assert given.tokenizer.decode(tokens[:-1]) == row.text and row.text.startswith("house")
    assert given.writing_tokenizer.decode(labels[:-1]) == row.other and row.other.startswith("casa")
    assert sources["train"].num_classes == len(given.writing_tokenizer.vocabulary) == 290
    joint = SequenceFormat.of(given.tokenizer, 12, target_length=14)
    assert joint.writing_tokenizer is given.tokenizer and joint.last_written == joint.last


def task_of(given, **others):
    model = T5(vocabulary_size=290, num_layers=1, num_heads=1, embedding_size=8, feed_forward_size=8)
    digests = {
        "tokenizer": tokenizers.digest(given.tokenizer),
        "target_tokenizer": tokenizers.digest(given.writing_tokenizer),
    }
    return SequenceToSequence(model, **{**digests, **others})


def test_tasks_check_both(made):
    _, sources, given = made
    task_of(given).check(sources["train"])
    for others, told in (
        ({"tokenizer": "another"}, "the tokens of .* are of another tokenizer than the task's"),
        ({"target_tokenizer": "another"}, "the targets of .* are of another tokenizer than the task's"),
        ({"target_tokenizer": ""}, "the targets of .* are of another tokenizer"),
    ):
        with pytest.raises(UsageError, match=told):
            task_of(given, **others).check(sources["train"])


class Counting:
    """Learns the number of tokens of a text to write."""

    def init(self, rng, example):
        return {"number": jnp.zeros(())}, {}

    def initial_carry(self, batch_size):
        return ()

    def loss(self, params, model_state, carry, batch, context):
        off = jnp.square((batch["labels"] >= 0).sum(1) - params["number"])
        return {"off": Mean.of(off, batch["weight"])}, Outputs({}, model_state, carry)


def test_a_run_keeps_its_tokenizers_columns_and_buckets(made, tmp_path):
    _, sources, given = made
    options = {"validation": sources["validation"], "devices": jax.devices()[:1], "progress": False}
    fit(Counting(), sources["train"], optax.sgd(0.1), steps=1, workdir=tmp_path / "run", **options)
    run = SavedRun(tmp_path / "run", task=Counting())
    assert describe_text(run.text_format) == describe_text(given) and run.text_format.columns == ("3", "1")
    again = run.source("validation")
    for name, values in sources["validation"].arrays().items():
        assert values.tobytes() == again.arrays()[name].tobytes()
    assert again.buckets.shapes == given.buckets
    path = run.directory.target_tokenizer_path
    tokenizers.save(given.tokenizer, path)
    with pytest.raises(JaxgenError, match=r"target_tokenizer\.json is not the tokenizer that the weights"):
        SavedRun(tmp_path / "run").text_format  # noqa: B018
