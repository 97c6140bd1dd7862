"""The words made of a run's history."""

import pytest
from histories import EVEN, evaluation, history, moved_run, start, step, update

from toolkit.explain import compare, explain, headline, percent, short_count
from toolkit.history import RunHistory


def test_explain() -> None:
    assert explain(RunHistory.from_events(moved_run())) == (
        "The mixture moved toward code, away from web.\n"
        "code rose from 25.0% to 50.0%: its gradient follows the target's more than average"
        " (score +1.07 ± 0.12).\n"
        "web fell from 50.0% to 24.0%: its gradient follows the target's less than average"
        " (score -1.50 ± 0.12).\n"
        "Scores are means over the last 3 measurements, ± one standard error; the average is"
        " +0.00.\n"
        "\n"
        "domain   start     end\n"
        "code     25.0%   50.0%  ████████████████████████\n"
        "books    25.0%   26.0%  ████████████▌\n"
        "web      50.0%   24.0%  ███████████▌\n"
        "\n"
        "The target loss went from 9.000 to 4.500 over 819k tokens.\n"
        "4 updates by dga, 208 ms each on average, 1 dropped (the last: loss scale overflow),"
        " 1 not in force by the last step.\n"
        "Guard rails that fired: floor 2x, largest change 1x."
    )


def test_explain_says_when_the_scores_have_turned_or_are_noise() -> None:
    weights = {"code": 0.4, "books": 0.35, "web": 0.25}
    scores = {"code": -1.0, "books": 0.1, "web": 0.9}
    run = history(start(), update(50, scores, weights), step(100))
    assert explain(run).splitlines()[:5] == [
        "The mixture moved toward code and books, away from web.",
        "code rose from 25.0% to 40.0%, yet lately its gradient follows the target's less than"
        " average (score -1.00 ± 0.20).",
        "books rose from 25.0% to 35.0%; within two standard errors it cannot be told from the"
        " average now (score +0.10 ± 0.20).",
        "web fell from 50.0% to 25.0%, yet lately its gradient follows the target's more than"
        " average (score +0.90 ± 0.20).",
        "Scores are of one measurement, ± one standard error; the average is +0.00.",
    ]


def test_explain_a_mixture_that_was_only_observed() -> None:
    scores = [{"code": 1.2, "books": 0.3, "web": -1.5}, {"code": 1.0, "books": 0.1, "web": -1.1}]
    updates = [
        update(50, scores[0], EVEN),
        update(100, scores[1], EVEN),
        update(150, {}, EVEN, dropped="a measured number is not finite"),
    ]
    assert explain(history(start(mixer="observe"), *updates, step(150))) == (
        "The mixture was observed, not moved.\n"
        "The gradient of code follows the target's most (score +1.10 ± 0.14).\n"
        "The gradient of web follows the target's least (score -1.30 ± 0.14).\n"
        "Scores are means over the last 2 measurements, ± one standard error; the average is"
        " +0.00.\n"
        "\n"
        "domain   start     end\n"
        "web      50.0%   50.0%  ████████████████████████\n"
        "code     25.0%   25.0%  ████████████\n"
        "books    25.0%   25.0%  ████████████\n"
        "\n"
        "The target loss was not evaluated yet.\n"
        "3 measurements, 210 ms each on average, 1 dropped (the last: a measured number is not"
        " finite)."
    )


def test_explain_one_observed_domain() -> None:
    run = history(start({"code": 1.0}, mixer="observe"), update(50, {"code": 0.0}, {"code": 1.0}))
    assert explain(run).splitlines()[:2] == ["The mixture was observed, not moved.", ""]


def test_headline_before_the_first_update() -> None:
    for mixer in ("dga", "observe"):
        run = history(start(mixer=mixer), step(10))
        assert headline(run) == "The mixture was not updated yet"


def test_explain_a_fixed_mixture() -> None:
    assert explain(history(start(mixer="fixed"), step(10), evaluation(10, 8.0))) == (
        "The mixture was fixed.\n"
        "\n"
        "domain   start     end\n"
        "web      50.0%   50.0%  ████████████████████████\n"
        "code     25.0%   25.0%  ████████████\n"
        "books    25.0%   25.0%  ████████████\n"
        "\n"
        "The target loss was 8.000 at step 10."
    )


def test_explain_sums_what_the_table_has_no_room_for() -> None:
    weights = {f"domain {number}, a name that is long": 1 / 40 for number in range(40)}
    lines = explain(history(start(weights))).splitlines()
    assert len(lines) == 2 + 1 + 21 + 2
    assert lines[3] == "domain 0, a name that i…    2.5%    2.5%  █▎"
    assert lines[23] == "20 others                  50.0%   50.0%  ████████████████████████"
    assert lines[25] == "The target loss was not evaluated yet."


def test_headline_of_moves_too_small_to_name() -> None:
    weights = {"code": 0.26, "books": 0.25, "web": 0.49}
    run = history(start(), update(50, dict.fromkeys(EVEN, 0.0), weights), step(100))
    assert headline(run) == "The mixture stayed where it started"


BASELINE = [start(mixer="fixed"), evaluation(0, 9.0), evaluation(100, 6.0), evaluation(200, 5.0)]


def test_compare() -> None:
    run = history(start(), evaluation(0, 9.0), evaluation(100, 6.0), evaluation(200, 4.0))
    assert compare(run, RunHistory.from_events(BASELINE)) == (
        "                         run  baseline  difference\n"
        "target loss before    9.0000    9.0000     +0.0000\n"
        "target loss after     4.0000    5.0000     -1.0000\n"
        "tokens                  819k      819k\n"
        "\n"
        "The baseline's final 5.0000: reached at 614k tokens, 0.750 of the baseline's."
    )


def test_compare_with_itself_is_one() -> None:
    run = RunHistory.from_events(BASELINE)
    assert compare(run, run).endswith("reached at 819k tokens, 1.000 of the baseline's.")


def test_compare_says_when_it_was_not_reached() -> None:
    run = history(start(), evaluation(0, 9.0), evaluation(200, 5.5))
    assert compare(run, RunHistory.from_events(BASELINE)).splitlines()[2:] == [
        "target loss after     5.5000    5.0000     +0.5000",
        "tokens                  819k      819k",
        "",
        "The baseline's final 5.0000: not reached.",
    ]


def test_compare_takes_two_evaluations() -> None:
    with pytest.raises(ValueError, match="the run has 1 evaluations"):
        compare(history(start(), evaluation(0, 9.0)), RunHistory.from_events(BASELINE))


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (999.7, "1k"), (983040, "983k"), (1310720, "1.31M"), (2e13, "20T")],
)
def test_short_count(number: float, text: str) -> None:
    assert short_count(number) == text


@pytest.mark.parametrize(
    ("share", "num_decimals", "text"),
    [
        (0.0, 0, "0%"),
        (0.004, 0, "<1%"),
        (0.006, 0, "1%"),
        (0.392, 0, "39%"),
        (0.0, 1, "0.0%"),
        (0.0004, 1, "<0.1%"),
        (0.005, 1, "0.5%"),
        (1.0, 1, "100.0%"),
    ],
)
def test_percent(share: float, num_decimals: int, text: str) -> None:
    assert percent(share, num_decimals=num_decimals) == text
