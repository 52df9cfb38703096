"""The examples parse, and the names they import from `regrade` exist.

`make test-trainers` runs some of them in the trainers' own environments.
"""

import ast
import importlib
import re
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from services.reward.api.trainer_routes import SlimeQuery
from services.reward.app import create_app
from services.reward.settings import RewardSettings

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path for path in (ROOT / "examples").iterdir() if path.is_dir() and path.name != "__pycache__")
PINS = sorted((ROOT / "tests" / "adapters" / "peers" / "pins").glob("*.txt"))
TABLE = (ROOT / "docs" / "trainers.md").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*.py")), ids=lambda path: path.parent.name)
def test_a_script_imports_what_exists(path: Path) -> None:
    tree = ast.parse(path.read_text())
    ours = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("regrade")
    ]
    for node in ours:
        module = importlib.import_module(node.module or "")
        assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*.sh")), ids=lambda path: path.parent.name)
def test_a_shell_script_parses(path: Path) -> None:
    subprocess.run(["/bin/bash", "-n", str(path)], check=True)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_example_has_ten_lines_to_read(folder: Path) -> None:
    lines = (folder / "README.md").read_text().splitlines()
    assert 5 <= len(lines) <= 14
    assert len(list(folder.iterdir())) > 1


def test_every_url_is_a_route_that_takes_its_query() -> None:
    texts = [TABLE, *(path.read_text() for path in (ROOT / "examples").rglob("*.*") if path.suffix in (".sh", ".py"))]
    urls = {url for text in texts for url in re.findall(r"/adapters/[a-z-]+(?:/[a-z]+)?(?:\?[a-z_=&0-9-]+)?", text)}
    routes = set(create_app(RewardSettings()).openapi()["paths"])
    for url in urls:
        assert urlsplit(url).path in routes, url
        query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        if query.get("task"):
            assert SlimeQuery.model_validate(query, strict=False).task == "essay_writing"
    assert len(urls) >= 5


@pytest.mark.parametrize("trainer", ["TRL", "OpenRLHF", "slime", "miles", "NeMo Gym", "verl", "ms-swift", "verifiers",
                                     "SkyRL", "AReaL", "open-instruct", "ART"])  # fmt: skip
def test_the_table_has_a_row_for_every_trainer(trainer: str) -> None:
    rows = [line for line in TABLE.splitlines() if line.startswith(f"| {trainer}")]
    assert rows
    assert all(row.count("|") == 5 for row in rows)


@pytest.mark.parametrize("pins", PINS, ids=lambda path: path.stem)
def test_the_table_names_the_version_that_was_followed(pins: Path) -> None:
    """And the test."""
    versions = dict(line.split("==") for line in pins.read_text().splitlines() if "==" in line)
    name = {"art": "openpipe-art", "verifiers-0.1": "verifiers"}.get(pins.stem, pins.stem)
    version = versions.get(name) or versions[name.replace("-", "_")]
    rows = [line for line in TABLE.splitlines() if f"`[{pins.stem}]`" in line]
    assert [row for row in rows if version in row.split("|")[1]] == rows != []
