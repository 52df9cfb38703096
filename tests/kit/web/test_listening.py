"""Where services listen, and with which keys: what would be open by mistake does not start."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import ValidationError

from services.kit.settings import MIN_KEY_CHARS, ServiceSettings, is_loopback
from services.kit.web.server import listener_url, open_listener
from services.meta_reward.settings import MetaRewardSettings
from services.reward.settings import RewardSettings
from tests.support.fake_engine import FakeEngine
from tests.support.waiting import wait_until

KINDS: tuple[type[ServiceSettings], ...] = (RewardSettings, MetaRewardSettings)
KEY = "k" * MIN_KEY_CHARS
NOT_LOCAL = ["0.0.0.0", "::", "[::]", "10.0.0.1", "reward.example.org", "::ffff:10.0.0.1", "192.168.1.7", "0"]  # noqa: S104


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("field", ["api_keys", "operator_keys"])
@pytest.mark.parametrize("key", ["", " ", "\n", "short", KEY[1:], " " * 40, f"{KEY}\n{KEY}", f"{KEY} x", f"{KEY}é"])
def test_a_key_that_would_open_the_service_is_refused(kind: type[ServiceSettings], field: str, key: str) -> None:
    with pytest.raises(ValidationError, match=rf"{field}.*1") as error:
        kind.model_validate({field: [KEY + "1", key]})
    assert "characters" in str(error.value) or "ASCII" in str(error.value)
    assert not key.strip() or key.strip() not in str(error.value)


@pytest.mark.parametrize("key", ["", "short", KEY[1:]])
def test_a_tenants_key_is_no_shorter(key: str) -> None:
    with pytest.raises(ValidationError, match="guessed"):
        RewardSettings.model_validate({"tenants": {"a": {"keys": [key]}}})


def test_blanks_around_a_key_are_dropped() -> None:
    """As `echo` and editors write them into a file."""
    settings = RewardSettings.model_validate({"api_keys": [f" {KEY}\r\n"], "judge_key": "judge\n"})
    assert settings.api_keys[0].get_secret_value() == KEY
    assert settings.judge_key.get_secret_value() == "judge"


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (RewardSettings, "judge_key"),
        (MetaRewardSettings, "meta_judge_key"),
        (MetaRewardSettings, "reward_key"),
        (MetaRewardSettings, "audit_key"),
    ],
)
def test_a_key_that_no_header_can_carry_is_refused(kind: type[ServiceSettings], field: str) -> None:
    assert kind.model_validate({field: " "}).model_dump()[field].get_secret_value() == ""
    with pytest.raises(ValidationError, match="ASCII") as error:
        kind.model_validate({field: "secret\r\nX-Injected: 1"})
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("host", NOT_LOCAL)
def test_an_open_service_that_others_reach_does_not_start(kind: type[ServiceSettings], host: str) -> None:
    prefix = kind.model_config["env_prefix"]
    with pytest.raises(ValidationError, match=rf"{prefix}API_KEYS.*{prefix}OPEN_TO_NETWORK=true"):
        kind.model_validate({"host": host})
    for opened in ({"open_to_network": True}, {"api_keys": [KEY]}, {"operator_keys": [KEY]}):
        assert kind.model_validate({"host": host, **opened}).host == host.strip("[]")
    for local in ("127.0.0.1", "127.0.0.53", "::1", "[::1]", "localhost", "::ffff:127.0.0.1"):
        assert is_loopback(kind.model_validate({"host": local}).host)
    for nonsense in ("", " ", "http://127.0.0.1", "127.0.0.1, ::1", "*"):
        with pytest.raises(ValidationError, match="IP address"):
            kind.model_validate({"host": nonsense, "open_to_network": True})


def test_tenants_keys_close_a_service() -> None:
    assert RewardSettings.model_validate({"host": "::", "tenants": {"a": {"keys": [KEY]}}}).host == "::"


def test_default_ports() -> None:
    assert (RewardSettings().port, MetaRewardSettings().port) == (8_700, 8_701)


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("::1", ["[::1]"]),
        ("::", ["[::1]", "127.0.0.1"]),
        ("0.0.0.0", ["127.0.0.1"]),  # noqa: S104
        ("localhost", ["localhost"]),
    ],
)
def test_listeners_of_both_families(host: str, reached: list[str]) -> None:
    with open_listener(host, 0) as listener:
        url = urlsplit(listener_url(listener))
        assert url.port
        assert ("[" in url.netloc) == (":" in host)
        for name in reached:
            socket.create_connection((name.strip("[]"), url.port), timeout=10.0).close()


def _start(module: str, folder: Path, *options: str) -> tuple[subprocess.Popen[str], Path]:
    port_file = folder / "port"
    env = {name: value for name, value in os.environ.items() if not name.startswith("REGRADE_")}
    command = [sys.executable, "-m", module, "--port", "0", "--port-file", str(port_file), *options]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True), port_file


@pytest.mark.slow
@pytest.mark.parametrize("module", ["services.reward", "services.meta_reward"])
@pytest.mark.parametrize("host", ["::1", "::"])
def test_services_serve_ipv6(module: str, host: str, tmp_path: Path, redis_url: str, fake_engine: FakeEngine) -> None:
    options = ["--host", host, "--redis-url", redis_url, "--open-to-network", "true"]
    process, port_file = _start(module, tmp_path, *options)
    try:
        wait_until(lambda: process.poll() is not None or (port_file.exists() and bool(port_file.read_text())), "a port")
        assert process.poll() is None
        port = port_file.read_text()
        for name in ["[::1]"] if host == "::1" else ["[::1]", "127.0.0.1"]:
            assert httpx.get(f"http://{name}:{port}/healthz", timeout=60.0).status_code == 200
            assert httpx.get(f"http://{name}:{port}/docs", timeout=60.0).status_code == 200
    finally:
        process.terminate()
        _, log = process.communicate(timeout=60.0)
    assert f"http://[{host}]:{port}" in log


@pytest.mark.slow
def test_what_cannot_be_listened_on_is_reported_in_a_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        process, _ = _start("services.reward", tmp_path, "--port", port)
        _, log = process.communicate(timeout=60.0)
    assert process.returncode == 1
    assert log.startswith(f"cannot listen on host 127.0.0.1, port {port}: Address already in use")
    assert len(log.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("value", ['[""]', '["  "]', '["short"]', "", "null", '"text"', "not JSON"])
def test_a_service_with_an_unusable_list_of_keys_does_not_start(tmp_path: Path, value: str) -> None:
    process, port_file = _start("services.reward", tmp_path, f"--api-keys={value}")
    _, log = process.communicate(timeout=60.0)
    assert process.returncode == 2, log
    assert "Traceback" not in log
    assert not port_file.exists()
