"""A proxy before Redis that halts the command a test names: a worker can be killed just before or behind it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from tests.support.waiting import wait_until

When = Literal["before", "behind"]
_CHUNK = 65_536


class RedisProxy:
    """Forwards to a Redis until a command holds `pattern`.

    "before": that command and all behind it on its connection stay here until `release`. "behind": it is
    executed, and its answer stays here.
    """

    def __init__(self, port: int, pattern: bytes, when: When) -> None:
        self._target = port
        self._pattern = pattern
        self._when = when
        self._reached = threading.Event()
        self._released = threading.Event()
        self._closed = False
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def wait(self) -> None:
        """Return once the command is here (before), or executed (behind)."""
        wait_until(self._reached.is_set, f"{self._pattern!r} to be sent")

    def release(self) -> None:
        """Let through what is held, and all to come."""
        self._released.set()

    def close(self) -> None:
        """Drop every connection, and what is held."""
        self._closed = True
        self._released.set()
        for connection in (self._listener, *self._sockets):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [client, server]
                halted = threading.Event()
                for pump in (self._commands, self._answers):
                    threading.Thread(target=pump, args=(client, server, halted), daemon=True).start()

    def _commands(self, client: socket.socket, server: socket.socket, halted: threading.Event) -> None:
        tail = b""
        with suppress(OSError):
            while chunk := client.recv(_CHUNK):
                sent = tail + chunk.replace(b"\\", b"")  # JSON inside JSON has its quotes escaped
                if self._pattern in sent and not self._reached.is_set():
                    halted.set()
                    if self._when == "before":
                        self._reached.set()
                        self._released.wait()
                if self._closed:
                    return
                tail = sent[-len(self._pattern) :]
                server.sendall(chunk)

    def _answers(self, client: socket.socket, server: socket.socket, halted: threading.Event) -> None:
        with suppress(OSError):
            while chunk := server.recv(_CHUNK):
                if chunk.startswith(b"-NOSCRIPT"):
                    halted.clear()
                if halted.is_set() and self._when == "behind":
                    self._reached.set()
                    self._released.wait()
                client.sendall(chunk)


@contextmanager
def halting(port: int, pattern: str, when: When) -> Iterator[RedisProxy]:
    """A proxy for the length of a `with` block."""
    proxy = RedisProxy(port, pattern.encode(), when)
    try:
        yield proxy
    finally:
        proxy.close()
