import subprocess
import sys
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from jaxgen import plots
from jaxgen.errors import JaxgenError

TEN = tuple("0123456789")
LINES = [{"step": 10 * n, "train/loss": 2.0 / n, "test/accuracy": 1 - 0.5 / n} for n in (1, 2, 3)]


def texts(figure):
    """All that can be read on a figure; drawn first, so that tick labels are there."""
    figure.draw_without_rendering()
    found = figure.findobj(matplotlib.text.Text)
    return [text.get_text() for text in found if text.get_text() and text.get_visible()]


def reading(figure):
    return " | ".join(texts(figure))


@pytest.fixture(scope="module")
def digits():
    """Real mistakes: images, labels and probabilities of a linear model on scans that it hasn't seen."""
    scans = load_digits()
    flat = scans.images.reshape(-1, 64)
    model = LinearDiscriminantAnalysis().fit(flat[:900], scans.target[:900])
    images = (scans.images[900:, :, :, None] * (255 / 16)).astype(np.uint8)
    return images, scans.target[900:], model.predict_proba(flat[900:])


class TestConfusionMatrix:
    def test_counts_and_accuracy(self):
        labels, predictions = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0])
        figure = plots.confusion_matrix(labels, predictions, ("cat", "dog", "owl"))
        (axes,) = figure.axes
        cells = {text.get_position(): text.get_text() for text in axes.texts}
        assert cells == {(0, 0): "2", (1, 0): "1", (1, 1): "2", (0, 2): "1"}  # (predicted, true)
        assert axes.get_title() == "accuracy 66.67 %: 4 of 6 right"
        assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "owl"]
        np.testing.assert_allclose(axes.images[0].get_array(), [[2 / 3, 1 / 3, 0], [0, 1, 0], [1, 0, 0]])

    def test_counts_can_be_read_on_their_cell(self):
        labels, predictions = np.repeat([0, 1], 100), np.repeat([0, 1, 0], [100, 60, 40])
        (axes,) = plots.confusion_matrix(labels, predictions, ("a", "b")).axes
        image = axes.images[0]
        for text in axes.texts:
            column, row = text.get_position()
            cell = np.mean(image.cmap(image.norm(image.get_array()[row, column]))[:3])
            assert abs(cell - np.mean(matplotlib.colors.to_rgb(text.get_color()))) > 0.4

    def test_a_class_without_examples_is_an_empty_row(self):
        (axes,) = plots.confusion_matrix(np.array([0, 2]), np.array([0, 1]), ("a", "b", "c")).axes
        np.testing.assert_array_equal(axes.images[0].get_array()[1], [0, 0, 0])

    @pytest.mark.parametrize(("number", "shown"), [(25, True), (26, False)])
    def test_counts_are_left_out_where_they_have_no_room(self, number, shown):
        classes = np.arange(number)
        figure = plots.confusion_matrix(classes, classes, [f"class {c}" for c in classes])
        assert bool(figure.axes[0].texts) == shown
        assert ("share of the true class" in reading(figure)) != shown

    @pytest.mark.parametrize(
        ("labels", "predictions", "message"),
        [([0, 2], [0, 0], "label 2"), ([0, 1], [0, -1], "prediction -1")],
    )
    def test_a_class_without_a_name_is_refused(self, labels, predictions, message):
        with pytest.raises(JaxgenError, match=f"{message} has no class name: there are 2"):
            plots.confusion_matrix(np.array(labels), np.array(predictions), ("a", "b"))

    def test_no_examples(self):
        nothing = np.zeros(0, np.int32)
        assert texts(plots.confusion_matrix(nothing, nothing, ("a",))) == ["no examples"]


class TestWorstMistakes:
    def test_the_most_confident_mistakes_in_order(self, digits):
        images, labels, probabilities = digits
        figure = plots.worst_mistakes(images, labels, probabilities, TEN, count=5)
        mistakes = [
            (float(row.max()), label, int(row.argmax()), image)
            for image, label, row in zip(images, labels, probabilities, strict=True)
            if row.argmax() != label
        ]
        assert len(mistakes) > 20
        expected = sorted(mistakes, key=lambda mistake: -mistake[0])[:5]
        titles = [axes.get_title() for axes in figure.axes]
        assert titles == [f"{true} → {predicted} ({100 * p:.1f} %)" for p, true, predicted, _ in expected]
        for axes, (*_, image) in zip(figure.axes, expected, strict=True):
            np.testing.assert_allclose(axes.images[0].get_array(), image[:, :, 0] / 255)
        assert f"5 most confident of {len(mistakes)} mistakes" in reading(figure)

    def test_fewer_mistakes_than_asked_for(self):
        labels, probabilities = np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
        figure = plots.worst_mistakes(np.zeros((3, 4, 4, 1), np.uint8), labels, probabilities, ("cat", "dog"))
        assert [axes.get_title() for axes in figure.axes] == ["dog → cat (80.0 %)"]
        assert "the only mistake" in reading(figure)

    def test_all_right(self, digits):
        images, _, probabilities = digits
        figure = plots.worst_mistakes(images, probabilities.argmax(1), probabilities, TEN)
        assert texts(figure) == ["no mistakes among 897 examples"]

    def test_examples_with_nan_are_left_out_and_counted(self):
        probabilities = np.array([[0.1, 0.9], [np.nan, np.nan], [0.6, 0.4], [0.2, np.inf]])
        images, labels = np.zeros((4, 4, 4, 1), np.uint8), np.array([0, 1, 1, 0])
        figure = plots.worst_mistakes(images, labels, probabilities, ("a", "b"))
        assert [axes.get_title() for axes in figure.axes] == ["a → b (90.0 %)", "b → a (60.0 %)"]
        assert "2 without finite probabilities left out" in reading(figure)

    def test_colour_images_keep_their_colours(self):
        images = np.zeros((1, 4, 4, 3), np.uint8)
        images[0, 1, 2] = [255, 51, 0]
        (axes,) = plots.worst_mistakes(images, np.array([0]), np.array([[0.1, 0.9]]), ("a", "b")).axes
        shown = axes.images[0].get_array()
        assert shown.shape == (4, 4, 3)
        np.testing.assert_allclose(shown[1, 2], [1, 0.2, 0])

    @pytest.mark.parametrize(("border", "colours"), [(0, "gray_r"), (200, "gray")])
    def test_strokes_on_black_become_ink_on_paper_photographs_stay(self, border, colours):
        images = np.full((1, 8, 8, 1), border, np.uint8)
        images[0, 3:5, 3:5] = 120
        (axes,) = plots.worst_mistakes(images, np.array([0]), np.array([[0.1, 0.9]]), ("a", "b")).axes
        assert axes.images[0].get_cmap().name == colours

    def test_float_images_are_drawn_from_lowest_to_highest(self):
        images = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 4, 4, 1)
        (axes,) = plots.worst_mistakes(images, np.array([0]), np.array([[0.1, 0.9]]), ("a", "b")).axes
        np.testing.assert_allclose(axes.images[0].get_array().ravel(), np.linspace(0, 1, 16), atol=1e-6)

    def test_long_names_stay_within_their_column(self):
        names = ("Ankle boot with laces", "Great white shark, Carcharodon carcharias")
        labels, probabilities = np.repeat([0, 1], 3), np.tile([0.2, 0.8], (6, 1))
        probabilities[3:] = [0.8, 0.2]
        figure = plots.worst_mistakes(np.zeros((6, 4, 4, 1), np.uint8), labels, probabilities, names)
        figure.draw_without_rendering()
        boxes = sorted((a.title.get_window_extent() for a in figure.axes), key=lambda box: box.x0)
        assert boxes[0].x0 >= 0
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


class TestFirstLayerFilters:
    def test_dense_weights_as_images(self):
        kernel = np.zeros((12, 2), np.float32)
        kernel[1, 0], kernel[11, 1] = 0.5, -0.5  # row 0, column 1; row 2, column 3
        figure = plots.first_layer_filters({"hidden_0": {"kernel": kernel, "bias": np.zeros(2)}}, (3, 4, 1))
        image = figure.axes[0].images[0]
        sheet = image.get_array()
        low, high = image.get_clim()
        assert low == -high  # white is zero
        assert image.cmap.name == "RdBu_r"
        enlarged = 8  # 4 pixels to 32
        np.testing.assert_array_equal(sheet[:enlarged, enlarged : 2 * enlarged], 0.5)
        np.testing.assert_array_equal(sheet[-enlarged:, -enlarged:], -0.5)
        assert np.nansum(np.abs(sheet)) == pytest.approx(2 * 0.5 * enlarged**2)
        assert "weights of the first layer, 2 units" in reading(figure)

    def test_at_most_64(self):
        figure = plots.first_layer_filters({"hidden_0": {"kernel": np.ones((16, 100))}}, (4, 4, 1))
        assert "64 of 100 units" in reading(figure)
        assert np.nansum(figure.axes[0].images[0].get_array()) == 64 * 32 * 32

    def test_a_convolution_goes_first(self):
        params = {
            "conv_0": {"kernel": np.full((3, 3, 1, 5), 2.0)},
            "conv_1": {"kernel": np.ones((3, 3, 5, 7))},
            "head": {"hidden_0": {"kernel": np.ones((16, 9))}},
        }
        assert "5 units" in reading(plots.first_layer_filters(params, (4, 4, 1)))

    def test_layer_2_comes_before_layer_10(self):
        params = {f"layer_{n}": {"kernel": np.ones((16, n))} for n in (10, 2)}
        assert "2 units" in reading(plots.first_layer_filters(params, (4, 4, 1)))

    def test_weights_on_colours_are_colours(self):
        kernel = np.zeros((3, 3, 3, 2), np.float32)
        kernel[..., 0, 0] = 1.0
        kernel[..., 0, 1] = -1.0
        sheet = (
            plots.first_layer_filters({"conv_0": {"kernel": kernel}}, (8, 8, 3)).axes[0].images[0].get_array()
        )
        np.testing.assert_allclose(sheet[0, 0], [1, 0.5, 0.5])
        np.testing.assert_allclose(sheet[0, -1], [0, 0.5, 0.5])

    @pytest.mark.parametrize(
        "params",
        [
            {"hidden_0": {"kernel": np.ones((10, 32))}, "output": {"kernel": np.ones((32, 1))}},
            {"table": {"embedding": np.ones((16, 4))}},
            {},
        ],
    )
    def test_none_where_no_layer_looks_at_pixels(self, params):
        assert plots.first_layer_filters(params, (4, 4, 1)) is None

    @pytest.mark.parametrize("value", [0.0, np.nan])
    def test_weights_of_zero_or_nan(self, value):
        figure = plots.first_layer_filters({"hidden_0": {"kernel": np.full((16, 4), value)}}, (4, 4, 1))
        figure.draw_without_rendering()

    def test_the_models_that_there_are(self):
        import jax

        from jaxgen.models import ConvNet, FeedForward

        image = np.zeros((1, 12, 12, 1), np.float32)
        for model, units in ((FeedForward(widths=(6,)), 6), (ConvNet((3, 4), widths=(5,)), 3)):
            shapes = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
            params = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
            assert f"{units} units" in reading(plots.first_layer_filters(params, (12, 12, 1)))


class TestPredictedAgainstTrue:
    def test_figures_points_and_diagonal(self):
        targets, predictions = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.0, 2.0])
        (axes,) = plots.predicted_against_true(targets, predictions).axes
        assert axes.get_title() == "R² 0.200, RMSE 1"
        np.testing.assert_array_equal(
            axes.collections[0].get_offsets(), np.stack([targets, predictions], axis=1)
        )
        assert axes.get_xlim() == axes.get_ylim()
        (line,) = axes.lines
        assert line.get_slope() == 1
        assert line.get_xy1()[0] == line.get_xy1()[1]

    def test_small_differences_of_large_numbers(self):
        # Their mean, 2**24 - 2.25, is no float32.
        targets = np.array([2**24 - 4, 2**24 - 3, 2**24 - 2, 2**24], np.float32)
        predictions = targets + np.array([1, 0, 0, 0], np.float32)
        title = plots.predicted_against_true(targets, predictions).axes[0].get_title()
        assert title == "R² 0.886, RMSE 0.5"

    def test_equal_targets_have_no_r2(self):
        figure = plots.predicted_against_true(np.full(3, 2.0), np.array([2.0, 2.0, 5.0]))
        assert figure.axes[0].get_title().startswith("R² undefined")

    def test_one_example(self):
        plots.predicted_against_true(np.array([2.0]), np.array([2.0])).draw_without_rendering()

    def test_predictions_that_are_nan_are_left_out_and_counted(self):
        figure = plots.predicted_against_true(np.array([1.0, 2.0, 3.0]), np.array([1.0, np.nan, 3.0]))
        assert "1 that aren't finite left out" in reading(figure)
        assert "R² 1.000" in reading(figure)
        assert "no predictions" in reading(plots.predicted_against_true(np.ones(2), np.full(2, np.nan)))


class TestSave:
    def test_pngs_that_can_be_opened_and_nothing_else(self, tmp_path):
        figures = {"curves": plots.curves(LINES), "empty": plots.curves([])}
        paths = plots.save(figures, tmp_path / "run" / "plots")
        assert [path.name for path in paths] == ["curves.png", "empty.png"]
        assert sorted((tmp_path / "run" / "plots").iterdir()) == sorted(paths)
        with Image.open(paths[0]) as image:
            assert image.format == "PNG"
            assert image.width > 800

    def test_a_failed_write_is_one_line_and_leaves_what_was_there(self, tmp_path, monkeypatch):
        (path,) = plots.save({"curves": plots.curves([])}, tmp_path)
        before = path.read_bytes()

        def fill_the_disk(self, file, **options):
            file.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Figure, "savefig", fill_the_disk)
        with pytest.raises(
            JaxgenError, match=r"could not write .*curves\.png: No space left on device"
        ) as caught:
            plots.save({"curves": plots.curves(LINES)}, tmp_path)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == [path]
        assert path.read_bytes() == before

    def test_a_file_in_the_way_of_the_directory(self, tmp_path):
        (tmp_path / "plots").write_text("")
        with pytest.raises(JaxgenError, match="could not write"):
            plots.save({"curves": plots.curves([])}, tmp_path / "plots")


class TestApartFromTheUser:
    def test_style_and_settings_stay_the_users(self):
        dark = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "xtick.labelcolor")
        with matplotlib.rc_context({"axes.facecolor": "black", **dict.fromkeys(dark, "white")}):
            before = dict(matplotlib.rcParams)
            figure = plots.curves(LINES)
            figure.draw_without_rendering()
            axes = figure.axes[0]
            assert axes.get_facecolor()[:3] == (1, 1, 1)
            readable = [axes.title, axes.xaxis.label, *axes.get_xticklabels()]
            assert all(np.mean(matplotlib.colors.to_rgb(text.get_color())) < 0.3 for text in readable)
            assert dict(matplotlib.rcParams) == before

    def test_pyplot_is_not_loaded(self):
        code = "from jaxgen import plots; plots.curves([]); import sys; sys.exit('matplotlib.pyplot' in sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True)


class TestPredictionSheet:
    def test_says_what_each_picture_was_taken_for(self):
        images = np.zeros((2, 4, 5, 1), np.uint8)
        images[0, 1:3, 1:3] = 255
        shares = np.array([[0.25, 0.75], [0.9, 0.1]])
        figure = plots.prediction_sheet(images, shares, ("a", "b"), ["one.png", "$x$.png"], total=7)
        assert [axes.get_title() for axes in figure.axes] == ["b (75.0 %)", "a (90.0 %)"]
        assert "the first 2 of 7 pictures, as the model saw them" in reading(figure)
        np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), images[0, ..., 0] / 255)
        assert figure.axes[0].images[0].cmap.name == "gray", "light strokes stay light: the model saw them so"

    def test_odd_names_are_drawn_as_they_are(self, tmp_path, recwarn):
        images = np.zeros((3, 4, 5, 3), np.uint8)
        names = ["$\\frac$", "漢字", "a" * 80]
        figure = plots.prediction_sheet(images, np.eye(3), names, names, total=3)
        (path,) = plots.save({"sheet": figure}, tmp_path)
        assert path.read_bytes().startswith(b"\x89PNG")
        assert [str(warning.message) for warning in recwarn] == []
