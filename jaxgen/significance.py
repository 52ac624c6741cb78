"""Whether one run writes better than another, or was luckier with the texts of a split: the paired bootstrap.

Koehn (2004), "Statistical significance tests for machine translation evaluation", in the form of sacrebleu: both runs
are scored on 1000 resamples of the split, the same for both. The p-value is the part of them in which the size of the
difference is above its mean by more than the difference on the split itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxgen.metrics import AnyArray
from jaxgen.text_scores import CHOSEN_BY, SCORES, corpus_metrics

RESAMPLES = 1000
_SEED = 12345  # sacrebleu's own
Scores = Float[AnyArray, " examples"]


@dataclass(frozen=True)
class Standing:
    """How a run stands by one score.

    Attributes:
        score: on the whole split.
        low: the lower end of the score's 95 % interval.
        high: the upper end.
        difference: to the first run; None for this one itself.
        p_value: of the difference.
    """

    score: float
    low: float
    high: float
    difference: float | None = None
    p_value: float | None = None


def paired_bootstrap(
    hypotheses: Mapping[str, Sequence[str]], targets: Sequence[str], scored_by: str
) -> dict[str, dict[str, Standing]]:
    """Compares what runs wrote, each with the first one.

    Args:
        hypotheses: run to its texts; two runs at least.
        targets: what should have been written, one for each.
        scored_by: `bleu`, by sacrebleu's own test; `rouge` or `exact`, of which each text has a score.

    Returns:
        Score to run to how it stands: `bleu` and `chrf`, `rougeL`, or `exact_accuracy`, in their usual units.
    """
    if scored_by == "bleu":
        return _of_corpora(hypotheses, targets)
    name = CHOSEN_BY[scored_by]
    of_each = {
        run: np.array(
            [SCORES[scored_by]([text], [target])[name] for text, target in zip(texts, targets, strict=True)]
        )
        for run, texts in hypotheses.items()
    }
    return {name: of_means(of_each)}


def of_means(scores: Mapping[str, Scores]) -> dict[str, Standing]:
    """Compares runs by the mean of their examples' scores, each with the first one.

    Args:
        scores: run to the scores of the same examples.
    """
    from sacrebleu.significance import estimate_ci

    of_each = {run: np.asarray(values) for run, values in scores.items()}
    first, *_ = of_each.values()
    drawn = np.random.default_rng(_SEED).choice(len(first), size=(RESAMPLES, len(first)))
    resampled_first = first[drawn].mean(axis=1)
    found = {}
    for number, (run, own) in enumerate(of_each.items()):
        resampled = own[drawn].mean(axis=1)
        mean, half = map(float, estimate_ci(resampled))
        score, difference = float(own.mean()), float(own.mean() - first.mean())
        distances = np.abs(resampled - resampled_first)
        further = int((distances - distances.mean() > abs(difference)).sum())
        paired = (difference, _p_value((further + 1) / (RESAMPLES + 1), difference)) if number else ()
        found[run] = Standing(score, mean - half, mean + half, *paired)
    return found


def _of_corpora(
    hypotheses: Mapping[str, Sequence[str]], targets: Sequence[str]
) -> dict[str, dict[str, Standing]]:
    from sacrebleu.significance import PairedTest

    metrics = corpus_metrics()
    systems: list[tuple[str, Sequence[str]]] = [(run, list(texts)) for run, texts in hypotheses.items()]
    test: Any = PairedTest(systems, metrics, [list(targets)], test_type="bs", n_samples=RESAMPLES)
    _, results = test()
    del results["System"]  # their names; the rest is by the metrics' own names, in their order
    found: dict[str, dict[str, Standing]] = {}
    for name, of_runs in zip(metrics, results.values(), strict=True):
        found[name] = {}
        for run, result in zip(hypotheses, of_runs, strict=True):
            difference = float(result.score - of_runs[0].score)
            p_value = result.p_value
            paired = () if p_value is None else (difference, _p_value(p_value, difference))
            low, high = float(result.mean - result.ci), float(result.mean + result.ci)
            found[name][run] = Standing(float(result.score), low, high, *paired)
    return found


def _p_value(found: float, difference: float) -> float:
    """Corrects the p-value of no difference at all, of which sacrebleu's count makes the lowest there is."""
    return found if difference else 1.0
