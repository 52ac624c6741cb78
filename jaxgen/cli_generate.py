"""Commands of `jaxgen` that let a run make something: texts, images, films of images."""

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from jaxgen.errors import UsageError

_Run = Annotated[Positional[Path], arg(metavar="RUN")]


@dataclass(frozen=True)
class TextOptions:
    """How texts are written."""

    prompt: tuple[str, ...] = ("",)
    """What to go on from, or a T5 to read; several for a text each. By default the end of a line."""
    max_tokens: int | None = None
    """New tokens of a text, at most; by default 400, or what the model's window has room for."""
    temperature: float = 1.0
    """Below 1 for likelier tokens, above for wilder ones; 0 takes the likeliest."""
    top_k: int | None = None
    """Draw from so many of the likeliest tokens only."""
    top_p: float | None = None
    """Draw from the likeliest tokens that have this probability together."""
    min_p: float | None = None
    """Draw from tokens with at least this part of the likeliest one's probability."""
    typical_p: float | None = None
    """Draw from the tokens nearest to the expected surprise, with this probability together."""
    repetition_penalty: float | None = None
    """Above 1 to make tokens that were there less likely, by this factor of their logits."""
    presence_penalty: float | None = None
    """What is taken off the logits of tokens that were there."""
    stop: tuple[str, ...] = ()
    """Strings that end a text."""
    drop_unknown: bool = False
    """Leave characters out of the prompt that the model doesn't know."""
    past_end: bool = False
    """Go on where the model writes the token that ends texts."""


@dataclass(frozen=True)
class ImageOptions:
    """What images are asked for."""

    class_: Annotated[str | None, arg(name="class")] = None
    """The class of all images, by number or name; by default each in its turn, where there are any."""
    guidance: float | None = None
    """Of diffusion, the strength of the guidance towards the class."""
    steps: int | None = None
    """Of diffusion, the steps of the sampler."""


@dataclass(frozen=True)
class QualityOptions:
    """How generated images are compared with real ones."""

    classifier: Path | None = None
    """A run of mnist_cnn or mnist_fnn on the same data: the activations of its last hidden layer are the features."""
    num_samples: int | None = None
    """Images of each kind; by default as many as there are real ones, at most 10,000."""
    seed: int = 0
    """Of what is drawn."""
    guidance: float | None = None
    """Of diffusion, the strength of the guidance towards the class."""
    steps: int | None = None
    """Of diffusion, the steps of the sampler."""


def sample(
    run: _Run,
    texts: Annotated[TextOptions, OmitArgPrefixes] = TextOptions(),
    images: Annotated[ImageOptions, OmitArgPrefixes] = ImageOptions(),
    num_samples: int | None = None,
    seed: int = 0,
    output: Path | None = None,
) -> None:
    """Let a model write, draw or foresee: texts appear as they are written, images are a sheet, frames a film.

    A film shows held-out sequences, what the model foresees from their first frames, and the last of these.

    Args:
        run: the run directory.
        texts: of a language model.
        images: of a model that generates images.
        num_samples: texts for each prompt, by default 1, images, by default 64, or sequences of frames, by default 8.
        seed: of what is drawn; image i of a seed is the same however many there are. Of sequences it chooses which.
        output: a new file that texts are written to as well; of images the sheet, a PNG, by default samples/samples.png
            in the run directory; of frames the film, a GIF, by default samples/samples.gif.
    """
    from jaxgen.films import PredictsFrames
    from jaxgen.image_samples import GeneratesImages
    from jaxgen.saved_run import SavedRun

    saved = SavedRun(run)
    if isinstance(saved.task, PredictsFrames):
        from jaxgen.image_commands import print_films

        for given in (texts, images):
            refuse_others(given, "the run predicts frames")
        print_films(saved, num_samples, seed, output)
        return
    if isinstance(saved.task, GeneratesImages):
        from jaxgen.image_commands import print_image_samples

        refuse_others(texts, "the run generates images")
        print_image_samples(saved, num_samples, seed, images.class_, images.guidance, images.steps, output)
        return
    refuse_others(images, "the run generates no images")
    _write(saved, texts, num_samples, seed, output)


def interpolate(
    run: _Run,
    from_seed: int = 1,
    to_seed: int = 2,
    frames: int = 60,
    images: Annotated[ImageOptions, OmitArgPrefixes] = ImageOptions(),
    output: Path | None = None,
) -> None:
    """Film the way from one generated image to another, their noise interpolated on the great circle through both.

    Args:
        run: the run directory.
        from_seed: its first image is where the film begins.
        to_seed: its first image is where the film ends.
        frames: of the film.
        images: what is asked for; of classes the first by default.
        output: the film, a GIF; by default samples/walk.gif in the run directory.
    """
    from jaxgen.image_commands import print_walk
    from jaxgen.saved_run import SavedRun

    seeds = (from_seed, to_seed)
    print_walk(SavedRun(run), seeds, frames, images.class_, images.guidance, images.steps, output)


def reconstruct(
    run: _Run,
    pictures: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE ...")],
    class_: Annotated[str | None, arg(name="class")] = None,
    seed: int = 0,
    output: Path | None = None,
) -> None:
    """Put pictures beside what a variational autoencoder makes of them, each pair in a row.

    Args:
        run: the run directory.
        pictures: PNG, JPEG, BMP or GIF.
        class_: what they show, by number or name, where the run was trained with classes.
        seed: of what is drawn.
        output: the sheet, a PNG; by default samples/reconstructions.png in the run directory.
    """
    from jaxgen.image_commands import print_reconstructions
    from jaxgen.saved_run import SavedRun

    print_reconstructions(SavedRun(run), pictures, seed, class_, output)


def evaluate_images(
    saved: Any, given: QualityOptions, splits: tuple[str, ...], data_dir: Path | None
) -> None:
    """Carries `jaxgen evaluate` out for a run that generates images."""
    from jaxgen.image_quality.evaluation import print_image_evaluation
    from jaxgen.saved_run import SavedRun

    if given.classifier is None:
        refuse_others(replace(given, seed=0), "images are judged by --classifier RUN")
    classifier = None if given.classifier is None else SavedRun(given.classifier, data_dir)
    print_image_evaluation(
        saved, classifier, splits, given.num_samples, given.seed, given.guidance, given.steps
    )


def refuse_others(options: Any, why: str) -> None:
    """Refuses options that are for runs of another kind, where they were given.

    Raises:
        UsageError: naming them.
    """
    given = [
        f"--{field.name.strip('_').replace('_', '-')}"
        for field in dataclasses.fields(options)
        if getattr(options, field.name) != field.default
    ]
    if given:
        verb = "is" if len(given) == 1 else "are"
        raise UsageError(f"{' and '.join(given)} {verb} of no use here: {why}")


def _write(saved: Any, texts: TextOptions, num_samples: int | None, seed: int, output: Path | None) -> None:
    from jaxgen.generate import Sampler
    from jaxgen.sample import print_samples

    sampler = Sampler.of(
        temperature=texts.temperature,
        top_k=texts.top_k,
        top_p=texts.top_p,
        min_p=texts.min_p,
        typical_p=texts.typical_p,
        repetition_penalty=texts.repetition_penalty,
        presence_penalty=texts.presence_penalty,
    )
    options = {
        "max_tokens": texts.max_tokens,
        "sampler": sampler,
        "stop_strings": texts.stop,
        "num_samples": 1 if num_samples is None else num_samples,
        "seed": seed,
        "drop_unknown": texts.drop_unknown,
        "past_end": texts.past_end,
    }
    print_samples(saved.writer, texts.prompt, options, output)
