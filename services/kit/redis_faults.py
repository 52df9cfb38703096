"""What an error of Redis means: its kind, its sentence, and whether the connection leads to the wrong server.

Redis names its errors by a first word (`READONLY ...`). Errors about one key or script concern their caller alone. All
others concern the server, whose place another one may have taken behind the same name: the connection is given up, so
that the next one resolves the name again.
"""

import re
from enum import StrEnum
from typing import NamedTuple

from redis import exceptions as redis_errors


class FaultKind(StrEnum):
    """The kinds of Redis errors; an error body has the code `redis_<kind>`."""

    UNAVAILABLE = "unavailable"
    READ_ONLY = "read_only"
    NO_PRIMARY = "no_primary"
    LOADING = "loading"
    BUSY_SCRIPT = "busy_script"
    OUT_OF_MEMORY = "out_of_memory"
    NOT_PERSISTED = "not_persisted"
    TOO_FEW_REPLICAS = "too_few_replicas"
    AUTHENTICATION = "authentication"
    NO_PERMISSION = "no_permission"
    CLUSTER = "cluster"
    UNKNOWN_COMMAND = "unknown_command"
    REFUSED = "refused"
    WRONG_TYPE = "wrong_type"
    FAILED = "failed"


_SENTENCES = {
    FaultKind.UNAVAILABLE: "Redis is not reachable or does not answer in time",
    FaultKind.READ_ONLY: "the Redis server is a read-only replica; the host of REDIS_URL must lead to the primary",
    FaultKind.NO_PRIMARY: "the Redis server is a replica without a link to its primary",
    FaultKind.LOADING: "Redis is loading its data",
    FaultKind.BUSY_SCRIPT: "Redis is busy with a long script",
    FaultKind.OUT_OF_MEMORY: "Redis is out of memory: raise maxmemory or archive and trim traces",
    FaultKind.NOT_PERSISTED: "Redis cannot write its data to disk and refuses writes",
    FaultKind.TOO_FEW_REPLICAS: "Redis refuses writes because too few replicas are connected",
    FaultKind.AUTHENTICATION: "Redis refuses the user or password of REDIS_URL",
    FaultKind.NO_PERMISSION: "the Redis user may not run a command or use a key that Regrade needs",
    FaultKind.CLUSTER: "Redis is in cluster mode, which is not supported: use one primary, with replicas if needed",
    FaultKind.UNKNOWN_COMMAND: "the Redis server, or a proxy before it, does not have a command that Regrade needs",
    FaultKind.REFUSED: "the Redis server, or a proxy before it, refuses commands",
    FaultKind.WRONG_TYPE: "a key in Redis is not of the type that Regrade writes: something else uses this database",
    FaultKind.FAILED: "a command failed in Redis",
}
_OF_ONE_COMMAND = frozenset({FaultKind.WRONG_TYPE, FaultKind.FAILED})
_LASTING = _OF_ONE_COMMAND | {
    FaultKind.AUTHENTICATION, FaultKind.NO_PERMISSION, FaultKind.CLUSTER, FaultKind.UNKNOWN_COMMAND, FaultKind.REFUSED
}  # fmt: skip
_KINDS = {
    "READONLY": FaultKind.READ_ONLY,
    "UNBLOCKED": FaultKind.READ_ONLY,
    "MASTERDOWN": FaultKind.NO_PRIMARY,
    "LOADING": FaultKind.LOADING,
    "BUSY": FaultKind.BUSY_SCRIPT,
    "OOM": FaultKind.OUT_OF_MEMORY,
    "MISCONF": FaultKind.NOT_PERSISTED,
    "NOREPLICAS": FaultKind.TOO_FEW_REPLICAS,
    "NOAUTH": FaultKind.AUTHENTICATION,
    "WRONGPASS": FaultKind.AUTHENTICATION,
    "NOPERM": FaultKind.NO_PERMISSION,
    "MOVED": FaultKind.CLUSTER,
    "ASK": FaultKind.CLUSTER,
    "TRYAGAIN": FaultKind.CLUSTER,
    "CROSSSLOT": FaultKind.CLUSTER,
    "CLUSTERDOWN": FaultKind.CLUSTER,
    "WRONGTYPE": FaultKind.WRONG_TYPE,
    "ERR": FaultKind.FAILED,
    "NOSCRIPT": FaultKind.FAILED,
    "NOGROUP": FaultKind.FAILED,
    "BUSYGROUP": FaultKind.FAILED,
    "BUSYKEY": FaultKind.FAILED,
    "EXECABORT": FaultKind.FAILED,
}
"""By an error's first word. A word that is not here comes from a proxy, or from a server in an unforeseen state."""
_CLASSES: tuple[tuple[type[Exception], FaultKind], ...] = (
    (redis_errors.BusyLoadingError, FaultKind.LOADING),
    (redis_errors.AuthenticationError, FaultKind.AUTHENTICATION),
    (redis_errors.AuthenticationWrongNumberOfArgsError, FaultKind.AUTHENTICATION),
    (redis_errors.AuthorizationError, FaultKind.NO_PERMISSION),
    (redis_errors.NoPermissionError, FaultKind.NO_PERMISSION),
    (redis_errors.ReadOnlyError, FaultKind.READ_ONLY),
    (redis_errors.MasterDownError, FaultKind.NO_PRIMARY),
    (redis_errors.OutOfMemoryError, FaultKind.OUT_OF_MEMORY),
    (redis_errors.ClusterDownError, FaultKind.CLUSTER),
    (redis_errors.ClusterCrossSlotError, FaultKind.CLUSTER),
    (redis_errors.AskError, FaultKind.CLUSTER),
    (redis_errors.TryAgainError, FaultKind.CLUSTER),
    (redis_errors.NoScriptError, FaultKind.FAILED),
    (redis_errors.ExecAbortError, FaultKind.FAILED),
    (redis_errors.ConnectionError, FaultKind.UNAVAILABLE),
    (redis_errors.TimeoutError, FaultKind.UNAVAILABLE),
    (OSError, FaultKind.UNAVAILABLE),
)
"""By class, because redis-py drops the first word of errors that have one."""

_FIRST_WORD = re.compile(r"-?([A-Z]+)(?: |$)")
_UNKNOWN_COMMAND = re.compile(r"(?:ERR )?unknown (?:redis )?(?:sub)?command", re.IGNORECASE)
_IN_SCRIPT = re.compile(
    r"ERR Error running script[^@]{0,200}@user_script:[^@]{0,20}(?:@user_script:[^@]{0,20})?: (-[A-Z].*)"
)
"""Redis before 7 wraps the error of a command that a script calls."""
_BY_TEXT = (("ERR max number of clients", FaultKind.UNAVAILABLE), ("ERR ACL failure", FaultKind.NO_PERMISSION))
_ARGUMENTS = re.compile(r",? with args beginning with.*", re.DOTALL)
_MAX_DETAIL = 300


class RedisFault(NamedTuple):
    """An error's kind, and its text without the arguments of a command, among which a password may be."""

    kind: FaultKind
    detail: str

    @property
    def code(self) -> str:
        """The code of an error body."""
        return f"redis_{self.kind}"

    @property
    def sentence(self) -> str:
        """What is wrong, for whoever reads an error body or `/readyz`."""
        return _SENTENCES[self.kind]

    @property
    def is_of_server(self) -> bool:
        """Whether it concerns the server, and so all commands: another server may have taken its place."""
        return self.kind not in _OF_ONE_COMMAND

    @property
    def is_lasting(self) -> bool:
        """Whether only a change of the configuration can end it."""
        return self.kind in _LASTING


def fault_of(error: BaseException) -> RedisFault:
    """The fault that an error of redis-py, of the shared connection, or of the network means."""
    known = getattr(error, "fault", None)
    if isinstance(known, RedisFault):
        return known
    text = _ARGUMENTS.sub("", str(error))[:_MAX_DETAIL]
    kind = next((kind for error_type, kind in _CLASSES if isinstance(error, error_type)), None)
    if kind is None:
        stripped = getattr(error, "status_code", None)  # redis-py drops `ERR`, too
        kind = _kind_of(f"{stripped} {text}" if stripped and not text.startswith(stripped) else text)
    return RedisFault(kind, f"{type(error).__name__}: {text}")


def problem_text(error: BaseException) -> str:
    """The code and the sentence of an error, for `/readyz` and status texts."""
    fault = fault_of(error)
    return f"{fault.code}: {fault.sentence}"


def _kind_of(text: str) -> FaultKind:
    if _UNKNOWN_COMMAND.match(text):
        return FaultKind.UNKNOWN_COMMAND
    for start, kind in _BY_TEXT:
        if text.startswith(start):
            return kind
    wrapped = _IN_SCRIPT.match(text)
    word = _FIRST_WORD.match(text if wrapped is None else wrapped[1])
    return FaultKind.REFUSED if word is None else _KINDS.get(word[1], FaultKind.REFUSED)
