"""A TCP proxy with a fixed port whose target can change, like a DNS name or a service address before two servers.

Connections that are open stay with the server they were made to: only new ones reach the new target.
"""

import argparse
import selectors
import socket
import threading
from contextlib import suppress
from pathlib import Path

_CHUNK = 262_144


class TcpSwitch:
    """Forwards `127.0.0.1:port` to the port `target` on the same host."""

    def __init__(self, target: int, *, port: int = 0) -> None:
        self.target = target
        """The port that new connections lead to; may be set at any time."""
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        """Connections so far."""
        threading.Thread(target=self._accept, daemon=True).start()

    def current_target(self) -> int:
        """The port that a new connection leads to."""
        return self.target

    def close(self) -> None:
        """Stop listening, and close every connection."""
        for connection in (self._listener, *self._sockets):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.accepted += 1
                threading.Thread(target=self._serve, args=(client, self.current_target()), daemon=True).start()

    def _serve(self, client: socket.socket, target: int) -> None:
        """Forward in both directions until one side closes."""
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", target)) as server:
            pair = {client, server}
            self._sockets |= pair
            try:
                with selectors.DefaultSelector() as ready:
                    for source, sink in ((client, server), (server, client)):
                        source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        ready.register(source, selectors.EVENT_READ, sink)
                    self._forward(ready)
            finally:
                self._sockets -= pair

    def _forward(self, ready: selectors.BaseSelector) -> None:
        while True:
            for key, _ in ready.select():
                source, sink = key.fileobj, key.data
                assert isinstance(source, socket.socket)
                chunk = source.recv(_CHUNK)
                if not chunk:
                    return
                sink.sendall(chunk)


class _FileSwitch(TcpSwitch):
    """Reads its target from a file at each connection."""

    def __init__(self, file: Path, port: int) -> None:
        self._file = file
        super().__init__(0, port=port)

    def current_target(self) -> int:
        return int(self._file.read_text(encoding="utf-8"))


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="port to listen on")
    parser.add_argument("--target-file", type=Path, required=True, help="file that holds the port to forward to")
    args = parser.parse_args()
    _FileSwitch(args.target_file, args.port)
    threading.Event().wait()


if __name__ == "__main__":
    main()
