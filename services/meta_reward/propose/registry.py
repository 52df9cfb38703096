"""Who proposes: the proposers of each strategy, in the order in which they are asked."""

from services.meta_reward.clients.meta_judge import MetaJudge
from services.meta_reward.propose.base import Proposer
from services.meta_reward.propose.catalogue import CatalogueProposer
from services.meta_reward.propose.maintenance import PruningProposer, TighteningProposer
from services.meta_reward.propose.pairwise import PairwiseProposer
from services.meta_reward.propose.paper import PaperProposer
from services.meta_reward.settings import MetaRewardSettings


def build_proposers(settings: MetaRewardSettings, meta_judge: MetaJudge | None) -> list[Proposer]:
    """Strategy `paper` has the paper's alone; without a meta-judge those are left that ask none."""
    asking = [] if meta_judge is None else [PaperProposer(meta_judge)]
    if settings.strategy == "paper":
        return [*asking]
    proposers: list[Proposer] = [CatalogueProposer(), PruningProposer(), *asking]
    if meta_judge is not None:
        proposers += [PairwiseProposer(meta_judge), TighteningProposer(meta_judge)]
    return proposers
