"""Two Valkeys whose roles swap behind one stable name, on which open connections stay up."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis as BlockingRedis

from benchmarks.common.tcp_switch import TcpSwitch
from tests.support.valkey import Valkey
from tests.support.waiting import wait_until


class ReplicatedValkey:
    """A primary and its replica; `url` is the stable name, which leads to the primary."""

    def __init__(self, folder: Path | None = None) -> None:
        self.primary, self.replica = (Valkey(folder and folder / name) for name in ("a", "b"))
        self._follow(self.replica, self.primary)
        self._switch = TcpSwitch(self.primary.port)
        self.url = f"redis://127.0.0.1:{self._switch.port}/0"

    def swap(self, *, promote: bool = True) -> None:
        """Swap the roles as an operator does: writes pause, the replica catches up, then the name follows.

        Without `promote` the old primary becomes a replica of a server that nobody can reach, and the name stays.
        """
        with BlockingRedis.from_url(self.primary.url) as old, BlockingRedis.from_url(self.replica.url) as new:
            old.execute_command("CLIENT", "PAUSE", 30_000, "WRITE")
            wait_until(lambda: _offset(old) == _offset(new), "the replica to catch up")
            if promote:
                new.execute_command("REPLICAOF", "NO", "ONE")
                self._switch.target = self.replica.port
            old.execute_command("REPLICAOF", "127.0.0.1", self.replica.port)
            old.execute_command("CLIENT", "UNPAUSE")
        if promote:
            self.primary, self.replica = self.replica, self.primary

    def stop(self) -> None:
        """End both, and the name."""
        self._switch.close()
        self.replica.stop()
        self.primary.stop()

    def _follow(self, replica: Valkey, primary: Valkey) -> None:
        with BlockingRedis.from_url(replica.url) as connection:
            connection.execute_command("REPLICAOF", "127.0.0.1", primary.port)
            wait_until(
                lambda: connection.info("replication")["master_link_status"] == "up", "the replica to be connected"
            )


def _offset(connection: "BlockingRedis") -> int:
    return int(connection.info("replication")["master_repl_offset"])


@contextmanager
def replicated_valkey(folder: Path | None = None) -> Iterator[ReplicatedValkey]:
    """Two servers for the length of a `with` block."""
    servers = ReplicatedValkey(folder)
    try:
        yield servers
    finally:
        servers.stop()
