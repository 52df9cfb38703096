"""The proposers, in the order in which they run."""

from collections.abc import Callable

from services.meta_reward.clients.meta_judge import MetaJudge
from services.meta_reward.propose.base import Proposer
from services.meta_reward.propose.catalogue import CatalogueProposer
from services.meta_reward.propose.maintenance import PruningProposer, TighteningProposer
from services.meta_reward.propose.pairwise import PairwiseProposer
from services.meta_reward.propose.paper import PaperProposer
from services.meta_reward.settings import MetaRewardSettings

PROPOSERS: tuple[Callable[[], Proposer], ...] = (
    CatalogueProposer,
    PruningProposer,
)
META_JUDGE_PROPOSERS: tuple[Callable[[MetaJudge], Proposer], ...] = (
    PaperProposer,
    PairwiseProposer,
    TighteningProposer,
)


def build_proposers(settings: MetaRewardSettings, meta_judge: MetaJudge | None) -> list[Proposer]:
    """All proposers, without a meta-judge those that need none; the paper's alone under strategy `paper`."""
    if settings.strategy == "paper":
        return [] if meta_judge is None else [PaperProposer(meta_judge)]
    proposers = [build() for build in PROPOSERS]
    return proposers if meta_judge is None else proposers + [build(meta_judge) for build in META_JUDGE_PROPOSERS]
