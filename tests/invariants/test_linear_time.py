"""Whatever a policy writes is read in linear time: every function over untrusted text, by as many shapes of text.

A function that the modules below gain is covered here, or named as one that reads no untrusted text.
"""

import asyncio
import importlib
import inspect
import pkgutil
import random
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from pydantic import TypeAdapter

from regrade.adapters import chat
from regrade.contracts import ScoreItem, Trace, content
from regrade.contracts.checks import Check, CheckParameters
from regrade.control_tokens import CONTROL_TOKEN, strip_end_tokens
from regrade.tasks import anchors, load_pack
from regrade.tasks.anchors import build_anchors
from regrade.tasks.pack import Original
from services.kit.checks.base import CheckInput
from services.kit.checks.registry import CHECKS, evaluate_check
from services.kit.checks.workers import CheckWorkers
from services.kit.text import features, fence, final_answer, folding, label_match, language, reasoning, segments
from services.kit.text.injection import injection_flags
from services.meta_reward.evidence import sampling, text_features, window
from services.meta_reward.gate import quotations
from services.meta_reward.gate.early_originals import select_early as select_originals
from services.meta_reward.gate.lint import lint
from services.reward.items import identity
from services.reward.items.text import prepare_text
from services.reward.judge import prompt as judge_prompt
from services.reward.screening.guards import guard
from tests.support.builders import TASK, llm, rubric, trace
from tests.support.text_shapes import SHAPES, Shape

MODULES = [
    "services.kit.text",
    "services.kit.checks",
    "services.reward.screening",
    "services.reward.items",
    "services.reward.judge.prompt",
    "services.meta_reward.evidence",
    "services.meta_reward.gate.lint",
    "services.meta_reward.gate.quotations",
    "services.meta_reward.gate.early_originals",
    "regrade.adapters.chat",
    "regrade.contracts.content",
    "regrade.control_tokens",
    "regrade.tasks.anchors",
]
SHORT = 10_000
FACTOR = 4
MAX_GROWTH = 8.0
"""Between 4, which is linear, and 16, which is quadratic."""
FLOOR_S = 0.01
"""What takes less at the larger size is quick enough at the largest text that a request may hold."""

LABELS = ("yes", "no", "not correct", "correct", "对", "不对", "正确", "참", "ถูก", "a a a a a a a b")
OTHER = Original(id="o", prompt="A prompt.", completion="Some words. And more of them.")


def _trace(text: str, item_id: str = "a") -> Trace:
    valid = text.replace("\ud800", "x") or "x"
    return trace(item_id, prompt=f"{item_id} {valid}", completion=valid, metadata={"item": item_id})


def _lint(text: str) -> object:
    """A criterion of the greatest length, and a sampled text of any."""
    criterion = llm("b", description=text.replace("\ud800", "x")[:2_000] or "x")
    return lint(rubric(llm("a"), criterion), rubric(llm("a")), [text], {}, "en")


def _evidence(text: str) -> object:
    traces = [_trace(text), _trace(text, "b")]
    summary = window.summarise_window(traces, window.extend_baselines({}, traces))
    return window.build_evidence(summary, {}, ("0", "1"))


def _sample(text: str) -> object:
    traces = [_trace(text), _trace(text, "b")]
    pool = sampling.SamplingPool(traces, text_features.extract_features(traces))
    return [list(strategy(pool, random.Random(0))) for strategy in sampling.STRATEGIES.values()]


def _originals(text: str) -> object:
    traces = [_trace(f"{text} {n}.", f"{n}") for n in range(8)]
    return select_originals(traces, build_anchors(load_pack(TASK), 1), 8)


def _transforms(text: str) -> object:
    original = Original.model_construct(id="a", prompt="x", completion=text or "x", reference=None)
    return [transform(original, random.Random(0), [OTHER]) for transform in anchors.TRANSFORMS.values()]


def _as_chat(text: str) -> object:
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": [{"type": "text", "text": text}]},
    ]
    return chat.split_prompt(turns) if "\ud800" not in text else None


def _tokens(function: Callable[[list[str], list[str]], object]) -> Callable[[str], object]:
    def run(text: str) -> object:
        tokens = segments.words(text)
        return function(tokens, tokens)

    return run


def _conversations(text: str) -> object:
    prepared = prepare_text(text)
    part = judge_prompt.fenced("TASK", prepared, b"key")
    system = judge_prompt.system_turn("role", rubric(llm("a")), b"key")
    judged = judge_prompt.judge_item(
        system=system, task=part, reference=prepared, completion=prepared, criteria=(llm("a"),), fence_key=b"key"
    )
    judge_prompt.plan_conversation(judged, 9)
    judge_prompt.rationale_conversation(judged, llm("a"), 9)
    executed = judge_prompt.execution_conversation(judged, text, 9, b"key")
    return judge_prompt.append_level_question(executed, text, judged.criteria)


def _identities(text: str) -> object:
    prepared = prepare_text(text)
    scored = ScoreItem.model_construct(prompt=text, completion=text, reference=text, scope=None)
    content = identity.content_key(scored, prepared, prepared)
    base = identity.item_base("key", text, text, content)
    return identity.trace_id(identity.item_identity(base, "0" * 64)), identity.judgement_identities([content], "m", "c")


READERS: dict[str, Callable[[str], object]] = {
    "services.kit.text.features.distinct_share": _tokens(lambda tokens, _: features.distinct_share(tokens, 4)),
    "services.kit.text.features.copied_share": _tokens(features.copied_share),
    "services.kit.text.features.topic_overlap": _tokens(features.topic_overlap),
    "services.kit.text.features.compression_ratio": features.compression_ratio,
    "services.kit.text.fence.neutralise": fence.neutralise,
    "services.kit.text.fence.respell": lambda text: fence.respell(CONTROL_TOKEN, text),
    "services.kit.text.fence.utf8": fence.utf8,
    "services.kit.text.fence.is_plain": lambda text: fence.is_plain(fence.utf8(text)),
    "services.kit.text.fence.without_control_tokens": fence.without_control_tokens,
    "services.kit.text.fence.fence": lambda text: fence.fence("TASK", text, b"key"),
    "services.kit.text.fence.enclose": lambda text: fence.enclose("TASK", text, b"0" * 32, b"key"),
    "services.kit.text.folding.bounded_marks": folding.bounded_marks,
    "services.kit.text.folding.compatible": folding.compatible,
    "services.kit.text.folding.folded": folding.folded,
    "services.kit.text.label_match.normalise": label_match.normalise,
    "services.kit.text.label_match.last_label": lambda text: label_match.last_label(text, LABELS),
    "services.kit.text.language.detect_language": language.detect_language,
    "services.kit.text.language.language_of": language.language_of,
    "services.kit.text.language.is_shorter": lambda text: language.is_shorter(text, 40),
    "services.kit.text.final_answer.boxes": final_answer.boxes,
    "services.kit.text.final_answer.final_box": final_answer.final_box,
    "services.kit.text.final_answer.final_answer": final_answer.final_answer,
    "services.kit.text.reasoning.part_reasoning": reasoning.part_reasoning,
    "services.kit.text.segments.words": segments.words,
    "services.kit.text.segments.runs": segments.runs,
    "services.kit.text.segments.split_unspaced": lambda text: list(map(segments.split_unspaced, segments.runs(text))),
    "services.kit.text.segments.sentence_count": segments.sentence_count,
    "services.kit.text.segments.ends_properly": segments.ends_properly,
    "services.kit.text.segments.ending_kind": segments.ending_kind,
    "services.reward.screening.guards.guard": lambda text: guard(prepare_text(text), max_chars=1 << 30),
    "services.kit.text.injection.injection_flags": lambda text: injection_flags(fence.utf8(text)),
    "services.reward.items.text.prepare_text": prepare_text,
    "services.reward.items.identity.content_key": _identities,
    "services.reward.judge.prompt.judge_item": _conversations,
    "services.meta_reward.evidence.sampling.great_pairs": _sample,
    "services.meta_reward.evidence.text_features.read_text": text_features.read_text,
    "services.meta_reward.evidence.text_features.extract_features": lambda text: text_features.extract_features(
        [_trace(text), _trace(text, "b")]
    ),
    "services.meta_reward.evidence.window.summarise_window": _evidence,
    "services.meta_reward.gate.lint.lint": _lint,
    "services.meta_reward.gate.quotations.find_quotation": lambda text: quotations.find_quotation([text], [text]),
    "services.meta_reward.gate.early_originals.select_early": _originals,
    "regrade.adapters.chat.parse_prompt": chat.parse_prompt,
    "regrade.adapters.chat.split_prompt": _as_chat,
    "regrade.adapters.chat.completion_after_prompt": lambda text: chat.completion_after_prompt(text + text, text),
    "regrade.contracts.content.read_prompt": lambda text: content.read_prompt(text.replace("\ud800", "x")),
    "regrade.contracts.content.read_completion": lambda text: content.read_completion(text.replace("\ud800", "x")),
    "regrade.control_tokens.strip_end_tokens": strip_end_tokens,
    "regrade.tasks.anchors.TRANSFORMS": _transforms,
    "regrade.tasks.anchors.has_more_than_first_line": lambda text: anchors.has_more_than_first_line(text),
    "regrade.tasks.anchors.is_substantially_changed": lambda text: anchors.is_substantially_changed(text, text + " x"),
}
"""By the name of a function over untrusted text, a call of it with one such text."""

EXEMPT = {
    "services.kit.text.fence": {"blake2b_key": "a key"},
    "services.kit.text.segments": {"character_class": "characters of Unicode"},
    "services.kit.checks.answer": {"equal_answer": "runs in a worker"},
    "services.kit.text.math_equal": {"math_equal": "runs in a worker, with limits of time and memory"},
    "services.kit.checks.base": {"ramp": "numbers", "share": "booleans", "tenth_percentile": "numbers"},
    "services.kit.checks.registry": {
        "evaluate_check": "by every check below", "has_own_language": "a check", "is_surely_valid": "a check",
        "runs_in_worker": "a check", "validate_check": "a check"
    },
    "services.reward.items.identity": {
        "request_key": "names", "item_base": "by content_key", "item_identity": "names", "trace_id": "by content_key",
        "judgement_identities": "by content_key",
    },
    "services.reward.judge.prompt": dict.fromkeys(
        ("system_turn", "fenced", "level_conversation", "rationale_conversation", "plan_conversation",
         "execution_conversation", "append_level_question"), "by judge_item",
    ),
    "services.meta_reward.evidence.alarms": {"update_alarms": "numbers"},
    "services.meta_reward.evidence.audit": dict.fromkeys(
        ("with_score", "change_since_activation", "change_by_activation", "audit_figures"), "numbers"
    ),
    "services.meta_reward.evidence.rank_statistics": dict.fromkeys(
        ("spearman", "ranks", "all_equal", "means", "z_scores"), "numbers"
    ),
    "services.meta_reward.evidence.sampling": dict.fromkeys(
        ("sample_seed", "draw_sample", "sampled_traces", "sampled_pairs", "uniform", "recent", "suspicious",
         "disagreement"),
        "ids and numbers",
    ),
    "services.meta_reward.evidence.text_features": {"shares": "names of kinds"},
    "services.meta_reward.evidence.window": dict.fromkeys(
        ("is_evidence", "by_group", "has_equal_rewards", "zero_variance_share", "extend_baselines",
         "criterion_figures"),
        "numbers",
    ) | {"build_evidence": "by summarise_window"},
    "services.meta_reward.gate.early_originals": {"missing_originals": "numbers"},
    "regrade.contracts.content": {"read_reference": "the dataset's", "turn_role": "the dataset's"},
    "regrade.tasks.anchors": dict.fromkeys(anchors.TRANSFORMS, "by TRANSFORMS")
    | {"build_anchors": "by select_early", "is_held_out": "an id"},
}  # fmt: skip
"""By module, functions that read no untrusted text, with what they read, or where they are covered."""

CHECK_PARAMETERS: dict[str, dict[str, Any]] = {
    "min_words": {"words": 9}, "max_words": {"words": 9}, "min_sentences": {"sentences": 3},
    "language": {"language": "en"},
    "matches": {"pattern": r"(a|aa)+$|(.*.*)x"}, "verdict_equal": {"verdicts": list(LABELS)},
    "json_schema": {"schema": {"type": "object"}},
}  # fmt: skip
"""Parameters of the checks that need some."""
COMPOSITES = tuple(name for name in READERS if name.startswith(("services.meta_reward.", "services.reward.judge.")))
"""Call many of the others, and take long: they get every sixth shape."""


WORKERS_ALONE = "services.kit.text.math_answer"
"""Modules that are called in worker processes, with limits of time and memory."""


def _modules() -> Iterator[ModuleType]:
    for name in MODULES:
        module = importlib.import_module(name)
        yield module
        for inner in pkgutil.walk_packages(getattr(module, "__path__", []), f"{name}."):
            if not inner.name.startswith(WORKERS_ALONE):
                yield importlib.import_module(inner.name)


def test_every_function_is_covered_or_reads_no_untrusted_text() -> None:
    names = {
        f"{module.__name__}.{name}"
        for module in _modules()
        for name, function in vars(module).items()
        if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
    }
    exempt = {f"{module}.{name}" for module, functions in EXEMPT.items() for name in functions}
    assert names - READERS.keys() - exempt == set(), "cover it, or say what it reads"
    assert (READERS.keys() | exempt) - names <= {"regrade.tasks.anchors.TRANSFORMS"}, "no such function"


def _seconds(function: Callable[[str], object], text: str, runs: int = 1) -> float:
    times = []
    for _ in range(runs):
        started = time.thread_time()
        function(text)
        times.append(time.thread_time() - started)
    return min(times)


def _growth(function: Callable[[str], object], shape: Shape) -> float:
    """How many times as long the text of four times the size takes; 0 for what is quick."""
    long = shape(FACTOR * SHORT)
    if _seconds(function, long) < FLOOR_S or (slow := _seconds(function, long, 2)) < FLOOR_S:
        return 0.0
    return slow / max(_seconds(function, shape(SHORT), 3), FLOOR_S / FACTOR**2)


@pytest.mark.parametrize("name", READERS)
def test_the_time_is_linear_in_the_text(name: str) -> None:
    shapes = SHAPES[::6] if name in COMPOSITES else SHAPES
    growth = {shape: _growth(READERS[name], text) for shape, text in shapes}
    assert {shape: ratio for shape, ratio in growth.items() if ratio > MAX_GROWTH} == {}


@pytest.mark.parametrize("kind", CHECKS, ids=lambda kind: kind.__name__)
def test_the_time_of_checks_and_their_proposals_is_linear(kind: type[CheckParameters]) -> None:
    name = kind.model_fields["check"].annotation.__args__[0]  # type: ignore[union-attr]
    check: Check = TypeAdapter(Check).validate_python({"check": name} | CHECK_PARAMETERS.get(name, {}))
    entry = CHECKS[kind]
    if entry.evaluate is None:
        return  # in a worker, with limits of time and memory

    def evaluate(text: str) -> object:
        pairs = [(text, text), ("Why?", text)]
        proposed = entry.propose(pairs, pairs) if entry.propose else None
        inputs = CheckInput(prompt=text, completion=text, reference="yes")
        return asyncio.run(evaluate_check(check, inputs, CheckWorkers().share())), proposed

    growth = {shape: _growth(evaluate, text) for shape, text in SHAPES[::3]}
    assert {shape: ratio for shape, ratio in growth.items() if ratio > MAX_GROWTH} == {}
