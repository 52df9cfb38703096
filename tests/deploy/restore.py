"""Takes the backup of docs/operate.md from the running stack and restores it into a new Redis."""

from tests.deploy import stack
from tests.deploy.load import TASK

_CLI = 'REDISCLI_AUTH=$(cut -d" " -f2 /run/secrets/redis.conf) valkey-cli'
_COPY = "regrade-drill-restored"


def backup_and_restore() -> dict[str, int]:
    """The contents of a Redis restored from the dump alone. Raises `StackError` if they differ from what was dumped.

    The archive may trim traces during the dump, so their number may lie between those before and after it.
    """
    [redis] = stack.containers("redis")
    before = _counts(redis, _CLI)
    stack.docker("exec", redis, "sh", "-c", f"{_CLI} --rdb /data/backup.rdb")
    behind = _counts(redis, _CLI)
    [image] = stack.docker("inspect", "--format", "{{.Config.Image}}", redis)
    try:
        stack.docker("run", "-d", "--name", _COPY, "--volumes-from", f"{redis}:ro", "--tmpfs", "/restored", image,
                     "sh", "-c", "cp /data/backup.rdb /restored/dump.rdb && exec valkey-server --appendonly no"
                     " --dir /restored --save ''")  # fmt: skip
        _await_pong()
        after = _counts(_COPY, "valkey-cli")
        stack.docker("exec", _COPY, "valkey-cli", "CONFIG", "SET", "appendonly", "yes")
    finally:
        stack.docker("rm", "-f", _COPY)
    least, most = sorted((before["traces"], behind["traces"]))
    if not least <= after["traces"] <= most or after["rubrics"] != before["rubrics"] or not before["rubrics"]:
        raise stack.StackError(f"restored {after}, had {before}, then {behind}")
    return after


def _counts(container: str, cli: str) -> dict[str, int]:
    def ask(command: str) -> int:
        return int(stack.docker("exec", container, "sh", "-c", f"{cli} {command}")[0])

    return {
        "keys": ask("DBSIZE"),
        "traces": ask(f"XLEN 'rg:{{{TASK}}}:traces'"),
        "rubrics": ask(f"HLEN 'rg:{{{TASK}}}:versions:main'"),
    }


def _await_pong() -> None:
    stack.docker("exec", _COPY, "sh", "-c", "until valkey-cli ping | grep -q PONG; do sleep 0.2; done")
