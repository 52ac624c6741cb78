import re

import matplotlib
import numpy as np
import pytest

from jaxgen import plots


def texts(figure):
    """All that can be read on a figure; drawn first, so that tick labels are there."""
    figure.draw_without_rendering()
    found = figure.findobj(matplotlib.text.Text)
    return [text.get_text() for text in found if text.get_text() and text.get_visible()]


def panel(figure, title):
    (found,) = [axes for axes in figure.axes if axes.get_title() == title]
    return found


def legend(figure):
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def records(points=6, final_loss=0.4):
    """What a run writes: a report with throughput, then an evaluation."""
    lines = []
    for number, loss in enumerate(np.geomspace(2.0, final_loss, points)):
        step, loss = 10 * (number + 1), float(loss)
        throughput = {"train/steps_per_second": 300.0, "train/examples_per_second": 19200.0}
        lines.append({"step": step, "train/loss": loss, "train/accuracy": 1 - loss / 3, **throughput})
        lines.append({"step": step, "test/loss": 1.1 * loss, "test/accuracy": 0.97 - loss / 3})
    return lines


class TestCurves:
    def test_a_panel_a_quantity_and_none_for_throughput(self):
        figure = plots.curves(records())
        assert [axes.get_title() for axes in figure.axes] == ["loss", "accuracy"]
        assert legend(figure) == ["train", "test"]

    def test_lines_are_the_records(self):
        train, test = panel(plots.curves(records(points=3)), "loss").lines
        np.testing.assert_array_equal(train.get_xdata(), [10, 20, 30])
        np.testing.assert_allclose(train.get_ydata(), np.geomspace(2.0, 0.4, 3))
        np.testing.assert_allclose(test.get_ydata(), 1.1 * np.geomspace(2.0, 0.4, 3))

    @pytest.mark.parametrize("lines", [[], [{"step": 3}], [{"step": 3, "train/steps_per_second": 1.0}]])
    def test_nothing_to_draw(self, lines):
        assert texts(plots.curves(lines)) == ["no figures yet"]

    @pytest.mark.parametrize(("final_loss", "scale"), [(0.021, "linear"), (0.019, "log")])
    def test_a_loss_over_more_than_two_decades_is_logarithmic(self, final_loss, scale):
        figure = plots.curves([line for line in records(9, final_loss) if "train/loss" in line])
        assert panel(figure, "loss").get_yscale() == scale
        assert panel(figure, "accuracy").get_yscale() == "linear"

    def test_a_loss_that_reaches_zero_stays_linear(self):
        lines = [{"step": 1, "train/loss": 5.0}, {"step": 2, "train/loss": 0.0}]
        assert panel(plots.curves(lines), "loss").get_yscale() == "linear"

    def test_one_record_is_a_visible_point_at_one_step(self):
        figure = plots.curves(records(points=1))
        for axes in figure.axes:
            assert all(line.get_marker() == "o" for line in axes.lines)
        assert texts(figure).count("10") == 2  # a tick a panel

    def test_many_points_get_a_running_mean(self):
        noise = np.random.default_rng(0).normal(0, 0.3, 10_000)
        lines = [{"step": i, "train/r2": 0.5 + float(n)} for i, n in enumerate(noise)]
        raw, mean = panel(plots.curves(lines), "r2").lines
        assert len(raw.get_xdata()) == 10_000
        assert len(mean.get_xdata()) == 200
        assert raw.get_alpha() < 0.5
        np.testing.assert_allclose(mean.get_ydata()[0], 0.5 + noise[:50].mean())
        np.testing.assert_allclose(mean.get_xdata()[0], 24.5)

    @pytest.mark.parametrize("points", [5, 1000])
    @pytest.mark.parametrize("broken", [float("nan"), float("inf")])
    def test_a_loss_that_diverged_leaves_the_rest_readable(self, points, broken):
        lines = [{"step": i, "train/loss": 2.0 - i / points} for i in range(points)]
        figure = plots.curves([*lines, {"step": points, "train/loss": broken}])
        figure.draw_without_rendering()
        low, high = panel(figure, "loss").get_ylim()
        assert panel(figure, "loss").get_yscale() == "linear"
        assert 0.8 < low < 1.3
        assert 1.9 < high < 2.2

    def test_only_broken_figures(self):
        plots.curves([{"step": 1, "train/loss": float("nan")}]).draw_without_rendering()

    def test_lines_without_a_step_and_text_are_passed_over(self):
        lines = [{"note": "x"}, {"train/loss": 3.0}, {"step": 1, "train/loss": 1.0, "train/device": "cpu"}]
        figure = plots.curves(lines)
        assert [axes.get_title() for axes in figure.axes] == ["loss"]
        np.testing.assert_array_equal(panel(figure, "loss").lines[0].get_ydata(), [1.0])

    def test_other_splits_and_players(self):
        lines = [{"step": 1, "train/generator/loss": 1.0, "train/critic/loss": 2.0, "last_360/accuracy": 0.9}]
        figure = plots.curves(lines)
        assert {a.get_title() for a in figure.axes} == {"accuracy", "generator/loss", "critic/loss"}
        assert legend(figure) == ["train", "last_360"]

    def test_accuracy_in_percent(self):
        assert any(re.fullmatch(r"\d+(\.\d)? %", text) for text in texts(plots.curves(records())))

    def test_sequences_met_exactly_in_percent(self):
        axes = panel(
            plots.curves([{"step": 1, "test/exact": 0.25}, {"step": 2, "test/exact": 0.75}]), "exact"
        )
        assert axes.yaxis.get_major_formatter()(0.5) == "50 %"


class TestCompareCurves:
    def test_evaluated_solid_train_dashed_a_colour_a_run(self):
        figure = plots.compare_curves({"runs/a": records(), "runs/b": records()})
        lines = panel(figure, "loss").lines
        assert [line.get_linestyle() for line in lines] == ["--", "-", "--", "-"]
        first, second = {line.get_color() for line in lines[:2]}, {line.get_color() for line in lines[2:]}
        assert len(first) == len(second) == 1
        assert first != second
        assert legend(figure) == ["runs/a", "runs/b", "test", "train"]

    def test_runs_of_different_kinds(self):
        other = [{"step": 5, "validation/loss": 1.0, "validation/r2": 0.5}]
        figure = plots.compare_curves({"a": records(), "b": other, "new": []})
        assert [axes.get_title() for axes in figure.axes] == ["loss", "accuracy", "r2"]
        assert len(panel(figure, "r2").lines) == 1
        assert legend(figure) == ["a", "b", "new (no curve)", "validation and test", "train"]

    def test_twenty_runs_can_be_told_apart(self):
        runs = {str(i): [{"step": 1, "test/loss": float(i)}] for i in range(20)}
        lines = panel(plots.compare_curves(runs), "loss").lines
        assert len({(line.get_color(), line.get_marker()) for line in lines}) == 20

    def test_none_has_figures(self):
        assert texts(plots.compare_curves({"a": [], "b": []})) == ["no figures yet"]
