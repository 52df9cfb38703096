"""Trainers' own client code against a real service with a small judge, also while the judge fails.

`make test-trainers` creates missing environments of the peers from the pins in `tests/adapters/peers/pins`.
"""

import threading
import time
import uuid
from collections.abc import Iterator

import pytest
from redis.asyncio import Redis

from regrade.contracts import Trace, as_text
from services.kit.store.rubric_store import RubricStore
from services.kit.store.trace_log import TraceLog
from tests.adapters.peers.peer import OWN, PEERS, Peer
from tests.conftest import StartReward
from tests.support.builders import ESSAY, PROMPT, TASK, activate, llm, rubric
from tests.support.faulty_judge import FaultyJudge
from tests.support.servers import ServerThread

pytestmark = [pytest.mark.trainers, pytest.mark.engine, pytest.mark.timeout(900)]

AWAY_S = 20.0
NEW_ROLLOUTS = ("art", "verifiers-0.1")
"""They name neither step nor sample, so that a second call is about new rollouts, whose judgements are known."""
WHOLE_GROUP = ("ms-swift",)
"""Peers for which one sample without a reward takes the rewards of its group with it."""
LOUD = [("openrlhf", "default"), ("skyrl-gym", "default")]
"""Peers that cannot leave a sample out unless they filter groups: by default the step ends with an error."""


@pytest.fixture(scope="module")
def judge(engine_url: str) -> Iterator[FaultyJudge]:
    door = FaultyJudge(engine_url)
    yield door
    door.close()


@pytest.fixture
def service(start_reward: StartReward, judge: FaultyJudge) -> Iterator[ServerThread]:
    """Uses the real judge, which is repaired after every test."""
    yield start_reward(bootstrap_tasks=[TASK], judge_url=judge.url, judge_in_flight=4)
    judge.behave()
    judge.start()


@pytest.fixture(params=PEERS)
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def peer(name: str, service: ServerThread) -> Iterator[Peer]:
    client = Peer(name, url=service.url, task=TASK, run="run-0")
    yield client
    client.close()


def group(size: int) -> list[dict[str, str]]:
    """Completions of a new prompt, which no cache knows."""
    prompt = f"{PROMPT} ({uuid.uuid4().hex})"
    return [{"prompt": prompt, "completion": f"{ESSAY} This is version {n} of it."} for n in range(size)]


def _are_rewards(rewards: list[object]) -> bool:
    return all(isinstance(reward, float) and 0.0 <= reward <= 1.0 for reward in rewards)


async def _traces(redis: Redis, samples: list[dict[str, str]]) -> list[Trace]:
    prompt = samples[0]["prompt"]
    return [trace for trace in (await TraceLog(redis).recent(TASK, 200)).traces if as_text(trace.prompt) == prompt]


async def test_scores_and_retries(peer: Peer, name: str, judge: FaultyJudge, redis: Redis) -> None:
    """Each sample gets a reward and one trace; a retry bills nothing and leaves no second trace."""
    if name == OWN:
        peer.score(group(1), step=0)  # it trains for a step, too
    samples = group(4)
    first = peer.score(samples)
    print(f"\n{peer.version}: {first}")
    assert _are_rewards(first)
    billed = judge.calls
    assert peer.score(samples) == pytest.approx(first)
    assert judge.calls == billed
    assert len(await _traces(redis, samples)) == (8 if name in NEW_ROLLOUTS else 4)


async def test_faults(peer: Peer, name: str, judge: FaultyJudge, redis: Redis) -> None:
    """One item that fails, a slow judge, 429s: no crash, no invented reward, no hang."""
    samples = group(4)
    judge.garbled = "This is version 1 of it."
    rewards = peer.score(samples, step=2)
    assert rewards[1] in (None, "nan")
    others = [rewards[0], *rewards[2:]]
    assert _are_rewards(others) or (name in WHOLE_GROUP and others == ["nan"] * 3)
    assert len(await _traces(redis, samples)) == 3
    judge.behave()

    judge.delay_s = 2.0
    started = time.monotonic()
    assert _are_rewards(peer.score(group(4), step=3))
    assert time.monotonic() - started < 60.0
    judge.behave()

    judge.busy_for = 5
    assert _are_rewards(peer.score(group(4), step=4))


def _follow(peer: Peer, judge: FaultyJudge, step: int) -> None:
    """One sample of a group has no reward: no advantage is made of it, and none of the others' is wrong for it."""
    samples = group(4)
    judge.garbled = "This is version 1 of it."
    advantages = peer.advantages(samples, step=step)
    print(f"\n{peer.version}: advantages {advantages}")
    assert advantages[1] in (None, 0.0)
    others = [advantages[0], *advantages[2:]]
    if others != [None] * 3:
        assert all(isinstance(value, float) for value in others)
        assert sum(others) == pytest.approx(0.0, abs=1e-3)
        assert any(abs(value) > 1e-3 for value in others)
    judge.behave()
    complete = peer.advantages(group(4), step=step)
    print(f"{peer.version}: advantages of a complete group {complete}")
    assert sum(complete) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("step", [8, 9])
def test_an_unscored_sample_in_the_peers_advantage(peer: Peer, judge: FaultyJudge, step: int) -> None:
    _follow(peer, judge, step)


@pytest.mark.parametrize("options", ["rate_limited", "sync"])
def test_other_ways_to_call_verls_function(service: ServerThread, judge: FaultyJudge, options: str) -> None:
    peer = Peer("verl", url=service.url, task=TASK, run="run-0", options=options)
    try:
        _follow(peer, judge, 8)
    finally:
        peer.close()


@pytest.mark.parametrize(("name", "options"), LOUD)
def test_a_missing_reward_is_loud(name: str, options: str, service: ServerThread, judge: FaultyJudge) -> None:
    peer = Peer(name, url=service.url, task=TASK, run="run-0", options=options)
    try:
        judge.garbled = "This is version 1 of it."
        with pytest.raises(RuntimeError, match=r"UnscoredError|NoneType"):
            peer.advantages(group(4))
    finally:
        peer.close()


def test_judge_away_for_a_while(peer: Peer, judge: FaultyJudge) -> None:
    """The trainer waits for it."""
    samples = group(4)
    judge.stop()
    back = threading.Timer(AWAY_S, judge.start)
    back.start()
    started = time.monotonic()
    assert _are_rewards(peer.score(samples, step=5))
    assert time.monotonic() - started > AWAY_S
    back.join()


async def test_two_ranks_share_a_group(
    peer: Peer, name: str, service: ServerThread, store: RubricStore, redis: Redis
) -> None:
    """Each scores a part of it; a rubric that is activated between the two does not apply to the group."""
    other = Peer(name, url=service.url, task=TASK, run="run-0", rank=1)
    try:
        samples = group(4)
        first = peer.score(samples[:2], step=6)
        await activate(store, rubric(llm("brevity")))
        both = [peer.start(samples[2:3], step=6), other.start(samples[3:], step=6)]
        assert _are_rewards(first + both[0].result(120.0) + both[1].result(120.0))
        traces = await _traces(redis, samples)
        assert len(traces) == 4
        assert len({trace.digest for trace in traces}) == 1
        later = group(2)
        peer.score(later, step=7)
        assert {trace.version for trace in await _traces(redis, later)} >= {2}
    finally:
        other.close()
