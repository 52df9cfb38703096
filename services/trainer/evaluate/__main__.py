"""`python -m services.trainer.evaluate`: compare policies on a task, and measure a judge on labelled pairs."""

import asyncio
import logging
import secrets
import sys

from regrade import BlockingRewardClient, RegradeError
from regrade.tasks import BrokenTaskError, TaskPack, UnknownTaskError, load_pack
from services.kit.http.client import JsonClient, open_session
from services.kit.private_files import keep_files_private
from services.kit.settings import read_settings
from services.trainer.data.corpora import examples
from services.trainer.data.mapping import MappingError
from services.trainer.data.sources import SourceError
from services.trainer.evaluate.completions import EntrantError, completions_of, read_pairs, write_completions
from services.trainer.evaluate.metrics import Metrics, judge_validity, task_metrics
from services.trainer.evaluate.ratings import rate
from services.trainer.evaluate.report import Comparison, table, write_report
from services.trainer.evaluate.settings import EvaluateSettings
from services.trainer.evaluate.tournament import PairwiseJudge, TournamentResult
from services.trainer.settings import with_files

log = logging.getLogger(__name__)

_JUDGE_TIMEOUT_S = 120.0


def evaluate(settings: EvaluateSettings) -> Comparison:
    """Generate or read completions, measure them, run the tournament, and write the report to `out`."""
    settings.out.mkdir(parents=True, exist_ok=True)
    pack = load_pack(settings.task)
    data = settings.data.model_copy(update={"limit": min(settings.data.limit, settings.count)})
    chosen = examples(data, pack, settings.seed)
    prompts, references = [e.prompt for e in chosen], [e.reference for e in chosen]
    completions: dict[str, list[str]] = {}
    for name, entrant in settings.entrants.items():
        log.info("completions of %s", name)
        completions[name] = completions_of(
            entrant,
            prompts,
            max_tokens=settings.max_completion_tokens,
            batch=settings.batch,
            use_cpu=settings.use_cpu,
            in_template=pack.for_policy,
        )
        write_completions(settings.out / f"{name}.jsonl", prompts, completions[name])
    ratings, bill = None, {}
    if settings.judge_url and len(completions) > 1:
        result = asyncio.run(_play(settings, pack, prompts, completions))
        bill = _bill(settings, result)
        if result.games:
            ratings = rate(result.games, seed=settings.seed)
    figures = {name: task_metrics(pack, texts, references) for name, texts in completions.items()}
    comparison = Comparison(settings.task, len(prompts), figures, ratings, bill, _validity(settings))
    write_report(comparison, settings.out)
    return comparison


async def _play(
    settings: EvaluateSettings, pack: TaskPack, prompts: list[str], completions: dict[str, list[str]]
) -> TournamentResult:
    async with open_session(connections=settings.judge_in_flight, timeout_s=_JUDGE_TIMEOUT_S) as session:
        judge = PairwiseJudge(
            JsonClient(session, settings.judge_url, key=settings.judge_key),
            model=settings.judge_model,
            role=pack.judge_role,
            fence_key=secrets.token_bytes(32),
            in_flight=settings.judge_in_flight,
        )
        return await judge.play(prompts, completions)


def _bill(settings: EvaluateSettings, result: TournamentResult) -> Metrics:
    cost = (result.prompt_tokens * settings.price_in + result.completion_tokens * settings.price_out) / 1e6
    tokens = {"prompt_tokens": float(result.prompt_tokens), "completion_tokens": float(result.completion_tokens)}
    return {"unusable": float(result.unusable), **tokens, "cost": cost}


def _validity(settings: EvaluateSettings) -> Metrics:
    if settings.pairs is None:
        return {}
    pairs = read_pairs(settings.pairs)
    with BlockingRewardClient(settings.reward_url, key=settings.reward_key.get_secret_value()) as client:
        return judge_validity(client, settings.task, pairs)


def main() -> None:
    """Read files, environment and options, then evaluate. An input that cannot be used ends it with one line."""
    logging.basicConfig(level=logging.INFO)
    keep_files_private()
    kind, arguments = with_files(EvaluateSettings, sys.argv[1:])
    settings = read_settings(kind, arguments)
    try:
        comparison = evaluate(settings)
    except (EntrantError, SourceError, MappingError, UnknownTaskError, BrokenTaskError, RegradeError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    sys.stdout.write(table(comparison))


if __name__ == "__main__":
    main()
