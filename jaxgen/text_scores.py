"""Scores of written texts against those that should have been written."""

import importlib.metadata
import re
from collections.abc import Callable, Sequence
from typing import Any

from jaxgen.errors import JaxgenError

_WORD = re.compile(r"[^\W_]+")  # letters and digits


def rouge(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Gives ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), the F-measures averaged over all pairs, in per cent.

    They are counted by the package `rouge-score` on lowercase words and numbers, without their endings (Porter 1980).
    Words are of any script's letters; of ASCII's they are those of the package, which knows no others.

    Args:
        hypotheses: what was written.
        references: what should have been, one for each.

    Returns:
        `rouge1`, `rouge2` and `rougeL`, from 0 to 100.

    Raises:
        JaxgenError: for no texts, or another number of references.
    """
    from rouge_score.rouge_scorer import RougeScorer

    _check(hypotheses, references)
    names = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(names, tokenizer=_Words())
    scores = [scorer.score(*pair) for pair in zip(references, hypotheses, strict=True)]
    return {name: 100 * sum(score[name].fmeasure for score in scores) / len(scores) for name in names}


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Gives BLEU (Papineni et al. 2002) and chrF (Popovic 2015) of all texts together, by sacrebleu.

    Args and Raises are those of `rouge`.

    Returns:
        `bleu` and `chrf`, from 0 to 100; `signatures` tells of which kind they are.
    """
    _check(hypotheses, references)
    return {
        name: metric.corpus_score(hypotheses, [references]).score for name, metric in corpus_metrics().items()
    }


def signatures(scored_by: str) -> dict[str, str]:
    """Tells of which kind scores are, so that figures of others can be compared: sacrebleu's, and one of ROUGE."""
    if scored_by == "rouge":
        version = importlib.metadata.version("rouge-score")
        return {"rouge": f"rouge-score|version:{version}|measure:f1|stemmer:yes|tok:unicode|mean of pairs"}
    found: dict[str, str] = {}
    for name, metric in corpus_metrics().items() if scored_by == "bleu" else ():
        metric.corpus_score(["a"], [["a"]])  # it is complete only after use
        found[name] = str(metric.get_signature())
    return found


def corpus_metrics() -> dict[str, Any]:
    """Gives sacrebleu's metrics of `bleu`, by the names of the figures."""
    from sacrebleu.metrics import BLEU, CHRF

    return {"bleu": BLEU(), "chrf": CHRF()}


def exact(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Gives the part of the texts that are just as they should be, from 0 to 1, as `exact_accuracy`; see `rouge`."""
    _check(hypotheses, references)
    equal = sum(ours == theirs for ours, theirs in zip(hypotheses, references, strict=True))
    return {"exact_accuracy": equal / len(references)}


SCORES: dict[str, Callable[[Sequence[str], Sequence[str]], dict[str, float]]] = {
    "rouge": rouge,
    "bleu": bleu,
    "exact": exact,
}
CHOSEN_BY = {"rouge": "rougeL", "bleu": "bleu", "exact": "exact_accuracy"}
"""Of each, the figure by which the best state is chosen."""


class _Words:
    """Finds the words of texts for `RougeScorer`."""

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self._stem = PorterStemmer().stem

    def tokenize(self, text: str) -> list[str]:
        """Gives words in lower case, those of more than three letters without their endings."""
        words = _WORD.findall(text.lower())
        return [self._stem(word) if len(word) > 3 else word for word in words]


def _check(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if not hypotheses or len(hypotheses) != len(references):
        raise JaxgenError(f"there are {len(hypotheses)} texts to score against {len(references)}: give pairs")
