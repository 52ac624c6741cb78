"""Commands of `jaxgen` that make runs and data sets of others' files, and files for others of runs."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


def import_weights(
    directory: Annotated[Positional[Path], arg(metavar="DIR")],
    run: Annotated[Positional[Path], arg(metavar="RUN_DIR")],
) -> None:
    """Make a run directory of a GPT-2, BERT or T5 in Hugging Face's files: config.json, safetensors, a tokenizer.

    Args:
        directory: where the files lie.
        run: the new run directory.
    """
    from jaxgen.pretrained.runs import import_run

    import_run(directory, run)
    print(f"run directory: {run}")


def export(
    run: Annotated[Positional[Path], arg(metavar="RUN")],
    directory: Annotated[Positional[Path], arg(metavar="DIR")],
    format: Literal["huggingface", "word2vec", "word2vec-binary", "glove", "fasttext"] | None = None,
) -> None:
    """Write a run's model and tokenizer in the files that others open, such as transformers by from_pretrained.

    Args:
        run: the run directory; for word vectors also a file of them.
        directory: a new directory for the files; for word vectors also a new file, such as vectors.txt.
        format: whose files; fasttext is its .bin, word2vec also its .vec. By default huggingface, of word vectors
            word2vec.
    """
    from jaxgen.word_vectors import convert, has_word_vectors

    if format is None:
        format = "word2vec" if has_word_vectors(run) else "huggingface"
    if format != "huggingface":
        convert(run, directory, format)
        return
    from jaxgen.pretrained.runs import export_run
    from jaxgen.saved_run import SavedRun

    if note := export_run(SavedRun(run), directory):
        print(note)
    print(f"{format}: {directory}")


def prepare(
    name: Annotated[Positional[str], arg(metavar="NAME")],
    from_dir: Annotated[Path | None, arg(name="from")] = None,
    data_dir: Path | None = None,
) -> None:
    """Prepare a data set: download it through tfds, or import its original files with no network.

    Args:
        name: the tfds name, such as mnist.
        from_dir: a directory with the set's original idx files, gzipped or raw, to import.
        data_dir: where prepared sets lie; by default TFDS_DATA_DIR, or tfds's own directory.
    """
    from jaxgen.data import prepare as prepare_data

    print(prepare_data(name, from_dir=from_dir, data_dir=data_dir))
