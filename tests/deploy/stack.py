"""The CPU stack of compose.yaml as a Compose project of its own.

Its ports and volumes differ from those of a stack in use. `DOCKER` names another docker than the one on the path;
tests/deploy/standins/make.sh builds stand-ins for images that no registry provides.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
REWARD, META, PROMETHEUS = "http://127.0.0.1:18700", "http://127.0.0.1:18701", "http://127.0.0.1:19090"
TARGETS = ("reward", "meta-reward", "engine-cpu")
_SERVICES = ("redis", "llamacpp", "reward", "balancer", "meta-reward", "prometheus")
_GRAFANA = "grafana/grafana:12.1.1"
_ENVIRONMENT = {
    "COMPOSE_PROJECT_NAME": "regrade-drill",
    "COMPOSE_FILE": "compose.yaml:compose.cpu.yaml:tests/deploy/compose.drill.yaml",
    "COMPOSE_PROFILES": "",
    "REWARD_PORT": "18700",
    "META_PORT": "18701",
    "PROMETHEUS_PORT": "19090",
    "GRAFANA_PORT": "13000",
    "DOCKER_BUILDKIT": "1",
}
_LIMIT_S = 1_800.0


class StackError(Exception):
    """A docker command failed; the message is its output."""


def _run(*command: str, limit_s: float = _LIMIT_S) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | _ENVIRONMENT, capture_output=True, text=True, check=False, timeout=limit_s
    )
    if done.returncode != 0:
        raise StackError(f"{' '.join(command)}: {(done.stdout + done.stderr)[-2_000:]}")
    return done.stdout


def docker(*arguments: str) -> list[str]:
    """The output lines of a docker command. Raises `StackError`."""
    return _run(os.environ.get("DOCKER", "docker"), *arguments).splitlines()


def compose(*arguments: str) -> str:
    """The output lines of a Compose command, by docker's plug-in or docker-compose. Raises `StackError`."""
    plug_in = [os.environ.get("DOCKER", "docker"), "compose"]
    try:
        _run(*plug_in, "version")
    except StackError:
        plug_in = ["docker-compose"]
    return _run(*plug_in, *arguments)


def containers(service: str) -> list[str]:
    """The names of a service's running containers."""
    labels = ("com.docker.compose.project=regrade-drill", f"com.docker.compose.service={service}")
    filters = [part for label in labels for part in ("--filter", f"label={label}")]
    return sorted(docker("ps", *filters, "--format", "{{.Names}}"))


def build() -> dict[str, float]:
    """Build the real images; returns the seconds of each."""
    seconds = {}
    for target in TARGETS:
        started = time.monotonic()
        docker("build", "--network", "host", "--target", target, "-t", f"regrade/{target}:0.2.0", ".")
        seconds[target] = round(time.monotonic() - started, 1)
    return seconds


def sizes() -> dict[str, tuple[int, int]]:
    """Megabytes of each image: total, and without its base image."""

    def layers(image: str) -> tuple[int, list[str]]:
        size, parts = docker("image", "inspect", "--format", "{{.Size}} {{json .RootFS.Layers}}", image)[0].split(
            " ", 1
        )
        return int(size), json.loads(parts)

    base = os.environ.get("PYTHON_IMAGE", "python:3.11.13-slim-bookworm")
    below, base_layers = layers(base)
    sizes = {}
    for target in TARGETS:
        size, own_layers = layers(f"regrade/{target}:0.2.0")
        shared = below if own_layers[: len(base_layers)] == base_layers else 0
        sizes[target] = round(size / 1e6), round((size - shared) / 1e6)
    return sizes


@contextmanager
def running() -> Iterator[float]:
    """A context with the stack; yields the seconds until all containers were healthy. Removes its volumes, too."""
    _run("sh", "deploy/setup.sh")
    services = [*_SERVICES, *(["grafana"] if _has_grafana() else [])]
    started = time.monotonic()
    try:
        compose("up", "-d", *services)
        for service in ("reward", "meta-reward"):
            for name in containers(service):
                healthy(name, 180.0)
        yield time.monotonic() - started
    finally:
        compose("down", "--volumes", "--timeout", "20")


def _has_grafana() -> bool:
    """Whether Grafana's image is present or can be pulled; it has no stand-in."""
    try:
        docker("pull", "--quiet", _GRAFANA)
    except StackError:
        return bool(docker("images", "--quiet", _GRAFANA))
    return True


def healthy(name: str, limit_s: float = 90.0) -> None:
    """Wait until docker reports a container as healthy. Raises `StackError`."""
    deadline = time.monotonic() + limit_s
    while docker("inspect", "--format", "{{.State.Health.Status}}", name) != ["healthy"]:
        if time.monotonic() > deadline:
            raise StackError(f"{name} is not healthy after {limit_s:.0f} s: {docker('logs', '--tail', '20', name)}")
        time.sleep(0.5)


def ready_after(name: str, port: int = 8700, limit_s: float = 90.0) -> float:
    """Seconds until a newly started container answers /readyz with 200. Raises `StackError`."""
    [addresses] = docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", name)
    address = addresses.split()[0]
    started = time.monotonic()
    while time.monotonic() < started + limit_s:
        try:
            if httpx.get(f"http://{address}:{port}/readyz", timeout=2.0).status_code == 200:
                return time.monotonic() - started
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise StackError(f"{name} is not ready after {limit_s:.0f} s")


def memory() -> dict[str, str]:
    """The memory of each container."""
    names = docker("ps", "--filter", "label=com.docker.compose.project=regrade-drill", "--format", "{{.Names}}")
    usage = docker("stats", "--no-stream", "--format", "{{.Name}}|{{.MemUsage}}", *names)
    pairs = (row.split("|") for row in usage)
    return {name: used.split(" / ")[0] for name, used in pairs}


def secret(name: str) -> str:
    """The content of a file of ./secrets."""
    return (ROOT / "secrets" / name).read_text(encoding="utf-8").strip()
