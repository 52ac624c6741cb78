"""Experiments: what one is made of, the options that all share, and how its options become a run's parts."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jaxgen.augment import Augmentation
from jaxgen.data.sources import Source
from jaxgen.errors import JaxgenError, UsageError, unknown
from jaxgen.optim import OptimizerConfig, Schedule
from jaxgen.run_directory import RunDirectory

# Where --learning-rate isn't given: what is usual for the optimiser, by its Optax name.
_LEARNING_RATES = {
    "sgd": 0.1,
    "momentum": 0.02,
    "adagrad": 0.02,
    "adadelta": 1.0,
    "lion": 1e-4,
    "sm3": 0.1,
    "rprop": 1e-3,
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The options that every experiment has; each gives them its own defaults."""

    preset: str | None = None
    """Other defaults of the options, by name: see above. Options on the command line still count."""
    data: str
    """The data set: an embedded one (digits, diabetes), a tfds name, or the path of a folder of pictures."""
    data_dir: Path | None = None
    """Where prepared sets lie. By default TFDS_DATA_DIR, or tfds's own directory."""
    train_split: str = "train"
    """What to train on, in tfds notation: train, train[:90%], train[55000:]."""
    test_split: str = "test"
    """What to test on, in tfds notation."""
    workdir: Path | None = None
    """The run directory; one that holds this run is gone on with. By default runs/EXPERIMENT/DATE-TIME."""
    epochs: int = 10
    """Length of the run, in passes over the training split."""
    steps: int | None = None
    """Length of the run in steps, instead of epochs."""
    batch_size: int = 64
    """Examples a step, over all devices."""
    seed: int = 0
    """Seed of the parameters, the order of the examples, and all other randomness."""
    optimizer: str = "adam"
    """Any Optax optimiser by its Optax name (adam, adamw, sgd, lion, ...), or momentum."""
    learning_rate: float | None = None
    """Peak learning rate. By default what is usual for the optimiser: 1e-3; sgd 0.1, momentum 0.02, lion 1e-4."""
    schedule: str = "constant"
    """How the learning rate changes: constant, cosine, linear, inverse_sqrt or piecewise."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0 to its peak."""
    final_fraction: float = 0.0
    """What cosine and linear come down to, as a part of the peak learning rate."""
    beta1: float | None = None
    """For adam, adamw and their kin: part of the mean of gradients that is kept from step to step."""
    beta2: float | None = None
    """For adam, adamw and their kin: part of the mean of squared gradients that is kept from step to step."""
    weight_decay: float = 0.0
    """Decay of weights (not of biases and scales), for optimisers that have it, else added."""
    clip_norm: float | None = None
    """Clip gradients to this global norm."""
    ema_decay: float | None = None
    """Keep a moving average of the parameters with this decay, and evaluate with it."""
    accumulate: int = 1
    """Microbatches a step, for batches that don't fit in memory at once."""
    validation_fraction: float = 0.0
    """Part of the training split, from its end, that is held out for validation."""
    until_converged: bool = False
    """Stop when what chooses the best state no longer gets better, the validation loss or the score of what is written
    for pairs of texts, and take that state; holds out a tenth if nothing is."""
    patience: int = 3
    """With --until-converged: evaluations without a better loss, or score, before the run stops."""
    report_every: int | None = None
    """Steps between reports of training figures. By default ten an epoch, and at least every 100 steps."""
    evaluate_every: int | None = None
    """Steps between evaluations. By default an epoch."""
    checkpoint_every: int | None = None
    """Steps between checkpoints. By default as often as evaluations, but at least 15 seconds apart."""
    keep: int = 2
    """How many of the last checkpoints to keep; the one with the best validation loss stays as well."""
    steps_per_call: int | None = None
    """Steps in one call of the device, where the data lies there. By default as often as reports."""
    input: Literal["auto", "device", "host"] = "auto"
    """Where batches are made: on the device if the set is small (auto), or by Grain's threads on the host."""
    smoke: bool = False
    """A trial run of a few steps on data that needs no network."""
    debug: bool = False
    """Show tracebacks instead of one-line errors."""

    def settled(self) -> "TrainConfig":
        """Gives the options with what others make of those that weren't given; raises UsageError where they clash."""
        return self

    def within(self, examples: int) -> "TrainConfig":
        """Gives the options for a training split of so many examples."""
        return self


@dataclass(frozen=True, kw_only=True)
class PictureConfig(TrainConfig):
    """The options of the experiments on images."""

    data: str = "mnist"
    """The data set: mnist, digits (no network), any tfds set of images, or a folder with a subfolder a class."""
    image_size: tuple[int, ...] | None = None
    """Height and width that images are resized to; one number for squares. By default they stay as they are."""
    image_channels: Literal[1, 3] | None = None
    """What images are converted to: 1 for grey, 3 for colour. By default they stay as they are."""


@dataclass(frozen=True, kw_only=True)
class ImageConfig(PictureConfig):
    """The options of the experiments that classify images."""

    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    """What is minimised: cross-entropy, or mean squared error on one-hot targets."""
    label_smoothing: float = 0.0
    """Part of each label that is spread evenly over all classes."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Random changes of the images in training."""


@dataclass(frozen=True, kw_only=True)
class DenseImageConfig(ImageConfig):
    """The options of image classifiers that have hidden dense layers."""

    widths: tuple[int, ...] = (128,)
    """Widths of the hidden dense layers."""
    activation: str = "relu"
    """Activation of the hidden layers."""
    dropout: float = 0.0
    """Part of the hidden dense layers' activations that is dropped in training."""
    batch_norm: bool = False
    """Normalise the hidden layers over the batch."""


@dataclass(frozen=True)
class Experiment:
    """One runnable experiment.

    Attributes:
        name: the module's name in `experiments`.
        config: its options, a subclass of `TrainConfig`.
        task: makes the task from the options and the training source.
        summary: what it trains, in one line.
        data: on what.
        time: how long it takes, and on what machine.
        reference: the figure it reaches.
        needs: what an example of the data must have; a text needs nothing to be said.
        smoke: options that make a trial run of it.
        recipes: other defaults of the options, by data set.
        presets: other defaults of the options, by name, for `--preset`; complete ones, so that they take the
            place of the data set's recipe.
        baselines: simple rivals' figures, from the task, and the sources to train and to test on.
        split_host: whether a CPU is split into devices that share each batch; see `jaxgen.parallel.split_host`.
        then: what comes after the run: it is given the options and the run directory.
    """

    name: str
    config: type[TrainConfig]
    task: Callable[[Any, Any], Any]
    summary: str
    data: str
    time: str
    reference: str
    needs: tuple[str, ...] = ()
    smoke: Mapping[str, Any] = field(default_factory=dict)
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    baselines: Callable[[Any, Source, Source], dict[str, float]] | None = None
    split_host: bool = False
    then: Callable[[Any, RunDirectory], None] | None = None

    def options(self, **given: Any) -> TrainConfig:
        """Gives the options: what is given, else a trial run's, the preset's or the data set's, else the usual ones.

        Raises:
            UsageError: for a preset that the experiment doesn't have.
        """
        usual: Any = self.config  # a dataclass: its attributes are the defaults
        trial = {"steps": 20, "report_every": 5, **self.smoke} if given.get("smoke") else {}
        preset = given.get("preset")
        if preset is None:
            defaults = self.recipes.get({**trial, **given}.get("data", usual.data), {})
        elif preset in self.presets:
            defaults = self.presets[preset]
        elif self.presets:
            raise unknown("preset", preset, self.presets)
        else:
            raise UsageError(f"{self.name} has no presets")
        if trial:  # a warm-up that fits into it
            trial["warmup_steps"] = min(defaults.get("warmup_steps", usual.warmup_steps), 5)
        return self.config(**{**defaults, **trial, **given})

    def usual(self, config: TrainConfig) -> Any:
        """Gives the options of which nothing is given but what others' defaults depend on, as it is in these."""
        return self.options(smoke=config.smoke, preset=config.preset, data=config.data)


def experiments() -> list[Experiment]:
    """Finds the experiments.

    Raises:
        JaxgenError: where the `experiments` package is not there.
    """
    try:
        package = importlib.import_module("experiments")
    except ModuleNotFoundError as error:
        raise JaxgenError(
            "there is no `experiments` package here: run this in a checkout of jaxgen"
        ) from error
    modules = [
        importlib.import_module(f"experiments.{m.name}") for m in pkgutil.iter_modules(package.__path__)
    ]
    return [module.EXPERIMENT for module in modules if hasattr(module, "EXPERIMENT")]


def command_line(options: Mapping[str, Any], prefix: str = "--") -> str:
    """Writes options, by field name, as one would on the command line; of nested ones what isn't the default."""
    written = []
    for field_name, value in options.items():
        name = f"{prefix}{field_name.replace('_', '-')}"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            usual = type(value)()
            changed = {
                inner.name: getattr(value, inner.name)
                for inner in dataclasses.fields(value)
                if getattr(value, inner.name) != getattr(usual, inner.name)
            }
            written.append(command_line(changed, f"{name}."))
        elif isinstance(value, bool):
            written.append(name if value else f"{prefix}no-{name.removeprefix(prefix)}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            written.append(" ".join([name, *map(str, values)]))
    return " ".join(written)


def optimizer_config(config: TrainConfig, horizon: int, usual_warmup: int | None = None) -> OptimizerConfig:
    """Makes the optimiser's configuration from an experiment's options.

    Args:
        config: the options.
        horizon: the run's length in steps.
        usual_warmup: steps of warming up where none are given; by default those of all data sets of the experiment.

    Raises:
        UsageError: for unknown names and impossible values, such as a warm-up as long as the run.
    """
    # A preset's or the usual one is meant for its own data and length; of a shorter run it takes a third at most.
    meant_for_more = config.preset or config.warmup_steps in (type(config).warmup_steps, usual_warmup)
    warmup_steps = min(config.warmup_steps, horizon // 3) if meant_for_more else config.warmup_steps
    if warmup_steps >= horizon:
        raise UsageError(f"--warmup-steps {config.warmup_steps} must be below the run's {horizon} steps")
    learning_rate = config.learning_rate
    if learning_rate is None:
        learning_rate = _LEARNING_RATES.get(config.optimizer, 1e-3)
    schedule = Schedule(
        name=config.schedule,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        horizon=None if config.schedule == "constant" else horizon,
        final_fraction=config.final_fraction,
    )
    return OptimizerConfig(
        name=config.optimizer,
        schedule=schedule,
        beta1=config.beta1,
        beta2=config.beta2,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
    )
