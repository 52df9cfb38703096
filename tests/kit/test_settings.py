"""What a program says of settings that it cannot use: a sentence, never a traceback, and never silence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.kit.settings import read_settings
from services.reward.settings import RewardSettings

PREFIXES = ("REGRADE_REWARD_", "REGRADE_META_", "REGRADE_TRAINER_", "REGRADE_LOCAL_")


def _started(module: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIXES)}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, env=inherited | env, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "value", "problem"),
    [
        ("services.reward", "REGRADE_REWARD_TYPO", "1", "REGRADE_REWARD_TYPO is not a setting"),
        ("services.reward", "REGRADE_REWARD_PORT", "many", "REGRADE_REWARD_PORT: Input should be a valid integer"),
        ("services.reward", "REGRADE_REWARD_BOOTSTRAP_TASKS", "essay_writing", "given as JSON"),
        (
            "services.meta_reward",
            "REGRADE_META_REWARD_URL",
            "reward:8700",
            "give scheme and host, such as http://reward",
        ),
        ("services.meta_reward", "REGRADE_META_AUDIT_URL", "http://u:s@h:port", "'http://***@h:port' is no URL"),
        ("services.meta_reward", "REGRADE_META_POLL_S", "0", "REGRADE_META_POLL_S: Input should be greater than 0"),
        ("services.local", "REGRADE_LOCAL_STEPS", "1", "REGRADE_LOCAL_STEPS: "),
    ],
)
def test_unusable_settings_are_reported_in_a_sentence(module: str, name: str, value: str, problem: str) -> None:
    done = _started(module, **{name: value})
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_commands_own_variable_troubles_no_service() -> None:
    done = _started("services.meta_reward", "--help", REGRADE_META_URL="http://127.0.0.1:8701")
    assert done.returncode == 0
    assert "--every-traces" in done.stdout


def test_settings_are_read_from_the_files_of_the_secrets_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Compose and Kubernetes mount secrets; what is said in the environment goes first."""
    (tmp_path / "REGRADE_REWARD_REDIS_URL").write_text("redis://:secret@redis:6379/0\n")
    (tmp_path / "REGRADE_REWARD_API_KEYS").write_text('["the-first-of-the-keys", "the-second-of-the-keys"]\n')
    (tmp_path / "REGRADE_REWARD_JUDGE_KEY").write_text("from-file")
    (tmp_path / "redis.conf").write_text("no business of ours")
    monkeypatch.setenv("REGRADE_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("REGRADE_REWARD_JUDGE_KEY", "from-environment")
    monkeypatch.setattr(sys, "argv", ["services.reward"])
    settings = read_settings(RewardSettings)
    assert settings.redis_url.get_secret_value() == "redis://:secret@redis:6379/0"
    assert [key.get_secret_value() for key in settings.api_keys] == ["the-first-of-the-keys", "the-second-of-the-keys"]
    assert settings.judge_key.get_secret_value() == "from-environment"


@pytest.mark.slow
def test_a_mistyped_secret_file_or_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "REGRADE_REWARD_REDIS_URI").write_text("redis://redis:6379/0")
    done = _started("services.reward", REGRADE_SECRETS_DIR=str(tmp_path))
    assert (done.returncode, done.stderr.strip()) == (
        2,
        "settings: REGRADE_REWARD_REDIS_URI is not a setting; --help lists them",
    )
    done = _started("services.reward", REGRADE_SECRETS_DIR=str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "is not a folder" in done.stderr
