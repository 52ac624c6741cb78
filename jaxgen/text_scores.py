"""Scores of written texts against those that should have been written."""

from collections.abc import Sequence

from jaxgen.errors import JaxgenError


def rouge(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Gives ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), the F-measures averaged over all pairs, in per cent.

    They are counted by the package `rouge-score` on lowercase words and numbers, without their endings (Porter 1980).

    Args:
        hypotheses: what was written.
        references: what should have been, one for each.

    Returns:
        `rouge1`, `rouge2` and `rougeL`, from 0 to 100.

    Raises:
        JaxgenError: for no texts, or another number of references.
    """
    from rouge_score.rouge_scorer import RougeScorer

    if not hypotheses or len(hypotheses) != len(references):
        raise JaxgenError(f"there are {len(hypotheses)} texts to score against {len(references)}: give pairs")
    names = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(names, use_stemmer=True)
    scores = [scorer.score(*pair) for pair in zip(references, hypotheses, strict=True)]
    return {name: 100 * sum(score[name].fmeasure for score in scores) / len(scores) for name in names}
