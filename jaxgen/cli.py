"""The command line: `jaxgen list | evaluate | plot | predict | embed | sample | translate | compare | ...`."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

from tyro.conf import OmitArgPrefixes, Positional, arg
from tyro.extras import SubcommandApp

from jaxgen.cli_files import export, import_weights, prepare
from jaxgen.cli_generate import (
    QualityOptions,
    evaluate_images,
    interpolate,
    reconstruct,
    refuse_others,
    sample,
)
from jaxgen.errors import UsageError, unknown
from jaxgen.experiment import experiments
from jaxgen.fine_tune_config import FineTuneConfig
from jaxgen.run import guard

_app = SubcommandApp()
_data = SubcommandApp()
_app.command(_data, name="data", help="Prepare data sets.")

_COMMANDS = (
    "average-checkpoints",
    "compare",
    "data",
    "embed",
    "evaluate",
    "export",
    "fine-tune",
    "import",
    "interpolate",
    "list",
    "plot",
    "predict",
    "reconstruct",
    "sample",
    "similar",
    "translate",
)
_READ_AND_WRITE = ("PrefixLanguageModelling", "SequenceToSequence", "SpanCorruption")
_Run = Annotated[Positional[Path], arg(metavar="RUN")]


@_app.command(name="list")
def list_experiments() -> None:
    """List the experiments: what each trains, on what, its presets, how long it takes, and the figure it reaches."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_lines=True)
    table.add_column("experiment", no_wrap=True)
    for column in ("what it trains", "on what", "time", "reference result"):
        table.add_column(column)
    for experiment in experiments():
        name = "\n".join([experiment.name, *(f"--preset {preset}" for preset in experiment.presets)])
        table.add_row(name, experiment.summary, experiment.data, experiment.time, experiment.reference)
    console = Console()
    console.print(table)
    console.print("Run one with: python -m experiments.NAME (--help shows its options)", highlight=False)


@_app.command
def evaluate(
    run: _Run,
    split: tuple[str, ...] = (),
    data: str | None = None,
    truncate: bool = False,
    beam: int = 1,
    length_penalty: float = 1.0,
    pairs: Path | None = None,
    analogies: Path | None = None,
    images: Annotated[QualityOptions, OmitArgPrefixes] = QualityOptions(),  # noqa: B008
    data_dir: Path | None = None,
) -> None:
    """Evaluate a saved run again, from its directory alone, or a model of texts on any text or table of texts.

    What an encoder-decoder writes for pairs of texts is scored, and kept in samples/ of the run directory as a CSV.
    Generated images are compared with real ones, beside other real ones, and the figures kept in image_quality.json.

    Args:
        run: the run directory; with --pairs and --analogies also a file of word vectors.
        split: splits to evaluate: train, validation, test; by default all but train.
        data: another text, or table of texts: the path of a file or directory, of which all is read, or a set, of which
            its test split is.
        truncate: cut texts of such a table off that are longer than those that the run was trained on may be.
        beam: hypotheses of the search for what is written; with 1 it is greedy.
        length_penalty: of the search; above 0 favours long texts, below 0 short ones.
        pairs: pairs of words judged by people, to compare word vectors with: word TAB word TAB number, such as
            wordsim353.tsv.
        analogies: questions to word vectors, four words a line, such as questions-words.txt.
        images: of runs that generate images.
        data_dir: where prepared sets lie; by default TFDS_DATA_DIR, or tfds's own directory.
    """
    if pairs is not None or analogies is not None:
        from jaxgen.word_vectors import open_vectors, print_word_evaluation

        print_word_evaluation(open_vectors(run), pairs, analogies)
        return
    from jaxgen.image_samples import GeneratesImages
    from jaxgen.print_evaluation import print_evaluation
    from jaxgen.saved_run import SavedRun

    saved = SavedRun(run, data_dir)
    if isinstance(saved.task, GeneratesImages) and data is None:
        if (truncate, beam, length_penalty) != (False, 1, 1.0):
            raise UsageError(
                "--truncate, --beam and --length-penalty are for texts, and the run generates images"
            )
        evaluate_images(saved, images, split, data_dir)
        return
    refuse_others(images, "the run generates no images")
    print_evaluation(saved, split, data, truncate, beam, length_penalty)


@_app.command
def plot(
    run: _Run,
    text: str | None = None,
    unit: tuple[int, ...] = (),
    words: Path | None = None,
    data_dir: Path | None = None,
) -> None:
    """Draw a saved run's plots: curves, and what its task has to show.

    Args:
        run: the run directory; with --words also a file of word vectors.
        text: a text to show a model's attention over, or its hidden units, these also here; a T5 reads it, and writes.
        unit: the hidden units to show; by default those that vary most.
        words: a file of words, to draw a map of, by their vectors.
        data_dir: where prepared sets lie; by default TFDS_DATA_DIR, or tfds's own directory.
    """
    if words is not None:
        from jaxgen.word_vectors import plot_words

        plot_words(run, words)
        return
    from jaxgen.plot_text import plot_text
    from jaxgen.saved_run import SavedRun

    if text is not None or unit:
        plot_text(SavedRun(run, data_dir), text or "", unit)
        return
    for path in SavedRun(run, data_dir).plot():
        print(path)


@_app.command
def predict(
    run: _Run,
    inputs: Annotated[Positional[tuple[str, ...]], arg(metavar="FILE ...")],
    output: Path | None = None,
    truncate: bool = False,
    data_dir: Path | None = None,
) -> None:
    """Predict the classes of pictures or texts: a table, and a CSV of all probabilities; or fill masks in.

    Of pictures there is a sheet beside the CSV. A classifier of texts takes texts in the place of files, or one file of
    them, FILE.tsv: a text a line, or text TAB label. A masked language model fills [MASK] in. An encoder-decoder writes
    for texts, or for those of FILE.tsv (see `jaxgen translate`), the likeliest token each time, as `jaxgen evaluate`
    does: of a file a CSV, with scores where it has targets. For better texts by beam search take `jaxgen translate`.

    Args:
        run: the run directory.
        inputs: pictures (PNG, JPEG, BMP, GIF), and folders of them; or texts, or FILE.tsv.
        output: where the CSV goes; by default predictions.csv in the run directory.
        truncate: cut texts off that are longer than the model's context, or, where it writes, than those of its
            training.
        data_dir: where prepared sets lie; by default TFDS_DATA_DIR, or tfds's own directory.
    """
    from jaxgen import predict as prediction
    from jaxgen import text_predictions
    from jaxgen.saved_run import SavedRun
    from jaxgen.translate import print_written

    saved = SavedRun(run, data_dir)
    kind = saved.config["task"]["kind"]
    if kind == "MaskedLanguageModelling":
        text_predictions.print_filled(saved, inputs, output, truncate)
    elif kind == "TextClassification":
        text_predictions.print_classes(saved, inputs, output, truncate)
    elif kind in _READ_AND_WRITE:
        print_written(saved, inputs, output, truncate)
    else:
        prediction.print_predictions(saved, tuple(map(Path, inputs)), output)


@_app.command(name="fine-tune")
def fine_tune(run: _Run, config: Annotated[FineTuneConfig, OmitArgPrefixes]) -> None:
    """Fine-tune a run's BERT to tell classes of texts, or its T5 to write a text for another: a new run directory.

    Args:
        run: the run directory, trained or imported.
        config: the options.
    """
    from jaxgen.fine_tune import fine_tune

    fine_tune(run, config, shlex.join(["jaxgen", *sys.argv[1:]]))


@_app.command
def embed(
    run: _Run,
    texts: Annotated[Positional[tuple[str, ...]], arg(metavar="TEXT ...")],
    output: Path | None = None,
    truncate: bool = False,
) -> None:
    """Give a vector for each text, the mean of what a BERT makes of its tokens, of length 1: a line each.

    Args:
        run: a run directory, or one with a BERT in Hugging Face's files.
        texts: any number.
        output: a file for the vectors instead, .npy, float32 [texts, width].
        truncate: cut texts off that are longer than the model's context.
    """
    from jaxgen.encoding import Encoder, print_vectors

    print_vectors(Encoder.open(run), texts, output, truncate)


@_app.command
def similar(
    vectors: Annotated[Positional[Path], arg(metavar="RUN-OR-FILE")],
    words: Annotated[Positional[tuple[str, ...]], arg(metavar="[WORD ...]")] = (),
    top: int = 10,
    plus: tuple[str, ...] = (),
    minus: tuple[str, ...] = (),
) -> None:
    """Give the words nearest to others by their vectors: a table for each word, or one for a sum of words.

    Args:
        vectors: a run directory, or a file: word2vec's text or binary, GloVe's, fastText's .vec or .bin.
        words: any number.
        top: how many words.
        plus: words to add up instead, such as king woman.
        minus: words to take off, such as man.
    """
    from jaxgen.similar import print_similar

    print_similar(vectors, words, plus, minus, top)


@_app.command
def translate(
    run: _Run,
    inputs: Annotated[Positional[tuple[str, ...]], arg(metavar="TEXT ...")],
    beam: int = 5,
    length_penalty: float = 1.0,
    num_samples: int = 1,
    max_tokens: int | None = None,
    direction: str | None = None,
    truncate: bool = False,
    output: Path | None = None,
) -> None:
    """Translate texts, or those of a file, by a run that reads a text and writes another: by beam search, a line each.

    For the scores of a table with targets take `jaxgen predict`, or `jaxgen evaluate`.

    Args:
        run: the run directory.
        inputs: texts, or FILE.txt, a text a line (an empty one stays empty), or FILE.tsv, source or source TAB target;
            of a table with all --columns that the run was trained on, those are read, in their order.
        beam: hypotheses that are followed; 1 takes the likeliest token each time.
        length_penalty: above 0 favours long texts, below 0 short ones.
        num_samples: the best texts for each, at most as many as beams, with scores: log-probability a token.
        max_tokens: new tokens of a text, at most; by default as many as the run was trained to write.
        direction: from what to what it must be, such as en-es; refused where the run translates another way.
        truncate: cut texts off that are longer than those that the run was trained on; one of --cut-off does so always.
        output: a PNG for the attention of one text, or a new file for the lines.
    """
    from jaxgen.saved_run import SavedRun
    from jaxgen.translate import print_translations

    print_translations(
        SavedRun(run),
        inputs,
        num_beams=beam,
        length_penalty=length_penalty,
        num_samples=num_samples,
        max_tokens=max_tokens,
        direction=direction,
        truncate=truncate,
        output=output,
    )


@_app.command
def compare(
    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN RUN ...")],
    output: Path | None = None,
) -> None:
    """Compare runs: a table of their options and figures, and one plot of their curves.

    Of what runs wrote for the same pairs of texts there is a test whether one is better than the first by more than
    chance, and a plot by length.

    Args:
        runs: the run directories.
        output: where the plot goes, a PNG; by default comparison.png beside the first run.
    """
    from jaxgen.compare import print_comparison

    print_comparison(runs, output)


@_app.command(name="average-checkpoints")
def average_checkpoints(
    run: _Run, last: int = 5, output: Path | None = None, data_dir: Path | None = None
) -> None:
    """Average the parameters of a run's last checkpoints: a new run directory, with its figures beside the run's.

    Args:
        run: the run directory, which stays as it is.
        last: how many checkpoints; the run has as many as its --keep told, and the best one.
        output: the new run directory; by default RUN-average.
        data_dir: where prepared sets lie; by default TFDS_DATA_DIR, or tfds's own directory.
    """
    from jaxgen.averaging import print_average

    print_average(run, last, output, data_dir)


_app.command(name="import")(import_weights)
_app.command(export)
_app.command(sample)
_app.command(interpolate)
_app.command(reconstruct)
_data.command(prepare)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits with its code: 0 done, 1 failure, 2 usage."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    rest = [argument for argument in arguments if argument != "--debug"] or ["--help"]
    guard(lambda: _carry_out(rest), debug="--debug" in arguments)


def _carry_out(arguments: list[str]) -> None:
    command = arguments[0]
    if not command.startswith("-") and command not in _COMMANDS:
        raise unknown("command", command, _COMMANDS)
    _app.cli(args=arguments, prog="jaxgen")
