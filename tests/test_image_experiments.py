"""The experiments that generate images, on a folder of pictures, and what they refuse."""

import math

import numpy as np
import pytest
from PIL import Image

from experiments import digits_gan, mnist_diffusion, mnist_gan, mnist_vae
from jaxgen import SavedRun
from jaxgen.errors import UsageError
from jaxgen.image_commands import class_number
from jaxgen.models import Generator
from jaxgen.run import run

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Pictures of 8 x 8 of the classes 2 and 4, of which the first is class 0."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, brightness in (("2", 60), ("4", 190)):
        (folder / name).mkdir()
        for number in range(20):
            pixels = rng.integers(brightness, brightness + 60, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def trained(experiment, photos, workdir, **options):
    given = {"data": str(photos), "steps": 3, "batch_size": 8, "workdir": workdir, **options}
    run(experiment, experiment.options(**given))
    return SavedRun(workdir)


def test_adversarial_networks_learn_a_folder_of_pictures(photos, tmp_path):
    """Its pictures for validation are looked at in the end: a game has no loss that tells the best state."""
    saved = trained(mnist_gan.EXPERIMENT, photos, tmp_path / "run", channels=(8, 16), conditional=True)
    result = saved.directory.result()
    assert int(saved.state.step) == 3
    assert result["train/generator/diversity"] > 0
    assert math.isfinite(result["test/margin"])
    assert class_number(saved, "4") == 1


@pytest.mark.parametrize("options", [{"until_converged": True}, {"validation_fraction": 0.1}])
def test_games_know_no_best_state(options, tmp_path, data_dir):
    experiment = digits_gan.EXPERIMENT
    given = experiment.options(data_dir=data_dir, workdir=tmp_path / "run", **options)
    with pytest.raises(UsageError, match="is not for games, whose losses"):
        run(experiment, given)


def test_classes_of_an_autoencoder_have_the_folders_names(photos, tmp_path):
    options = {"conditional": True, "widths": (8,), "num_latents": 3}
    saved = trained(mnist_vae.EXPERIMENT, photos, tmp_path / "run", **options)
    assert class_number(saved, "2") == 0
    with pytest.raises(UsageError, match="there is no class 1: the run has classes 2, 4"):
        class_number(saved, "1")


def test_diffusion_is_evaluated_as_in_its_run(photos, tmp_path):
    """Times and noise of an evaluation are the images' own, neither the run's nor the step's."""
    options = {"channels": (8, 16), "patch_size": 1, "seed": 5, "ema_decay": None}
    saved = trained(mnist_diffusion.EXPERIMENT, photos, tmp_path / "run", **options)
    figures = saved.evaluate({"validation": saved.source("validation").held()})
    assert figures["validation/loss"] == pytest.approx(saved.directory.result()["validation/loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("experiment", "options", "message"),
    [
        (mnist_gan, {"discriminator_steps": 0}, "discriminator_steps must be at least 1, not 0"),
        (mnist_gan, {"conditioning": "batch_norm"}, "give --conditional with it"),
        (mnist_diffusion, {"guidance": 3.0, "conditional": False}, "--guidance leads to a class"),
        (mnist_diffusion, {"guidance": math.nan}, "guidance is nan; it must be a number"),
        (mnist_vae, {"architecture": "convolutional", "channels": (8,) * 4}, "--image-size"),
    ],
)
def test_options_that_can_not_be_meant(experiment, options, message, photos, tmp_path):
    with pytest.raises(UsageError, match=message):
        trained(experiment.EXPERIMENT, photos, tmp_path / "run", **options)


def test_generators_of_impossible_images():
    for options, message in (
        ({"image_shape": (28, 28)}, "height, width and channels"),
        ({"num_classes": -1}, "num_classes is -1"),
    ):
        with pytest.raises(UsageError, match=message):
            Generator(**options)
