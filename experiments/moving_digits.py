"""Video: two digits fly about in a frame and bounce at its walls; what will the next frames be?

python -m experiments.moving_digits                              # convolutional LSTM on MNIST's digits
python -m experiments.moving_digits --data digits                # no network
python -m experiments.moving_digits --patch-size 4 --features 64 64       # finer, slower
jaxgen sample runs/moving_digits/DATE-TIME --num-samples 8 --output film.gif      # what it foresees of test sequences

Frames of 64 x 64, 20 a sequence, as in Srivastava et al. (2015); it learns each next frame, and is tested on the last
ten from the first ten alone as well. Figures are of a frame, those of copying the last known frame beside them.
"""

from dataclasses import dataclass, replace

from jaxgen.data import Source
from jaxgen.experiment import Experiment, TrainConfig
from jaxgen.models import ConvLSTM
from jaxgen.run import main
from jaxgen.tasks import FramePrediction


@dataclass(frozen=True, kw_only=True)
class Config(TrainConfig):
    """A convolutional LSTM over frames of moving digits."""

    data: str = "mnist"
    """Whose digits move: mnist, or digits (no network)."""
    frame_size: int = 64
    """Height and width of the frames; the digits are of 28 x 28."""
    num_frames: int = 20
    """Frames of a sequence."""
    given: int = 10
    """Frames that it goes on from in evaluation, by its own predictions."""
    epochs: int = 3
    """Length of the run, in passes over the training split."""
    batch_size: int = 16
    """Sequences a step, over all devices."""
    learning_rate: float | None = 3e-3
    """Peak of the learning rate."""
    schedule: str = "cosine"
    """How the learning rate changes: constant, cosine, linear, inverse_sqrt or piecewise."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises from 0 to its peak."""
    features: tuple[int, ...] = (128,)
    """Hidden channels of each layer."""
    kernel_size: int = 3
    """Of the convolutions, in patches."""
    patch_size: int = 8
    """Height and width of the squares that frames are cut into."""

    def settled(self) -> "Config":
        """Names the set of moving digits."""
        from jaxgen.data.moving import moving_name  # imports tfds, which takes a second

        return replace(self, data=moving_name(self.data, self.frame_size, self.num_frames))


def make_task(config: Config, train: Source) -> FramePrediction:
    """Makes the task for a training split: its frames."""
    model = ConvLSTM(
        frame_shape=train.shape[1:],
        features=config.features,
        kernel_size=config.kernel_size,
        patch_size=config.patch_size,
    )
    return FramePrediction(model, given=config.given)


EXPERIMENT = Experiment(
    name="moving_digits",
    config=Config,
    task=make_task,
    summary="convolutional LSTM that foresees frames of two bouncing digits",
    data="MNIST's digits, moving (--data digits: no network)",
    time="20 min, on one core",
    reference="squared error of the next frame 90, copying 189",
    needs=("video",),
    smoke={"data": "digits", "frame_size": 32, "num_frames": 12, "features": (16,), "batch_size": 16},
    split_host=True,
)

if __name__ == "__main__":
    main(EXPERIMENT)
