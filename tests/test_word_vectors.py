"""Word vectors on the command line: of files in every format, and of runs whose task has them."""

from pathlib import Path

import numpy as np
import pytest

from jaxgen import embeddings, word_vectors
from jaxgen.cli import main
from jaxgen.embeddings import KeyedVectors, Ngrams, load, save

GOLDEN = Path(__file__).parent / "golden"
STORED = GOLDEN / "word_vectors"


def run(*arguments):
    with pytest.raises(SystemExit) as raised:
        main([str(argument) for argument in arguments])
    return raised.value.code


@pytest.mark.parametrize("name", ["word2vec.txt", "word2vec.bin", "glove.txt"])
def test_similar_words_of_a_file(name, capsys):
    assert run("similar", STORED / name, "king", "東京", "--top", "3") == 0
    told = capsys.readouterr().out
    vectors = load(STORED / name)
    for word in ("king", "東京"):
        assert word in told.splitlines()
        for near, cosine in vectors.most_similar(word, topn=3):
            assert any(near in line and f"{cosine:.4f}" in line for line in told.splitlines())


def test_similar_words_of_a_sum(capsys):
    assert (
        run("similar", STORED / "word2vec.bin", "--plus", "kings", "table", "--minus", "king", "--top", "1")
        == 0
    )
    told = capsys.readouterr().out
    ((near, cosine),) = load(STORED / "word2vec.bin").most_similar(["kings", "table"], "king", topn=1)
    assert told.startswith("kings + table - king\n") and near in told and f"{cosine:.4f}" in told


def test_similar_words_of_an_unseen_one(capsys):
    assert run("similar", STORED / "fasttext.bin", "steamtrain", "--top", "2") == 0
    assert "steamtrain, not in the vocabulary, by its n-grams\n" in capsys.readouterr().out


def test_a_word_that_is_no_utf8_is_unknown(capsys):
    assert run("similar", STORED / "fasttext.bin", "k\udcff") == 2
    told = capsys.readouterr().err
    assert r"the word 'k\udcff' is not in the vocabulary" in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("word2vec.txt",), "give words to find similar ones of, or --plus and --minus"),
        (("word2vec.txt", "king", "--plus", "table"), "give words to find similar ones of, or --plus"),
        (("word2vec.txt", "kinng"), "the word 'kinng' is not in the vocabulary; did you mean king"),
        (("word2vec.txt", "king", "--top", "0"), "ask for at least one word"),
        (("none.txt", "king"), "there is no file"),
        (("pairs.tsv", "king"), "holds no word vectors that can be read: its first line is '# first second"),
        ((".", "king"), "is no run directory: it has no config.json"),
        (("../run_v1", "king"), "is a run of ImageClassification, which has no word vectors"),
    ],
)
def test_requests_that_cannot_be_met_are_one_line(arguments, message, capsys):
    file, *rest = arguments
    assert run("similar", STORED / file, *rest) in (1, 2)
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_file_of_word_vectors_is_no_run(capsys):
    assert run("evaluate", STORED / "word2vec.txt") == 2
    told = capsys.readouterr().err
    assert "but a file; one of word vectors is evaluated by --pairs or --analogies" in told


def test_evaluation_of_a_file(capsys):
    files = ("--pairs", STORED / "pairs.tsv", "--analogies", STORED / "questions.txt")
    assert run("evaluate", STORED / "word2vec.txt", *files) == 0
    told = capsys.readouterr().out
    pairs = word_vectors.evaluate_word_pairs(load(STORED / "word2vec.txt"), STORED / "pairs.tsv")
    assert f"{pairs.spearman:.4f}" in told and f"{pairs.pearson:.4f}" in told
    *sections, total = word_vectors.evaluate_analogies(
        load(STORED / "word2vec.txt"), STORED / "questions.txt"
    )
    assert all(section.section in told for section in sections)
    assert f"{100 * total.added / total.questions:.1f} %" in told and "total" in told


def test_vectors_go_from_each_format_to_the_others(tmp_path, capsys):
    for format in ("word2vec", "word2vec-binary", "glove", "fasttext"):
        file = tmp_path / f"{format}.vectors"
        assert run("export", STORED / "word2vec.bin", file, "--format", format) == 0
        assert capsys.readouterr().out == f"{format}: {file}\n"
        np.testing.assert_array_equal(load(file).vectors, load(STORED / "word2vec.bin").vectors)
    assert run("export", file, tmp_path / "glove.vectors", "--format", "word2vec") == 2
    assert "would be written over" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("format", "names"),
    [
        ("word2vec", "vectors.txt"),
        ("word2vec-binary", "vectors.bin"),
        ("glove", "vectors.txt"),
        ("fasttext", "vectors.bin vectors.vec"),
    ],
)
def test_a_directory_has_the_files_that_others_expect(format, names, tmp_path, capsys):
    assert run("export", STORED / "word2vec.txt", tmp_path / "out", "--format", format) == 0
    written = ", ".join(str(tmp_path / "out" / name) for name in names.split())
    assert capsys.readouterr().out == f"{format}: {written}\n"
    assert run("similar", tmp_path / "out", "king", "--top", "2") == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == names.split()
    for file in (tmp_path / "out").iterdir():
        np.testing.assert_array_equal(load(file).vectors, load(STORED / "word2vec.txt").vectors)
    assert run("export", STORED / "word2vec.txt", tmp_path / "out", "--format", format) == 2
    assert run("export", tmp_path / "missing.txt", tmp_path / "none", "--format", format) != 0
    assert not (tmp_path / "none").exists()


def test_ngrams_go_along(tmp_path):
    rng = np.random.default_rng(0)
    own, buckets = (rng.normal(size=(rows, 4)).astype(np.float32) for rows in (2, 9))
    save(tmp_path / "a.bin", KeyedVectors.of_ngrams(["ab", "cd"], Ngrams(own, buckets)), "fasttext")
    assert run("export", tmp_path / "a.bin", tmp_path / "b.bin", "--format", "fasttext") == 0
    np.testing.assert_array_equal(load(tmp_path / "b.bin")["abc"], load(tmp_path / "a.bin")["abc"])


def test_a_map_of_the_words_of_a_file(tmp_path, capsys):
    (tmp_path / "words.txt").write_text("king\nkings\n\ntable\r\nunheard\nking\n", encoding="utf-8-sig")
    assert run("plot", STORED / "word2vec.bin", "--words", tmp_path / "words.txt") == 0
    told = capsys.readouterr().out
    assert told == f"not in the vocabulary, so left out: unheard\n{tmp_path / 'word_map_words.png'}\n"
    assert (tmp_path / "word_map_words.png").read_bytes().startswith(b"\x89PNG")
    for words, known in (("king\n", 1), ("unheard\n", 0)):
        (tmp_path / "words.txt").write_text(words)
        assert run("plot", STORED / "word2vec.bin", "--words", tmp_path / "words.txt") == 2
        assert f"a map has 3 to 400 words; {known} are given" in capsys.readouterr().err
    (tmp_path / "words.txt").write_bytes(b"\xff\n")
    assert run("plot", STORED / "word2vec.bin", "--words", tmp_path / "words.txt") == 1
    assert "words.txt: it is no UTF-8" in capsys.readouterr().err


class OfWords:
    """A run whose task has word vectors."""

    def __init__(self, path):
        self.directory, self.task, self.state = path, self, self

    def evaluation_params(self):
        return {"input": np.eye(3)}

    def keyed_vectors(self, params, run):
        return KeyedVectors((run.directory / "words").read_text().split(), params["input"] + 0.1)


def test_vectors_of_a_run_are_those_its_task_gives(tmp_path, capsys, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "words").write_text("a b c")
    monkeypatch.setattr(word_vectors, "SavedRun", OfWords)
    assert embeddings.open_vectors(str(tmp_path / "run")).index_to_key == ["a", "b", "c"]
    assert embeddings.vectors_of_run(str(tmp_path / "run")).index_to_key == ["a", "b", "c"]
    assert len(embeddings.open_vectors(str(STORED / "word2vec.txt"))) == 60
    assert run("similar", tmp_path / "run", "a") == 0
    assert "b" in capsys.readouterr().out
    (tmp_path / "list").write_text("a\nb\nc\n")
    assert run("plot", tmp_path / "run", "--words", tmp_path / "list") == 0
    assert (tmp_path / "run" / "plots" / "word_map_list.png").exists()
