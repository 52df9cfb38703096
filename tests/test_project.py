"""What holds the repository together: schemas, versions, and files that have to agree."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from pydantic import BaseModel, TypeAdapter

from regrade import contracts
from services.local.settings import LocalSettings
from services.meta_reward.settings import MetaRewardSettings
from services.reward.settings import RewardSettings
from services.trainer.evaluate.settings import EvaluateSettings
from services.trainer.settings import TrainerSettings
from tests import naming

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", [name for name in contracts.__all__ if name[0].isupper() and name != "MAIN_LINEAGE"])
def test_every_contract_has_a_json_schema(name: str) -> None:
    contract = getattr(contracts, name)
    if not isinstance(contract, tuple | int | str):
        assert TypeAdapter(contract).json_schema()


def test_changelog_and_package_have_one_version() -> None:
    top = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert top is not None
    assert top[1] == version("regrade")


def test_every_dependency_is_constrained() -> None:
    """But vLLM, which pins other versions than ours: it has an environment of its own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    names = {re.split(r"[\[<>=;]", requirement)[0].lower().replace("-", "_") for requirement in wanted} - {
        "regrade",
        "vllm",
    }
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    fixed = {line.split("==")[0].lower().replace("-", "_") for line in lines if "==" in line}
    assert names <= fixed


@pytest.mark.parametrize(
    "settings", [RewardSettings, MetaRewardSettings, LocalSettings, TrainerSettings, EvaluateSettings]
)
def test_every_setting_says_what_it_is(settings: type[BaseModel]) -> None:
    waiting = [settings]
    while waiting:
        fields = waiting.pop().model_fields.values()
        assert all(field.description for field in fields)
        waiting += [
            f.annotation for f in fields if isinstance(f.annotation, type) and issubclass(f.annotation, BaseModel)
        ]


def test_documents_name_only_variables_that_exist() -> None:
    known = {f"REGRADE_REWARD_{n.upper()}" for n in RewardSettings.model_fields}
    known |= {f"REGRADE_META_{n.upper()}" for n in MetaRewardSettings.model_fields}
    known |= {f"REGRADE_TRAINER_{n.upper()}" for n in TrainerSettings.model_fields}
    for name in ("README.md", "docs/architecture.md", "docs/reproduce.md"):
        path = ROOT / name
        named = set(re.findall(r"REGRADE_(?:REWARD|META|TRAINER)_[A-Z]+(?:_[A-Z]+)*", path.read_text()))
        assert named <= known, path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("services.reward.app", ["fsspec", "jinja2", "matplotlib", "pyarrow", "torch", "trl"]),
        ("services.trainer.train", ["fastapi", "hiredis", "jsonschema_rs", "py3langid", "re2", "redis", "uvicorn"]),
        (
            "services.meta_reward.app",
            ["jsonschema_rs", "latex2sympy2_extended", "matplotlib", "pebble", "sympy", "torch", "trl"],
        ),
    ],
)
def test_a_service_imports_nothing_of_anothers_extra(module: str, absent: list[str]) -> None:
    """Its image installs its own extra only."""
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import {module}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]


VAGUE_NAMES = {
    "benchmarks": 13,
    "services/local": 15,
    "services/meta_reward": 37,
    "services/reward": 6,
    "services/trainer": 4,
    "tests": 33,
}
"""The most vague or ambiguous names a folder may hold (`python -m tests.naming`): to be lowered, never raised."""


def test_no_folder_gains_vague_names() -> None:
    counts = {folder: count.total() for folder, count in naming.counts(ROOT).items()}
    assert counts.keys() >= VAGUE_NAMES.keys(), "a folder that is gone has a ceiling"
    assert {folder: count for folder, count in counts.items() if count > VAGUE_NAMES.get(folder, 0)} == {}


def test_folders_modules_and_functions_stay_small() -> None:
    assert naming.oversized(ROOT) == []


@pytest.mark.parametrize(
    ("code", "vague", "ambiguous"),
    [
        ("found = told(self._asked)", {"found": 1, "told": 1, "asked": 1}, {}),
        ("def look(shown): return {'found': 1}", {"look": 1, "shown": 1}, {}),
        ("missing_ids = [i for i in foundation]", {}, {}),
        ("lines = text.splitlines()", {}, {}),
        ("def f(text):\n    return [line for line in text.splitlines()]", {}, {}),
        ("def f(log):\n    return [line for line in log]", {}, {"line": 2}),
        ("lineage = newline = wireless = 1", {}, {}),
        ("class WireFormat: early_completions = early_stop = Verdict", {}, {"wire": 1, "early": 1, "verdict": 1}),
    ],
)
def test_names_are_counted(code: str, vague: dict[str, int], ambiguous: dict[str, int]) -> None:
    assert naming.vague(ast.parse(code)) == vague
    assert naming.ambiguous(ast.parse(code)) == ambiguous
