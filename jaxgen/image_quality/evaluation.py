"""`jaxgen evaluate` for runs that generate images: their quality beside that of real images, and likelihood bounds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Int64

from jaxgen.data.pipeline import evaluation_batches
from jaxgen.data.sources import Source
from jaxgen.errors import UsageError
from jaxgen.files import read_json, write_json
from jaxgen.image_quality.features import Classifier, how_to_train
from jaxgen.image_quality.measures import measure, rows
from jaxgen.image_samples import ImageGenerator, seed_rng
from jaxgen.metrics import Metric
from jaxgen.saved_run import SavedRun
from jaxgen.train.evaluate import read_metrics, shorten_queue
from jaxgen.train.hooks import format_figures, say

if TYPE_CHECKING:
    from rich.table import Table

MOST_SAMPLES = 10_000
"""Samples where no number is given, and there are as many real images."""

# Samples of the importance-weighted bound, as it is usually reported (Burda et al. 2016), and examples at a time.
_BOUND_SAMPLES, _BOUND_BATCH = 50, 50
_FILE = "image_quality.json"
# What makes two evaluations the same one, of which the later counts.
_SETTINGS = ("state_step", "split", "num_samples", "seed", "guidance", "steps")


def print_image_evaluation(
    run: SavedRun,
    classifier: SavedRun | None,
    splits: Sequence[str] = (),
    num_samples: int | None = None,
    seed: int = 0,
    guidance: float | None = None,
    steps: int | None = None,
) -> None:
    """Prints the figures of a run that generates images, and keeps those of quality in `image_quality.json` there.

    Args:
        run: the run.
        classifier: what gives features; without one there are only the task's own figures.
        splits: splits whose real images are compared with; by default the test split.
        num_samples: images of each kind; by default as many as there are real ones, at most `MOST_SAMPLES`.
        seed: of what is drawn, and of the choice of real images.
        guidance: as for `jaxgen.image_samples.sample_images`.
        steps: the same.

    Raises:
        UsageError: for a classifier of another data set, and what the run can't do.
        JaxgenError: where the data can't be had.
    """
    judge = None if classifier is None else Classifier(classifier)
    if judge is not None:
        judge.check_data(run)
    say(f"{run.config.get('experiment') or run.directory.path}, step {int(run.state.step)}")
    for split in splits or (run.default_split,):
        source, record = run.source(split).held(), None
        if judge is not None:  # first, since it may be asked for what can't be done
            record = evaluate_images(run, judge, split, source, num_samples, seed, guidance, steps)
        if figures := own_figures(run, split, source, seed):
            say("  ".join(format_figures(figures)))
        if record is not None:
            _keep(run.directory.path / _FILE, record)
            _print(record, getattr(run.task, "class_names", ()))
            say(str(run.directory.path / _FILE))
    if judge is None:
        say(f"for the quality of its images name a classifier, --classifier RUN; {_train(run)}")


def own_figures(run: SavedRun, split: str, source: Source, seed: int) -> dict[str, float]:
    """Gives a task's own figures of a split: those of its loss, and bounds of the likelihood, where it has any."""
    figures = run.evaluate({split: source}) if hasattr(run.task, "loss") else {}
    if not hasattr(run.task, "bound"):
        return figures
    params, model_state = run.state.evaluation_params(), run.state.model_state
    compiled = jax.jit(run.task.bound, static_argnames="num_samples")
    for number in (1, _BOUND_SAMPLES):
        sums: list[Mapping[str, Metric]] = []
        for index, batch in enumerate(evaluation_batches(source, _BOUND_BATCH)):
            rng = jax.random.fold_in(seed_rng(seed), index)
            mean = compiled(params, model_state, rng, batch, num_samples=number)
            sums.append({f"bound_{number}": mean})
            shorten_queue(sums)
        figures |= read_metrics(sums, split)
    return figures


def evaluate_images(
    run: SavedRun,
    judge: Classifier,
    split: str,
    source: Source,
    num_samples: int | None = None,
    seed: int = 0,
    guidance: float | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """Compares generated images with held-out real ones, and as many real ones of the training split with the same.

    Classes are asked for as often as the held-out images have them.

    Returns:
        What is kept as JSON: the settings, the classifier's identity, and `generated` and `real`, see `measure`.

    Raises:
        UsageError: for more samples than there are real images, and what the run can't do.
    """
    train = run.source("train")
    number = _number(split, min(len(source), len(train)), num_samples)
    held_out, floor = (one.gather(_chosen(one, number, seed)) for one in (source, train))
    labels = held_out["label"] if run.task.num_classes else None
    images = ImageGenerator(run.task).sample(run.state, number, seed, labels, guidance=guidance, steps=steps)
    seen = judge(held_out["image"])
    num_classes = max(source.num_classes, int(held_out["label"].max()) + 1)
    return {
        "state_step": int(run.state.step),
        "split": split,
        "num_samples": number,
        "seed": seed,
        "guidance": guidance,
        "steps": steps,
        "classifier": {
            **judge.identity,
            "accuracy": float((seen.classes == held_out["label"]).mean()),
        },
        "generated": measure(judge(images), labels, seen, num_classes, seed),
        "real": measure(judge(floor["image"]), floor["label"], seen, num_classes, seed),
    }


def _number(split: str, available: int, wanted: int | None) -> int:
    """Gives how many images of each kind are compared."""
    if split == "train":
        raise UsageError(
            "generated images are compared with real ones that were held out: not with --split train"
        )
    number = min(MOST_SAMPLES, available) if wanted is None else wanted
    if not 4 <= number <= available:
        raise UsageError(
            f"num samples is {number}; there are real images to compare with for 4 to {available:,}"
        )
    return number


def _chosen(source: Source, number: int, seed: int) -> Int64[np.ndarray, " images"]:
    return np.sort(np.random.default_rng(seed).choice(len(source), number, replace=False))


def _keep(path: Path, record: dict[str, Any]) -> None:
    """Adds an evaluation to a run's file, in the place of one with the same settings."""
    before = read_json(path) if path.is_file() else []
    write_json(path, [*(one for one in before if _settings(one) != _settings(record)), record])


def _settings(record: dict[str, Any]) -> list[Any]:
    return [*(record.get(name) for name in _SETTINGS), record["classifier"]["weights"]]


def _print(record: dict[str, Any], class_names: Sequence[str]) -> None:
    from rich.console import Console

    judge = record["classifier"]
    say(
        f"features of {judge['run']} ({judge['experiment']}, step {judge['step']}, weights {judge['weights'][:12]}; "
        f"{100 * judge['accuracy']:.2f} % of the {record['split']} images right): not comparable with others"
    )
    console = Console()
    console.print(_table(record))
    console.print(_table_of_classes(record, class_names))


def _table(record: dict[str, Any]) -> "Table":
    from rich.table import Table

    table = Table(
        f"{record['num_samples']:,} images against the {record['split']} split",
        "generated",
        "real, of training",
    )
    for row in rows(record["generated"], record["real"]):
        table.add_row(*row)
    return table


def _table_of_classes(record: dict[str, Any], class_names: Sequence[str]) -> "Table":
    from rich.table import Table

    generated = record["generated"]
    asked = generated.get("class_accuracy")
    table = Table("class", *(["recognised as asked"] if asked else []), "share of images")
    for class_, share in enumerate(generated["class_shares"]):
        right = [] if not asked else ["-" if asked[class_] is None else f"{100 * asked[class_]:.2f} %"]
        name = class_names[class_] if class_ < len(class_names) else str(class_)
        table.add_row(name, *right, f"{100 * share:.1f} %")
    return table


def _train(run: SavedRun) -> str:
    return how_to_train(run.config["data"]["name"])
