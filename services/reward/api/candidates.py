"""Rubrics that come with a request: their patterns and schemas are programs, which are compiled and run here."""

from regrade.contracts import Rubric
from services.kit.checks.base import CheckError
from services.kit.checks.registry import has_own_language, is_surely_valid, validate_check
from services.kit.checks.workers import CheckWorkers
from services.kit.errors import Forbidden, Invalid, NotFound
from services.kit.lru_cache import LruCache
from services.kit.store.rubric_store import RubricStore

_MAX_ADMITTED = 1_024
"""Digests of candidates; a cycle has some dozens, each scored in many requests."""


class Candidates:
    """Admits candidates: one with a pattern or schema of its own only from an operator, unless it is stored already."""

    def __init__(self, store: RubricStore, workers: CheckWorkers) -> None:
        self._store = store
        self._workers = workers
        self._admitted: LruCache[str, None] = LruCache(_MAX_ADMITTED)

    async def admit(self, task: str, rubric: Rubric, *, may_operate: bool) -> None:
        """Raises `Forbidden`, or `Invalid` for a check that cannot run."""
        languages = [criterion for criterion in rubric.check_criteria if has_own_language(criterion.check)]
        if not languages or rubric.digest in self._admitted:
            return
        if not may_operate and not await self._is_stored(task, rubric):
            raise Forbidden(
                f"criterion {languages[0].id!r}: a candidate with a check {languages[0].check.check!r} of its own "
                "needs an operator key; send one, or name a stored rubric by its version or digest",
                code="candidate_needs_operator",
            )
        await self.validate(rubric)
        self._admitted[rubric.digest] = None

    async def validate(self, rubric: Rubric) -> None:
        """Raises `Invalid` for a check that its library refuses, or cannot compile within the limits of a worker."""
        share = self._workers.share()
        for criterion in rubric.check_criteria:
            if is_surely_valid(criterion.check):
                continue
            try:
                await share.run(validate_check, criterion.check)
            except (ValueError, CheckError) as error:
                raise Invalid(f"criterion {criterion.id!r}: {error}", code="invalid_check") from error

    async def _is_stored(self, task: str, rubric: Rubric) -> bool:
        try:
            await self._store.get(task, rubric.digest)
        except NotFound:
            return False
        return True
