"""Every benchmark runs and ends in the one line of JSON; how fast anything is, no test says."""

from __future__ import annotations

import json
import operator
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SIGNS = {">=": operator.ge, "<=": operator.le}
ORDER_FIGURES = [
    *(
        f"{name}_us_per_row_k{num_domains}_batch{batch_size}"
        for num_domains in (8, 512, 4096)
        for batch_size in (64, 1024)
        for name in ("order", "numpy")
    ),
    "quota_error_max",
    "numpy_quota_error_max",
]
UPDATE_FIGURES = ["update_over_minimum_ratio", "update_ms", "minimum_ms"]


def lines_of(name: str, *options: str) -> list[str]:
    """What a quick run of a benchmark prints."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("name", "figures", "wanted"),
    [
        (
            "order",
            ORDER_FIGURES,
            {"order_us_per_row_k4096_batch1024": ["<=", 1.0], "quota_error_max": ["<=", 5]},
        ),
        ("update", UPDATE_FIGURES, {"update_over_minimum_ratio": ["<=", 1.1]}),
    ],
)
def test_the_only_line_with_json(
    name: str, figures: list[str], wanted: dict[str, list[str | float]]
) -> None:
    (line,) = lines_of(name, "--json")
    result = json.loads(line)
    assert list(result) == ["benchmark", "figures", "wanted", "ok"]
    assert result["benchmark"] == name
    assert list(result["figures"]) == figures
    assert all(number > 0 for number in result["figures"].values())
    assert result["wanted"] == wanted
    met = [SIGNS[sign](result["figures"][label], n) for label, (sign, n) in wanted.items()]
    assert result["ok"] is all(met)


def test_the_table_comes_before_the_json() -> None:
    header, *rows, line = lines_of("order")
    assert header.split() == ["median", "spread", "wanted"]
    assert [row.split()[0] for row in rows] == ORDER_FIGURES
    assert list(json.loads(line)["figures"]) == ORDER_FIGURES
