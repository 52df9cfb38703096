"""What a program says of settings that it cannot use: a sentence, never a traceback, and never silence."""

import os
import subprocess
import sys

import pytest

PREFIXES = ("REGRADE_REWARD_", "REGRADE_META_", "REGRADE_TRAINER_", "REGRADE_LOCAL_")


def _started(module: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIXES)}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, env=inherited | env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("module", "name", "value", "told"),
    [
        ("services.reward", "REGRADE_REWARD_TYPO", "1", "REGRADE_REWARD_TYPO is no setting"),
        ("services.reward", "REGRADE_REWARD_PORT", "many", "REGRADE_REWARD_PORT: Input should be a valid integer"),
        ("services.reward", "REGRADE_REWARD_BOOTSTRAP_TASKS", "essay_writing", "given as JSON"),
        ("services.meta_reward", "REGRADE_META_POLL_S", "0", "REGRADE_META_POLL_S: Input should be greater than 0"),
        ("services.local", "REGRADE_LOCAL_STEPS", "1", "REGRADE_LOCAL_STEPS: "),
    ],
)
def test_unusable_settings_are_told_in_a_sentence(module: str, name: str, value: str, told: str) -> None:
    done = _started(module, **{name: value})
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_the_commands_own_variable_troubles_no_service() -> None:
    done = _started("services.meta_reward", "--help", REGRADE_META_URL="http://127.0.0.1:8701")
    assert done.returncode == 0
    assert "--every-traces" in done.stdout
