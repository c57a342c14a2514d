"""Pictures say what they show: titles with the answer, units, a legend for every series, texts that do not overlap."""

import copy
import itertools

import jax
import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

import afdjax as afd
from afdjax import figures
from afdjax.calibrate import fit, load_timings
from afdjax.figures.canvas import GREEN, time_scale
from afdjax.figures.exploration import LOOKS


WORKLOAD = afd.Independent(afd.Geometric(100.0), afd.Geometric(20.0))
LAYERS = 94


def shown_texts(figure):
    """Every text that is drawn, with its place on the page; of ticks those in view."""
    for axes in figure.axes:
        yield from (text for text in (axes.title, axes._left_title, *axes.texts, axes.xaxis.label, axes.yaxis.label))
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if low <= tick.get_loc() <= high:
                    yield from (label for label in (tick.label1, tick.label2) if label.get_visible())
        if axes.get_legend():
            yield from axes.get_legend().get_texts()


def legends(figure):
    return [axes.get_legend() for axes in figure.axes if axes.get_legend()]


def names(figure):
    return " | ".join(text.get_text() for legend in legends(figure) for text in legend.get_texts())


def colors(artists):
    """Of lines, surfaces and markers."""
    found = set()
    for artist in artists:
        for kind in ("color", "facecolor", "edgecolor"):
            shades = getattr(artist, f"get_{kind}", lambda: [])()
            shades = [shades] if isinstance(shades, str | tuple) else shades
            found |= {to_rgb(shade) for shade in shades if len(shade)}
    return found


def points(line):
    """Places of a line in the units of its axes."""
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def check(figure):
    """What holds for every picture."""
    figure.draw_without_rendering()
    texts = [text for text in shown_texts(figure) if text.get_text()]
    boxes = [text.get_window_extent() for text in texts]
    for text, box in zip(texts, boxes, strict=True):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text.get_text()
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text.get_text()
    for (one, a), (other, b) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        assert not a.shrunk(0.98, 0.9).overlaps(b.shrunk(0.98, 0.9)), (one.get_text(), other.get_text())
    for legend, axes in itertools.product(legends(figure), figure.axes):
        assert not legend.get_window_extent().shrunk(0.98, 0.9).overlaps(axes.bbox), "a legend hides data"
    explained = colors(handle for legend in legends(figure) for handle in legend.legend_handles)
    for axes in figure.axes:
        drawn = [line for line in axes.lines if len(line.get_xdata()) and np.any(line.get_ydata())]
        unexplained = colors([*drawn, *axes.patches]) - explained
        assert axes.get_label() == "<colorbar>" or not unexplained, (axes.get_ylabel(), unexplained)


def profile(unit):
    return afd.Profile(
        afd.Affine(0.02, 20.0),
        afd.Affine(0.5, 40.0),
        afd.Affine(0.1, 8.0),
        time_unit=unit,
        provenance=afd.Provenance("toy"),
    )


@pytest.fixture(scope="module")
def plan():
    return afd.plan(WORKLOAD, profile("us"), afd.Bundle(16, layers=LAYERS), afd.MeanField(), max_ratio=8).to_dict()


@pytest.fixture(scope="module")
def checked():
    return afd.check_model(
        WORKLOAD, profile("us"), afd.Bundle(16, layers=LAYERS), [1, 2, 3, 4], afd.MeanField(),
        sampling=afd.Sampling(200, 2, 0),
    ).to_dict()  # fmt: skip


@pytest.fixture(scope="module")
def window():
    bundle = afd.Bundle(16, layers=LAYERS, ffn_workers=2)
    return afd.record(jax.random.key(0), WORKLOAD, profile("us"), bundle, 5, steps=2, skip=1).to_dict()


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """Attention whose times at a context of 1,024 are 30 % too long, and an FFN with a gross outlier."""
    table = tmp_path_factory.mktemp("timings") / "timings.csv"
    rows = [
        f"attention,{batch},{context},,{(20.0 + 1e-3 * batch * context) * (1.3 if context == 1024 else 1.0)}"
        for batch in (8, 16, 32, 64)
        for context in (256, 512, 1024, 2048, 4096)
    ]
    tokens = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 1024, 2048)
    rows += [f"ffn,,,{n},{(20.0 + 0.4 * n) * (3.0 if n == 128 else 1.0)}" for n in tokens]
    table.write_text("\n".join(["component,batch,context,tokens,latency,unit", *(f"{row},us" for row in rows)]) + "\n")
    found = fit(
        load_timings(table),
        name="toy",
        source="made up",
        base=profile("us"),
        forms={"attention": "affine", "ffn": "affine"},
    )
    return found.picture()


def explored(**changes):
    """Levels whose plans lie at almost the same place."""
    level = lambda name, value: {
        "name": name,
        "verdict": "feasible",
        "plan": {"tokens_per_s": value, "tpot": 0.015, "ttft": 0.04},
        "frontier": [[40.0, 2.0 * value], [1.0 / 0.015, value], [80.0, value / 1e6]],
    }
    document = {
        "model": "deepseek-v3.2",
        "devices": [{"count": 64, "accelerator": "h20"}, {"count": 32, "accelerator": "l40s"}],
        "objective": "throughput",
        "unit": "tokens/s",
        "targets": {"ttft": 0.05, "tpot": 0.015},
        "levels": [level(name, 1000.0 - place) for place, name in enumerate(LOOKS)],
        "best": "aggregated",
        "leads": {name: {"share": 0.001, "near_tie": True} for name in list(LOOKS)[1:]},
        "near_tie": 0.15,
    }
    return document | changes


def test_a_plan_is_shown_per_second_with_its_tpot_and_its_answer(plan):
    axes = figures.plan_figure(plan)
    check(axes.figure)
    right = next(other for other in axes.figure.axes if other is not axes)
    assert axes.get_ylabel() == "throughput [tokens/s per instance]" and "TPOT" in right.get_ylabel()
    assert right.get_ylabel().endswith("[ms]")
    best = plan["optimum"]
    assert f"Best: {best['attention_workers']}A-1F" in axes.texts[0].get_text()
    for name in ("r* =", "within 1 %", "throughput", "TPOT (right scale)", "best: ", "decides: "):
        assert name in names(axes.figure), name
    (curve,) = [line for line in axes.lines if line.get_label() == "throughput"]
    (workers, throughput), (_, tpot) = points(curve), points(right.lines[0])
    np.testing.assert_allclose(throughput.max(), 1e6 * best["throughput_per_instance"])
    np.testing.assert_allclose(tpot[workers == best["attention_workers"]], 1e-3 * best["tpot"])
    assert axes.get_ylim()[0] / axes.get_ylim()[1] == pytest.approx(right.get_ylim()[0] / right.get_ylim()[1])


def test_a_plan_in_another_unit_keeps_it(plan):
    other = copy.deepcopy(plan)
    other["profile"]["time_unit"] = "cycle"
    other["optimum"]["ratio_ci95"] = [1.0, 2.0]
    other["bundle"]["ffn_weight"] = 2.0
    axes = figures.plan_figure(other, matplotlib.figure.Figure(figsize=(8.0, 6.0), layout="constrained").add_subplot())
    check(axes.figure)
    assert [panel.get_ylabel().split(" ")[-1] for panel in axes.figure.axes] == ["instance]", "[cycles]"]
    assert "[tokens/cycle per weighted" in axes.get_ylabel()
    assert "95 % interval of r*: 1.00 to 2.00" in names(axes.figure)


def test_a_simulation_shows_its_error_and_scales_its_idle_panels(checked):
    figure = figures.simulation_figure(checked)
    check(figure)
    top, difference, attention, ffn = figure.axes
    assert top.get_ylabel().endswith("[tokens/s per instance]") and "%" in difference.get_ylabel()
    for panel, side in ((attention, "idle_attention"), (ffn, "idle_ffn")):
        most = 100.0 * max(row[side] for row in checked["ratios"])
        assert most <= panel.get_ylim()[1] <= max(1.2 * most, 1.0)
    for name in ("simulated, 95 % interval", "model", "cannot be told", "waits for slower workers"):
        assert name in names(figure), name
    answer = top.texts[0].get_text()
    assert "Best: " in answer and "+-" in answer and "TPOT" in answer
    alone = {name: value for name, value in checked.items() if name != "model"}
    assert len(figures.simulation_figure(alone).axes) == 3


def test_a_timeline_shows_two_layers_of_many(window):
    figure = figures.timeline_figure(window)
    check(figure)
    (axes,) = figure.axes
    two = window["in_flight"] * 2
    assert len(axes.patches) < two * 8 + 4
    until = window["ffn_end"][two - 1] - np.min(window["attention_begin"])
    factor, unit = time_scale(until, "us")
    assert factor * until <= axes.get_xlim()[1] < 1.3 * factor * until and f"[{unit}]" in axes.get_xlabel()
    assert "5A-2F, r = 2.5" in axes.texts[0].get_text()
    assert axes.get_title(loc="left") == "toy, one decode step, layers 1 to 2 of 94"
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "A1",
        "A2",
        "A3",
        "A4",
        "A5",
        "A to FFN",
        "FFN",
        "FFN to A",
    ]
    for name in ("microbatch 1", "microbatch 2", "in transfer", "waits"):
        assert name in names(figure), name


def test_a_timeline_of_many_workers_keeps_the_slowest(window):
    wide = dict(window)
    for name in ("attention_begin", "attention_end"):
        wide[name] = np.tile(window[name], 10)
    wide["attention_end"][:, 37] += 5.0
    (axes,) = figures.timeline_figure(wide).axes
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert len(rows) == 27 and "A38" in rows
    assert "24 slowest of 50" in axes.get_title(loc="left")


def test_calibration_shows_a_bad_column(calibrated):
    figure = figures.calibration_figure(calibrated)
    check(figure)
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert len(panels) == 5
    assert len({axes.get_title(loc="left") for axes in panels} - {""}) == 2
    (over_context,) = [axes for axes in panels if "context" in axes.get_xlabel() and "%" in axes.get_ylabel()]
    (medians,) = [line for line in over_context.lines if line.get_label().startswith("median")]
    contexts, off = points(medians)
    assert contexts[np.argmin(off)] == 1024 and off.min() < -10.0
    ffn = panels[-1]
    worst = calibrated["stages"]["ffn"]["worst_relative_residual"]
    assert 100.0 * worst > max(ffn.get_ylim())
    for name in ("fitted", "measured", "95 % interval", "gross outlier, beyond the scale", "median of the context"):
        assert name in names(figure), name
    (bar,) = [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
    assert [label.get_text() for label in bar.get_yticklabels()] == ["8", "16", "32", "64"]


def test_an_exploration_singles_out_the_best_within_its_near_tie_band():
    figure = figures.exploration_figure(explored())
    check(figure)
    speed, wait = figure.axes
    for axes, place in ((speed, 1.0 / 0.015), (wait, 40.0)):
        markers = {str(line.get_marker()) for line in axes.lines if points(line)[0].tolist() == pytest.approx([place])}
        # markers at one place are told apart: one star, the others hollow and of different shapes
        assert markers == {"*", "s", "^", "D"}
        (band,) = [patch for patch in axes.patches if to_rgb(patch.get_facecolor()) == to_rgb(GREEN)]
        low, high = band.get_extents().y0, band.get_extents().y1
        assert axes.transData.inverted().transform([(0.0, low), (0.0, high)])[:, 1] == pytest.approx(
            [1000.0 / 1.15, 1000.0]
        )
    for name in (
        "best: aggregated, 1,000 tokens/s, TPOT 15.0 ms, TTFT 40.0 ms",
        "TTFT 40.0 ms; near tie",
        "near ties: ",
        "TPOT at most 15.0 ms",
        "TTFT at most 50.0 ms",
    ):
        assert name in names(figure), name
    assert "Best within TTFT 50.0 ms and TPOT 15.0 ms: aggregated, with 3 near ties" in speed.texts[0].get_text()
    assert speed.get_ylim()[0] >= 1.0 and "[tokens/s" in speed.get_ylabel() and "[ms]" in wait.get_xlabel()


def test_an_exploration_without_a_plan_says_so():
    nothing = explored(best=None, leads={})
    for level in nothing["levels"]:
        level |= {"plan": None, "verdict": "tpot-missed"}
    nothing["levels"][0]["frontier"] = []
    figure = figures.exploration_figure(nothing)
    check(figure)
    assert "No level has a plan within" in figure.axes[0].texts[0].get_text()
    assert names(figure).count("no plan (tpot-missed)") == 4
    free = explored(targets={"ttft": None, "tpot": None}, objective="price", unit="tokens/s per USD/h")
    figure = figures.exploration_figure(free)
    check(figure)
    assert "target" not in names(figure) and "near ties: " not in names(figure)
    assert "Best by tokens/s per USD/h without targets" in figure.axes[0].texts[0].get_text()


def test_figures_leave_the_state_of_pyplot_alone(plan):
    before = dict(matplotlib.rcParams)
    figures.plan_figure(plan)
    figures.exploration_figure(explored())
    assert dict(matplotlib.rcParams) == before
    assert "pyplot" not in vars(figures.canvas) and not figures.blank_figure(1.0, 1.0).axes


@pytest.mark.parametrize(
    ("largest", "unit", "expected"),
    [
        (31_020.0, "us", (1e-3, "ms")),
        (0.25, "s", (1e3, "ms")),
        (1186.0, "cycle", (1.0, "cycles")),
        (0.0, "us", (1e3, "ns")),
    ],
)
def test_times_have_the_unit_of_the_largest(largest, unit, expected):
    assert time_scale(largest, unit) == expected
