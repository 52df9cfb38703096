"""`python -m services.trainer.evaluate`: compare policies on a task, and try the judge on labelled pairs."""

import asyncio
import logging
import secrets
import sys

from regrade import BlockingRewardClient
from regrade.contracts import LabelledPair
from regrade.tasks import TaskPack, load_pack
from services.kit.http.client import JsonEndpoint, open_session
from services.kit.settings import read_settings
from services.trainer.data.corpora import examples
from services.trainer.evaluate.completions import completions_of, write
from services.trainer.evaluate.measures import Figures, measure, validity
from services.trainer.evaluate.ratings import rate
from services.trainer.evaluate.report import Comparison, table, write_report
from services.trainer.evaluate.settings import EvaluateSettings
from services.trainer.evaluate.tournament import Arbiter, Played
from services.trainer.settings import with_files

log = logging.getLogger(__name__)

_JUDGE_TIMEOUT_S = 120.0


def evaluate(settings: EvaluateSettings) -> Comparison:
    """Answer what was found, and write it to the output folder."""
    settings.out.mkdir(parents=True, exist_ok=True)
    pack = load_pack(settings.task)
    taken = settings.data.model_copy(update={"limit": min(settings.data.limit, settings.count)})
    asked = examples(taken, pack, settings.seed)
    prompts, references = [e.prompt for e in asked], [e.reference for e in asked]
    completions: dict[str, list[str]] = {}
    for name, entrant in settings.entrants.items():
        log.info("completions of %s", name)
        completions[name] = completions_of(
            entrant, prompts, max_tokens=settings.max_completion_tokens, batch=settings.batch, use_cpu=settings.use_cpu
        )
        write(settings.out / f"{name}.jsonl", prompts, completions[name])
    ratings, bill = None, {}
    if settings.judge_url and len(completions) > 1:
        played = asyncio.run(_play(settings, pack, prompts, completions))
        bill = _bill(settings, played)
        if played.games:
            ratings = rate(played.games, draws=settings.draws, level=settings.level, seed=settings.seed)
    figures = {name: measure(pack, texts, references) for name, texts in completions.items()}
    found = Comparison(settings.task, len(prompts), figures, ratings, bill, _validity(settings))
    write_report(found, settings.out)
    return found


async def _play(
    settings: EvaluateSettings, pack: TaskPack, prompts: list[str], completions: dict[str, list[str]]
) -> Played:
    async with open_session(connections=settings.judge_in_flight, timeout_s=_JUDGE_TIMEOUT_S) as session:
        arbiter = Arbiter(
            JsonEndpoint(session, settings.judge_url, key=settings.judge_key),
            model=settings.judge_model,
            role=pack.judge_role,
            fence_key=secrets.token_bytes(32),
            in_flight=settings.judge_in_flight,
        )
        return await arbiter.play(prompts, completions)


def _bill(settings: EvaluateSettings, played: Played) -> Figures:
    cost = (played.prompt_tokens * settings.price_in + played.completion_tokens * settings.price_out) / 1e6
    tokens = {"prompt_tokens": float(played.prompt_tokens), "completion_tokens": float(played.completion_tokens)}
    return {"unusable": float(played.unusable), **tokens, "cost": cost}


def _validity(settings: EvaluateSettings) -> Figures:
    if settings.pairs is None:
        return {}
    lines = settings.pairs.read_text(encoding="utf-8").splitlines()
    pairs = [LabelledPair.model_validate_json(line) for line in lines if line.strip()]
    with BlockingRewardClient(settings.reward_url, key=settings.reward_key.get_secret_value()) as client:
        return validity(client, settings.task, pairs)


def main() -> None:
    """Read files, environment and options, then evaluate."""
    logging.basicConfig(level=logging.INFO)
    kind, arguments = with_files(EvaluateSettings, sys.argv[1:])
    sys.stdout.write(table(evaluate(read_settings(kind, arguments))))


if __name__ == "__main__":
    main()
