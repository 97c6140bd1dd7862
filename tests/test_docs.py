"""What the README and the docs say is executed, or compared with the code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import text_of

from toolkit.settings import settings_page

ROOT = Path(__file__).parents[1]


def block(page: str, name: str) -> str:
    """The fenced block that follows `<!-- test: name -->`."""
    pattern = rf"<!-- test: {name} -->\n```bash\n(.*?)```"
    found = re.search(pattern, (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None, f"{page} has no block {name}"
    return found[1]


def replaced(text: str, changes: dict[str, str]) -> str:
    """`text` with every change made, each of which must apply."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def test_own_text_block_of_the_readme(tmp_path: Path) -> None:
    """As a reader would run it, but for the sizes: little text, a small model, few steps."""
    for name, domain in [("code", "tools"), ("prose", "fruit"), ("target", "target")]:
        folder = tmp_path / "text" / name
        folder.mkdir(parents=True)
        lines = [json.dumps({"text": text}) for text in text_of(domain, num_documents=900)]
        (folder / "part.jsonl").write_text("\n".join(lines), encoding="utf-8")
    config = (ROOT / "configs/own-text.toml").read_text(encoding="utf-8")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/own-text.toml").write_text(
        replaced(
            config, {"hidden_size = 256": "hidden_size = 32", "num_layers = 6": "num_layers = 1"}
        ),
        encoding="utf-8",
    )
    commands = replaced(
        block("README.md", "own-text"),
        {"--vocab-size 2048": "--vocab-size 300", "num_steps=200": "num_steps=60"},
    )
    environment = dict(os.environ) | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "runs/own-text is complete at step 60" in done.stdout
    assert (tmp_path / "runs/own-text/mixture.png").stat().st_size > 10_000
    kinds = [
        json.loads(line)["kind"]
        for line in (tmp_path / "runs/own-text/events.jsonl").read_text().splitlines()
    ]
    assert kinds[0] == "start" and kinds.count("update") == 1


def test_settings_page_is_that_of_the_config() -> None:
    assert (ROOT / "docs/settings.md").read_text(encoding="utf-8") == settings_page()


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for link in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (path.parent / link).exists(), link


@pytest.mark.parametrize("command", ["demo", "test", "check", "test-long", "install"])
def test_make_commands_exist(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{command}:", makefile, re.MULTILINE)
