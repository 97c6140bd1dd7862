"""The picture of a run: its file, its size, its labels and colours."""

import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from toolkit.history import RunHistory
from toolkit.picture import PALETTE, domain_colours, draw
from toolkit.picture_layout import spread, wrapped

BATCH = 32
ROW = 128  # tokens per sample


def run(
    num_domains: int,
    num_updates: int,
    *,
    final: float = 4.0,
    num_evaluations: int = 9,
    name: str = "domain",
) -> RunHistory:
    """The last domain takes over the mixture, a little at every tenth step."""
    domains = [f"{name}_{number}" for number in range(num_domains)]
    weights = dict.fromkeys(domains, 1 / num_domains)
    num_steps = 10 * max(num_updates, 8) + 20
    rows: list[dict[str, Any]] = [
        {
            "kind": "start",
            "step": 0,
            "domains": domains,
            "weights": weights,
            "target": "target",
            "global_batch_size": BATCH,
            "num_steps": num_steps,
            "mixer": "dga" if num_updates else "fixed",
        }
    ]
    for number in range(1, num_updates + 1):
        weights = {domain: weight * 0.95 for domain, weight in weights.items()}
        weights[domains[-1]] += 0.05
        scores = {domain: index - num_domains / 2 for index, domain in enumerate(domains)}
        update = {"kind": "update", "step": 10 * number, "num_tokens": 10 * number * BATCH * ROW}
        rows.append(
            update
            | {
                "alignments": {domain: score / 50 for domain, score in scores.items()},
                "standard_errors": dict.fromkeys(domains, 0.01),
                "scores": scores,
                "weights": weights,
                "guard_rails": [],
                "effective_from": (10 * number + 2) * BATCH,
                "cost_ms": 200.0,
                "dropped": "overflow" if number == 5 else None,
            }
        )
    rows.append({"kind": "step", "step": num_steps, "num_tokens": num_steps * BATCH * ROW})
    for number in range(num_evaluations):
        loss = {"target_loss": final + 5 / (1 + number), "domain_losses": {}}
        at = number * num_steps // 8
        rows.append({"kind": "evaluation", "step": at, "num_tokens": at * BATCH * ROW} | loss)
    return RunHistory.from_events(rows)


def size_in_pixels(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


@pytest.mark.parametrize(
    ("num_domains", "num_updates", "num_evaluations", "pixels"),
    [
        (6, 40, 9, (1500, 1515)),
        (6, 2, 9, (1500, 1515)),
        (6, 1, 9, (1500, 1515)),
        (40, 40, 9, (1500, 1515)),
        (1, 3, 9, (1500, 1515)),
        (6, 0, 9, (1500, 1065)),
        (6, 0, 0, (1500, 690)),
        (6, 3, 1, (1500, 1515)),
    ],
)
def test_a_picture_of_each_kind_of_run(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    num_domains: int,
    num_updates: int,
    num_evaluations: int,
    pixels: tuple[int, int],
) -> None:
    path = tmp_path / "mixture.png"
    draw(run(num_domains, num_updates, num_evaluations=num_evaluations), path)
    assert caplog.messages == []
    assert size_in_pixels(path) == pixels
    assert path.stat().st_size > 10_000
    assert list(tmp_path.iterdir()) == [path]


def figure_of(
    monkeypatch: pytest.MonkeyPatch, path: Path, history: RunHistory, **options: Any
) -> Any:
    """Draws a history and returns the matplotlib figure that was saved."""
    from matplotlib.figure import Figure

    figures = []
    savefig = Figure.savefig

    def record(figure: Figure, path: Path, **options: Any) -> None:
        figures.append(figure)
        savefig(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", record)
    draw(history, path, **options)
    (figure,) = figures
    return figure


@pytest.mark.parametrize("name", ["d", "a domain with quite a long name", "W" * 30])
@pytest.mark.parametrize("num_domains", [6, 40])
def test_no_text_is_clipped_and_no_label_covers_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_domains: int, name: str
) -> None:
    from matplotlib.text import Text

    history = run(num_domains, 20, name=name)
    figure = figure_of(monkeypatch, tmp_path / "mixture.png", history, baseline=run(6, 0))
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    for text in texts:
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, text
    labels = [text for axes in figure.axes for text in axes.texts if text.get_text()]
    assert len(labels) == (6 + 6 + 2 if num_domains == 6 else 13 + 12 + 2)
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.y0)
    for below, above in pairwise(boxes):
        assert above.y0 >= below.y1 - 4, (below, above)  # pixels, of 25 to a line


@pytest.mark.parametrize(
    ("num_updates", "title", "labels"),
    [
        (
            40,
            "Mixture weights, as trained on; all started at 25.0%",
            ["d_0 3% ↓", "d_1 3% ↓", "d_2 3% ↓", "d_3 90% ↑"],
        ),
        (
            80,
            "Mixture weights, as trained on; all started at 25.0%",
            ["d_0 0.4% ↓", "d_1 0.4% ↓", "d_2 0.4% ↓", "d_3 99% ↑"],
        ),
        (0, "Mixture weights, as trained on", ["d_0 25%", "d_1 25%", "d_2 25%", "d_3 25%"]),
    ],
)
def test_labels_tell_where_each_weight_went(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_updates: int,
    title: str,
    labels: list[str],
) -> None:
    history = run(4, num_updates, name="d")
    axes = figure_of(monkeypatch, tmp_path / "mixture.png", history).axes[0]
    assert axes.get_title(loc="left") == title
    assert sorted(text.get_text().strip() for text in axes.texts if text.get_text()) == labels


def test_the_title_of_an_unequal_start_names_no_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = run(2, 1)
    history.start["weights"] = {"domain_0": 0.8, "domain_1": 0.2}
    axes = figure_of(monkeypatch, tmp_path / "mixture.png", history).axes[0]
    assert axes.get_title(loc="left") == "Mixture weights, as trained on"


@pytest.mark.parametrize("final", [3.5, 4.5])
def test_a_baseline_reached_or_not(tmp_path: Path, final: float) -> None:
    path = tmp_path / "mixture.png"
    draw(run(3, 4), path)
    alone = path.read_bytes()
    draw(run(3, 4), path, baseline=run(3, 0, final=final))
    assert path.read_bytes() != alone
    assert size_in_pixels(path) == (1500, 1515)


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for path in paths:
        draw(run(6, 10), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_weights_step_where_they_take_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    edges = []
    fill_between = Axes.fill_between

    def record(axes: Axes, x: Any, *args: Any, **options: Any) -> Any:
        if options.get("step") == "post":
            edges.append(x)
        return fill_between(axes, x, *args, **options)

    monkeypatch.setattr(Axes, "fill_between", record)
    draw(run(2, 3), tmp_path / "mixture.png")
    assert edges == [[ROW * BATCH * step for step in (0, 12, 22, 32, 100)]] * 2


def test_names_are_no_formulas(tmp_path: Path) -> None:
    history = run(2, 0)
    history.start["domains"] = [r"$\frac$", "_hidden"]
    history.start["weights"] = {r"$\frac$": 0.5, "_hidden": 0.5}
    draw(history, tmp_path / "mixture.png")


def test_a_failed_picture_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    def fail(figure: Figure, path: Path, **options: Any) -> None:
        path.write_bytes(b"half a picture")
        raise OSError("no space left on device")

    path = tmp_path / "mixture.png"
    path.write_bytes(b"the old picture")
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="no space left"):
        draw(run(2, 2), path)
    assert path.read_bytes() == b"the old picture"
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_that_has_not_trained_has_no_picture(tmp_path: Path) -> None:
    started = RunHistory(start=run(2, 0).start, steps=(), evaluations=(), updates=())
    with pytest.raises(ValueError, match="nothing past step 0"):
        draw(started, tmp_path / "mixture.png")
    assert list(tmp_path.iterdir()) == []


def test_colours_stay_with_a_domain_and_the_largest_comes_first() -> None:
    assert domain_colours(run(3, 0)) == {
        "domain_0": PALETTE[0],
        "domain_1": PALETTE[1],
        "domain_2": PALETTE[2],
    }
    assert list(domain_colours(run(3, 4)).items()) == [
        ("domain_2", PALETTE[2]),
        ("domain_0", PALETTE[0]),
        ("domain_1", PALETTE[1]),
    ]


def test_at_most_twelve_domains_are_named() -> None:
    assert list(domain_colours(run(40, 4))) == [
        "domain_39",
        *(f"domain_{number}" for number in range(11)),
    ]


def test_colours_stand_out_from_white() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert len(set(PALETTE)) == 12
    assert min(1.05 / (luminance(colour) + 0.05) for colour in PALETTE) >= 2.5


@pytest.mark.parametrize(
    ("wanted", "heights"),
    [
        ([], []),
        ([0.5], [0.5]),
        ([0.0, 1.0], [0.0, 1.0]),
        ([0.5, 0.5], [0.375, 0.625]),
        ([0.75, 0.25, 0.25], [0.75, 0.125, 0.375]),
        ([0.0, 0.0], [0.0, 0.25]),
        ([1.0, 1.0], [0.75, 1.0]),
        ([0.5] * 6, [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]),
    ],
)
def test_spread(wanted: list[float], heights: list[float]) -> None:
    assert spread(wanted, gap=0.25) == heights


@pytest.mark.parametrize(
    ("text", "num_characters", "lines"),
    [
        ("", 10, []),
        ("one line", 10, ["one line"]),
        ("toward well-known and code", 12, ["toward", "well-known", "and code"]),
        ("a, b and c, away from d", 22, ["a, b and c,", "away from d"]),
        ("a word_longer_than_the_line", 10, ["a", "word_longer_than_the_line"]),
    ],
)
def test_wrapped_lines_are_even(text: str, num_characters: int, lines: list[str]) -> None:
    assert wrapped(text, num_characters=num_characters) == lines
