"""Evaluations of word vectors: gensim's figures, a slow loop's, and files that can't be used."""

from pathlib import Path

import numpy as np
import pytest
from golden.word_vectors_agreement import check_evaluations

from jaxgen.embeddings import KeyedVectors, evaluate_analogies, evaluate_word_pairs
from jaxgen.embeddings.evaluation import Analogies
from jaxgen.errors import JaxgenError

GOLDEN = Path(__file__).parents[1] / "golden" / "word_vectors"


def test_figures_are_those_of_gensim():
    check_evaluations(GOLDEN)


def grid(rng, stems=12, forms=3, width=6):
    """Makes words `s0f0`, ... with forms in about one direction; some twice, in capitals."""
    vectors = (
        rng.normal(size=(stems, 1, width))
        + rng.normal(size=(forms, width))
        + 0.5 * rng.normal(size=(stems, forms, width))
    )
    words = [f"s{stem}f{form}" for stem in range(stems) for form in range(forms)]
    vectors = vectors.reshape(-1, width)
    twice = rng.choice(len(words), 9, replace=False)
    words += [words[place].upper() for place in twice]
    vectors = np.concatenate([vectors, vectors[twice] + 0.2 * rng.normal(size=(9, width))])
    order = rng.permutation(len(words))
    return KeyedVectors([words[place] for place in order], vectors[order].astype(np.float32))


def answer_slowly(vectors, words, limit, folded, multiply):
    """Looks at one word after the other; None where a word of the question is unknown."""
    fold = str.upper if folded else str
    known = {}
    for index, word in enumerate(vectors.index_to_key[:limit]):
        known.setdefault(fold(word), index)
    if any(fold(word) not in known for word in words):
        return None
    units = vectors.vectors / np.linalg.norm(vectors.vectors, axis=1, keepdims=True)
    a, b, c = (units[known[fold(word)]] for word in words[:3])
    best, answer = -np.inf, None
    for index, word in enumerate(vectors.index_to_key[:limit]):
        if fold(word) in map(fold, words[:3]):
            continue
        unit = units[index]
        score = unit @ (b + c - a)
        if multiply:
            score = (1 + unit @ b) / 2 * (1 + unit @ c) / 2 / ((1 + unit @ a) / 2 + 1e-6)
        if score > best:
            best, answer = score, fold(word)
    return answer == fold(words[3])


@pytest.mark.parametrize(("folded", "limit"), [(True, None), (False, None), (True, 30), (False, 30)])
def test_analogies_are_answered_as_by_looking_at_each_word(tmp_path, folded, limit):
    rng = np.random.default_rng(4)
    vectors = grid(rng)
    lines, wanted = [], {}
    for section in ("one", "two"):
        lines.append(f": {section}")
        counts = wanted[section] = [0, 0, 0, 0]
        for number in range(40):
            left, right = rng.choice(12, 2, replace=False)
            form = 1 if section == "one" else 2
            words = [f"s{left}f0", f"s{left}f{form}", f"s{right}f0", f"s{right}f{form}"]
            words = [word.upper() if number % 3 == 0 else word for word in words]
            words[2] = "unheard" if number % 11 == 0 else words[2]
            lines.append(" ".join(words))
            right = [answer_slowly(vectors, words, limit, folded, multiply) for multiply in (False, True)]
            counts[3] += right[0] is None
            counts[0] += right[0] is not None
            counts[1] += bool(right[0])
            counts[2] += bool(right[1])
    path = tmp_path / "questions.txt"
    path.write_text("// of one's own\n" + "\n".join(lines) + "\n\n")
    options = {"case_insensitive": folded, "restrict_vocab": limit}
    found = evaluate_analogies(vectors, path, **options)
    total = np.sum(list(wanted.values()), axis=0)
    assert found == [
        Analogies(name, *map(int, counts)) for name, counts in (*wanted.items(), ("total", total))
    ]
    assert 0 < total[1] < total[0]
    asked = evaluate_analogies(vectors, path, **options, dummy4unknown=True)
    assert [row.questions for row in asked] == [40, 40, 80]
    assert [row.added for row in asked] == [row.added for row in found]


def test_questions_without_a_section_have_one(tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text("s0f0 s0f1 s1f0 s1f1\n")
    first, total = evaluate_analogies(grid(np.random.default_rng(0)), path)
    assert (first.section, first.questions, total.section, total.questions) == ("", 1, "total", 1)


def test_correlations_of_ranks_with_ties(tmp_path):
    vectors = KeyedVectors(["a", "b", "c", "d"], np.array([[1.0, 0], [1, 1], [0, 1], [1, 0]]))
    path = tmp_path / "pairs.tsv"
    path.write_text("# remark\na\tb\t5\na\tc\t1\na\td\t5\nA\tnone\t3\n\r\n")
    found = evaluate_word_pairs(vectors, path)
    # Ranks 2.5 1 2.5 of the judgements and 2 1 3 of the cosines.
    assert found.spearman == pytest.approx(np.sqrt(3) / 2)
    assert found.pearson == pytest.approx(np.corrcoef([5, 1, 5], [np.sqrt(0.5), 0, 1])[0, 1])
    assert (found.pairs, found.unknown) == (3, 1)
    assert evaluate_word_pairs(vectors, path, dummy4unknown=True).pairs == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\n", r"line 1 is no word TAB word TAB number: 'a b'"),
        ("#\na\tb\t1\na b 3\n", "line 3 is no word TAB word TAB number"),
        ("a\tb\tnan\n", "line 1 is no"),
        ("a\tb\t1\tc\n", "line 1 is no"),
        ("", "has 0 pairs of words that are in the vocabulary, and 0 that aren't: too few"),
        ("a\tx\t1\ny\tb\t2\n", "has 0 pairs of words that are in the vocabulary, and 2 that aren't"),
        ("a\tb\t1\na\tc\t1\n", "too much alike"),
    ],
)
def test_pairs_that_cannot_be_used_are_told(tmp_path, text, message):
    path = tmp_path / "pairs.tsv"
    path.write_text(text)
    with pytest.raises(JaxgenError, match=message):
        evaluate_word_pairs(KeyedVectors(["a", "b", "c"], np.eye(3) + 0.1), path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (": s\na b c\n", "line 2 is no four words, or : and the name of a section: 'a b c'"),
        (": s\na b c x\n", "has 1 questions, and in none are all four words in the vocabulary"),
        (": s\n", "has 0 questions"),
    ],
)
def test_analogies_that_cannot_be_used_are_told(tmp_path, text, message):
    path = tmp_path / "questions.txt"
    path.write_text(text)
    with pytest.raises(JaxgenError, match=message):
        evaluate_analogies(KeyedVectors(["a", "b", "c"], np.eye(3)), path)


def test_files_that_are_no_text_are_told(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_bytes(b"a\tb\t1\nsch\xf6n\tb\t2\n")
    vectors = KeyedVectors(["a", "b"], np.eye(2))
    with pytest.raises(JaxgenError, match=r"is no text in UTF-8: .* at byte 9"):
        evaluate_word_pairs(vectors, path)
    with pytest.raises(JaxgenError, match=r"could not read .*none: No such file"):
        evaluate_analogies(vectors, tmp_path / "none")


def test_a_question_all_of_whose_answers_are_left_out_is_wrong(tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text("a b c a\n")
    (_, total) = evaluate_analogies(KeyedVectors(["a", "b", "c", "A"], np.eye(4)), path)
    assert (total.questions, total.added, total.multiplied) == (1, 0, 0)
