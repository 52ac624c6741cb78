"""Scores of texts: known values, and what can't be scored."""

import pytest
from rouge_score.rouge_scorer import RougeScorer

from jaxgen.errors import JaxgenError
from jaxgen.text_scores import bleu, exact, rouge, signatures

NAMES = ["rouge1", "rouge2", "rougeL"]


def test_known_values():
    # Of six words each five are in both, in order; of five pairs of words three.
    found = rouge(["The cat sat on the mat."], ["the cat is on the mat"])
    assert found == pytest.approx({"rouge1": 100 * 5 / 6, "rouge2": 60, "rougeL": 100 * 5 / 6})
    # The order counts for pairs and for the longest common subsequence alone.
    assert rouge(["b a"], ["a b"]) == pytest.approx({"rouge1": 100, "rouge2": 0, "rougeL": 50})
    # Recall is 2 / 4, precision 2 / 2.
    assert rouge(["returned files"], ["return a list files"])["rouge1"] == pytest.approx(100 * 2 / 3)


def test_words_are_of_any_script_and_of_ascii_as_ever():
    for text in ("привет мир", "el árbol ñandú", "שלום עולם"):
        assert rouge([text.upper() + "!"], [text]) == pytest.approx(dict.fromkeys(NAMES, 100))
    assert rouge(["el arbol"], ["el árbol"])["rouge1"] == pytest.approx(50)
    hypothesis = "Returns 2nd snake_case name's caresses, skies_."
    reference = "return the SNAKE case (names) - caress sky 2nd"
    of_package = RougeScorer(NAMES, use_stemmer=True).score(reference, hypothesis)
    found = {name: 100 * score.fmeasure for name, score in of_package.items()}
    assert rouge([hypothesis], [reference]) == pytest.approx(found) and 20 < found["rougeL"] < 80


def test_average_over_pairs_and_nothing_written_is_0():
    assert rouge(["a b", ""], ["a b", "c d"]) == pytest.approx({"rouge1": 50, "rouge2": 50, "rougeL": 50})


@pytest.mark.parametrize(("hypotheses", "references"), [([], []), (["a"], ["a", "b"])])
def test_no_pairs(hypotheses, references):
    with pytest.raises(JaxgenError, match=rf"{len(hypotheses)} texts to score against {len(references)}"):
        rouge(hypotheses, references)


def test_bleu_and_chrf_are_of_all_texts_together():
    texts = ["the cat sat on the mat .", "a dog ran"]
    assert bleu(texts, texts) == pytest.approx({"bleu": 100, "chrf": 100})
    found = bleu(
        ["the cat sat on the red mat", "a dog ran away"], ["the cat sat on the mat", "a dog ran away"]
    )
    # Of 11 words 10 are right, of 9 pairs 7, of 7 threes 5, of 5 fours 3; nothing is too short.
    assert found["bleu"] == pytest.approx(100 * (10 / 11 * 7 / 9 * 5 / 7 * 3 / 5) ** 0.25)
    assert 70 < found["chrf"] < 100
    assert signatures("bleu")["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|")
    assert signatures("rouge")["rouge"].startswith("rouge-score|version:") and not signatures("exact")


def test_exact_texts_are_counted():
    assert exact(["a", "b ", "c"], ["a", "b", "c"]) == {"exact_accuracy": pytest.approx(2 / 3)}
