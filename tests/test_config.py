"""Descriptions of runs: what goes into config.json comes back as it was."""

import json

import pytest

from jaxgen.augment import Augmentation
from jaxgen.config import completed, describe, differences, rebuild
from jaxgen.errors import JaxgenError
from jaxgen.models import ConvNet, FeedForward
from jaxgen.optim import OptimizerConfig, Schedule
from jaxgen.tasks import ImageClassification, Regression


@pytest.mark.parametrize(
    "value",
    [
        ImageClassification(
            FeedForward(widths=(3, 2), num_classes=4, dropout=0.5), "mse", class_names=("a", "b")
        ),
        ImageClassification(ConvNet(channels=(3,), num_classes=4), pixel_range=(0.0, 1.0)),
        ImageClassification(
            ConvNet(convolutions=2, padding="SAME"),
            augmentation=Augmentation(shift=2.0, cutout=4, flip=True, fill="edge"),
        ),
        Regression(
            FeedForward(num_classes=1), feature_mean=(1.0, 2.5), feature_scale=(1.0, 1.0), target_scale=3.0
        ),
        OptimizerConfig("adamw", Schedule("cosine", 1e-3, warmup_steps=3, horizon=100), weight_decay=0.1),
    ],
)
def test_round_trip_through_json(value):
    assert rebuild(json.loads(json.dumps(describe(value)))) == value


def test_a_users_own_class_is_named_and_refused():
    class Own(FeedForward):
        pass

    described = describe(ImageClassification(Own()))
    assert described["model"]["kind"].endswith("Own")
    with pytest.raises(JaxgenError, match="not part of jaxgen"):
        rebuild(described)


def test_unknown_class_and_field_are_one_line():
    with pytest.raises(JaxgenError, match="did you mean FeedForward"):
        rebuild({"kind": "FeedForwrd"})
    with pytest.raises(JaxgenError, match="depth"):
        rebuild({"kind": "FeedForward", "depth": 3})


def test_differences_name_the_fields():
    before, after = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}}
    assert differences(before, after) == ["a.c: 2 -> 4", "d: 3 -> None"]
    assert differences(before, before) == []


def test_fields_younger_than_a_description_have_their_defaults():
    task = ImageClassification(ConvNet(channels=(3,)), label_smoothing=0.1)
    described = describe(task)
    older = json.loads(json.dumps(described))
    del older["augmentation"], older["model"]["convolutions"], older["model"]["padding"]
    assert rebuild(older) == task
    assert completed(older) == described
    own = {"kind": "somewhere:Own", "width": 3, "model": older["model"]}
    assert completed(own) == {**own, "model": described["model"]}
