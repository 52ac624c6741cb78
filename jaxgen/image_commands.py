"""What `jaxgen sample`, `interpolate` and `reconstruct` do with runs of images and frames: sheets and films."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jaxgen.errors import JaxgenError, UsageError, unknown
from jaxgen.films import NUM_SEQUENCES, choose, write_film
from jaxgen.image_samples import ImageGenerator, Images, sample_images, seed_rng, sheet_columns
from jaxgen.image_sheets import enlarged, output_path, save_film, save_png, sheet
from jaxgen.predict import see
from jaxgen.saved_run import SavedRun
from jaxgen.train.hooks import say

NUM_SAMPLES = 64
_FRAME = 50  # milliseconds


def print_image_samples(
    run: SavedRun,
    num_samples: int | None,
    seed: int,
    class_: str | None,
    guidance: float | None,
    steps: int | None,
    output: Path | None,
) -> None:
    """Draws images, writes a sheet of them, and prints its file.

    Args:
        run: of a task that generates images.
        num_samples: how many; by default `NUM_SAMPLES`.
        seed: of what is drawn.
        class_: the class of them all, by number or name; by default each in its turn, where there are any.
        guidance: as for `sample_images`.
        steps: the same.
        output: the PNG; by default `samples/samples.png` in the run directory.

    Raises:
        UsageError: for what the run can't do, and where something else would be written over.
    """
    path = output_path(run.directory, output, "samples.png")
    label = class_number(run, class_)
    number = NUM_SAMPLES if num_samples is None else num_samples
    images = sample_images(run, number, seed, label, guidance=guidance, steps=steps)
    columns = sheet_columns(run.task.num_classes if label is None else 0)
    save_png(path, sheet(images, columns))
    say(str(path))


def print_films(run: SavedRun, num_samples: int | None, seed: int, output: Path | None) -> None:
    """Writes a film of sequences that a run wasn't trained on and what it predicts of them, and prints its file.

    Args:
        run: of a task that predicts frames.
        num_samples: how many; by default `NUM_SEQUENCES`.
        seed: chooses them.
        output: the GIF; by default `samples/samples.gif` in the run directory.

    Raises:
        UsageError: for what can't be, and where something else would be written over.
        JaxgenError: where the data can't be had.
    """
    path = output_path(run.directory, output, "samples.gif")
    videos = choose(
        run.source(run.default_split), NUM_SEQUENCES if num_samples is None else num_samples, seed
    )
    write_film(path, run.task, run.state, videos)
    say(str(path))


def print_walk(
    run: SavedRun,
    seeds: tuple[int, int],
    frames: int,
    class_: str | None,
    guidance: float | None,
    steps: int | None,
    output: Path | None,
) -> None:
    """Writes a film of the way from one seed's first image to another's, and prints its file.

    Args:
        run: of a task that generates images.
        seeds: from which to which.
        frames: of the film.
        class_: as for `print_image_samples`; by default the first, where there are any.
        guidance: as for `sample_images`.
        steps: the same.
        output: the GIF; by default `samples/walk.gif` in the run directory.

    Raises:
        UsageError: for what the run can't do, and where something else would be written over.
    """
    path = output_path(run.directory, output, "walk.gif")
    generator, label = ImageGenerator(run.task), class_number(run, class_)
    images = generator.walk(run.state, seeds, frames, label, guidance=guidance, steps=steps)
    save_film(path, list(enlarged(images)), [_FRAME] * len(images))
    say(str(path))


def print_reconstructions(
    run: SavedRun, pictures: Sequence[Path], seed: int, class_: str | None, output: Path | None
) -> None:
    """Writes a sheet of pictures, each as the model sees it beside what it makes of it, and prints its file.

    Args:
        run: of a task that encodes images, a variational autoencoder.
        pictures: picture files, which are made what the training images are, as `jaxgen predict` does.
        seed: of what is drawn.
        class_: of what the pictures show, by number or name, where the run was trained with classes.
        output: the PNG; by default `samples/reconstructions.png` in the run directory.

    Raises:
        UsageError: for a run of another kind, a class that is missing or unknown, and where something else would be
            written over.
        JaxgenError: for a file that can't be read.
    """
    if not hasattr(run.task, "reconstruct"):
        raise UsageError(
            f"a run of {type(run.task).__name__} reconstructs no images: that takes a variational autoencoder, such as "
            "mnist_vae"
        )
    if not pictures:
        raise UsageError("give the pictures to reconstruct")
    label = class_number(run, class_)
    if run.task.num_classes and label is None:
        raise UsageError("the run was trained with classes: say by --class what the pictures show")
    path = output_path(run.directory, output, "reconstructions.png")
    found = [see(picture, run.example["image"].shape[1:], run.strokes) for picture in pictures]
    if errors := [one for one in found if isinstance(one, JaxgenError)]:
        raise errors[0]
    images = np.stack([one.image for one in found if not isinstance(one, JaxgenError)])
    made = _reconstructed(run, images, seed, label)
    pairs = np.stack([images, made], axis=1).reshape(-1, *images.shape[1:])
    save_png(path, sheet(pairs, columns=2))
    say(str(path))


def class_number(run: SavedRun, given: str | None) -> int | None:
    """Gives the number of a class that a person names by number or by name.

    Raises:
        UsageError: for an unknown one, and where the run has no classes.
    """
    if given is None:
        return None
    num_classes = getattr(run.task, "num_classes", 0)
    if not num_classes:
        raise UsageError("the run was trained without classes, and can't be asked for one: leave out --class")
    names = getattr(run.task, "class_names", ())
    if given in names:
        return list(names).index(given)
    if not given.isdecimal():
        raise unknown("class", given, names or [f"0 to {num_classes - 1}"])
    if names and all(name.isdecimal() for name in names):  # it would be taken for another class
        raise UsageError(f"there is no class {given}: the run has classes {', '.join(names)}")
    if int(given) >= num_classes:
        raise UsageError(f"there is no class {given}: the run has classes 0 to {num_classes - 1}")
    return int(given)


def _reconstructed(run: SavedRun, images: Images, seed: int, label: int | None) -> Images:
    """Gives a variational autoencoder's reconstructions of images."""
    state, scaled = run.state, (images / 255).astype(np.float32)
    labels = () if label is None else (np.full(len(images), label, np.int32),)
    made = jax.jit(run.task.reconstruct)(
        state.evaluation_params(), state.model_state, seed_rng(seed), scaled, *labels
    )
    return np.asarray(np.round(255 * np.clip(jax.device_get(made), 0, 1)).astype(np.uint8))
