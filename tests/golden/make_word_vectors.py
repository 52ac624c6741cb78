"""Writes word vectors as gensim saves them, and what it answers with them: `word_vectors/`.

Run it in `tests/` as `python -m golden.make_word_vectors`, with gensim installed. Beside the files of vectors there are
`pairs.tsv` and `questions.txt`, and `results.json`: answers, correlations, and n-grams.
"""

import json
import shutil
from pathlib import Path

import numpy as np
from gensim.models import FastText, KeyedVectors
from gensim.models.fasttext import ft_ngram_hashes, save_facebook_model
from gensim.models.fasttext_inner import compute_ngrams_bytes

STEMS = ("king", "straße", "воз", "東京", "table", "naïve", "run", "Berlin", "be", "o", "é", "a\u0085b")
FORMS = ("", "s", "ed", "ing")
UNSEEN = ("steamtrain", "паровоз", "rechtsschutzversicherungsgesellschaften", "東", "🚑🚒🚓🚕", "kin")
OPTIONS = [
    (folded, dummy, restricted)
    for folded in (True, False)
    for dummy in (True, False)
    for restricted in (0, 1)
]
NGRAMS = ((3, 6), (1, 3), (2, 2))
BUCKETS = 61


def make_vectors(rng, width):
    """Makes words whose forms lie in about the same direction from each other, some of them twice by case."""
    base, forms = rng.normal(size=(len(STEMS), width)), rng.normal(size=(len(FORMS), width))
    vectors = base[:, None] + forms + 0.5 * rng.normal(size=(len(STEMS), len(FORMS), width))
    words = [stem + form for stem in STEMS for form in FORMS]
    vectors = vectors.reshape(len(words), width)
    cased = rng.choice(len(words), 12, replace=False)
    words += [words[place].upper() for place in cased]
    vectors = np.concatenate([vectors, vectors[cased] + 0.3 * rng.normal(size=(12, width))])
    unique = [place for place, word in enumerate(words) if word not in words[:place]]
    order = rng.permutation(unique)
    found = KeyedVectors(width)
    found.add_vectors([words[place] for place in order], vectors[order].astype(np.float32))
    return found


def write_pairs(path, rng, words):
    """Writes judged pairs, a part of them of unknown words, or in other case; judgements with ties."""
    lines = ["# first\tsecond\tjudged"]
    for number in range(40):
        first, second = rng.choice(words, 2)
        first = first.upper() if number % 5 == 0 else first
        second = "unheard" if number % 7 == 0 else second
        lines.append(f"{first}\t{second}\t{rng.integers(0, 21) / 2}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_questions(path, rng):
    """Writes questions, a part of them with unknown words, or in other case."""
    lines = []
    for form in FORMS[1:]:
        lines.append(f": form -{form}")
        for number in range(20):
            left, right = rng.choice(STEMS, 2, replace=False)
            words = [left, left + form, right, right + form]
            words[1] = "unheard" if number % 9 == 0 else words[1]
            words = [word.upper() for word in words] if number % 4 == 0 else words
            lines.append(" ".join(words))
    # A word with a space of another kind in it would be two of the question.
    path.write_text("\n".join(line for line in lines if "\u0085" not in line) + "\n", encoding="utf-8")


def answers(vectors, rng):
    """Asks for the nearest words of sums and products of some words."""
    asked = []
    for positive, negative in ((1, 0), (2, 1), (1, 1), (3, 2)):
        words = [str(word) for word in rng.choice(vectors.index_to_key, positive + negative, replace=False)]
        given = {"positive": words[:positive], "negative": words[positive:]}
        asked.append(
            {
                **given,
                "added": vectors.most_similar(**given, topn=7),
                "restricted": vectors.most_similar(**given, topn=7, restrict_vocab=9),
                "multiplied": vectors.most_similar_cosmul(**given, topn=7),
                "odd": vectors.doesnt_match([*words, *vectors.index_to_key[:2]]),
                "similarity": float(vectors.similarity(words[0], words[-1])),
            }
        )
    return asked


def evaluations(vectors, directory):
    """Evaluates with every combination of gensim's options."""
    found = []
    for folded, dummy, restricted in OPTIONS:
        options = {
            "case_insensitive": folded,
            "dummy4unknown": dummy,
            "restrict_vocab": 40 if restricted else 300_000,
        }
        pearson, spearman, unknown = vectors.evaluate_word_pairs(str(directory / "pairs.tsv"), **options)
        _, sections = vectors.evaluate_word_analogies(str(directory / "questions.txt"), **options)
        counts = [[row["section"], len(row["correct"]), len(row["incorrect"])] for row in sections]
        found.append(
            {
                "options": options,
                "pearson": float(pearson[0]),
                "spearman": float(spearman[0]),
                "unknown_percent": float(unknown),
                "sections": counts,
            }
        )
    return found


def write_fasttext(directory, rng, width):
    """Trains a small model and writes it as fastText would; gives what it knows."""
    texts = [[str(word) for word in rng.choice(STEMS, 6)] for _ in range(30)]
    model = FastText(
        texts,
        vector_size=width,
        bucket=BUCKETS,
        min_count=1,
        epochs=1,
        workers=1,
        seed=1,
        window=3,
        negative=4,
    )
    save_facebook_model(model, str(directory / "fasttext.bin"))
    known = model.wv.index_to_key
    return {
        "words": known,
        "counts": [int(model.wv.get_vecattr(word, "count")) for word in known],
        "vectors": model.wv.vectors.tolist(),
        "output": model.syn1neg.tolist(),
        "unseen": {word: model.wv[word].tolist() for word in UNSEEN},
    }


def write(directory, seed=0, width=6):
    """Writes files of vectors and results into a new directory."""
    directory.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    vectors = make_vectors(rng, width)
    vectors.save_word2vec_format(str(directory / "word2vec.txt"))
    vectors.save_word2vec_format(str(directory / "word2vec.bin"), binary=True)
    vectors.save_word2vec_format(str(directory / "glove.txt"), write_header=False)
    write_pairs(directory / "pairs.tsv", rng, vectors.index_to_key)
    write_questions(directory / "questions.txt", rng)
    results = {
        "words": vectors.index_to_key,
        "vectors": vectors.vectors.tolist(),
        "answers": answers(vectors, rng),
        "evaluations": evaluations(vectors, directory),
        "fasttext": write_fasttext(directory, rng, width),
        "ngrams": [
            {
                "word": word,
                "shortest": shortest,
                "longest": longest,
                "ngrams": [ngram.hex() for ngram in compute_ngrams_bytes(word, shortest, longest)],
                "buckets": [int(bucket) for bucket in ft_ngram_hashes(word, shortest, longest, 2_000_000)],
            }
            for word in (*STEMS, *UNSEEN)
            for shortest, longest in NGRAMS
        ],
    }
    (directory / "results.json").write_text(json.dumps(results) + "\n", encoding="utf-8")


def main():
    """Writes the directory."""
    directory = Path(__file__).with_name("word_vectors")
    shutil.rmtree(directory, ignore_errors=True)
    write(directory)


if __name__ == "__main__":
    main()
