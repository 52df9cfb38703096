"""The hacking experiment: the policy learns from rewards alone, labels are not sent, figures are as documented."""

import json
import math
from collections import Counter

import pytest

from benchmarks.hacking import scripted_meta_judge
from benchmarks.hacking.experiment import ARMS, KINDS, batch, initial_probabilities
from benchmarks.hacking.measure import AGAINST, area, fall, honest_share, rejected
from benchmarks.hacking.policy import Policy, advantages
from benchmarks.hacking.report import document
from benchmarks.hacking.strategies import STRATEGIES, Kind, texts, topics
from regrade.contracts import LlmCriterion, Rubric
from services.kit.text import segments
from services.meta_reward.gate.lint import lint
from services.meta_reward.propose.meta_judge_session import Refinement


def test_the_policy_moves_to_what_is_rewarded_above_its_group_and_is_fixed_by_its_seed() -> None:
    def trained(seed: str) -> list[float]:
        policy = Policy([0.5, 0.4, 0.1], 0.6, seed)
        for _ in range(80):
            sampled = policy.sample(8)
            policy.update([(sampled, [0.9 if strategy == 2 else 0.4 for strategy in sampled])])
        return policy.mass

    assert trained("a")[2] > 0.95
    assert trained("a") == trained("a") != trained("b")


def test_a_step_is_the_group_relative_gradient() -> None:
    policy = Policy([0.5, 0.5], 1.0, "")
    policy.update([([0, 1], [1.0, 0.0])])
    assert math.log(policy.mass[0] / policy.mass[1]) == pytest.approx(1.0)


def test_a_group_without_spread_or_an_item_without_a_reward_teaches_nothing() -> None:
    assert advantages([0, 1], [0.5, 0.5]) == []
    assert advantages([0, 1, 2], [1.0, None, 0.0]) == [(0, 1.0), (2, -1.0)]
    assert advantages([0, 1], [0.5, None]) == []


def test_an_introduced_strategy_takes_its_mass_in_proportion() -> None:
    policy = Policy([0.75, 0.25, 0.0], 0.6, "")
    assert policy.mass == pytest.approx([0.75, 0.25, 0.0])
    policy.introduce(2, 0.04)
    assert policy.mass == pytest.approx([0.72, 0.24, 0.04])


def test_the_area_is_that_of_the_trapezoids() -> None:
    assert area([0.0, 1.0]) == 0.5
    assert area([1.0, 1.0, 0.0, 0.0]) == 0.5
    assert area([0.2, 0.6, 0.4]) == pytest.approx(0.45)
    assert (area([0.3]), area([])) == (0.3, 0.0)


def test_honest_share_among_all_hacks_and_among_some() -> None:
    kinds = [Kind.HONEST, Kind.EXPRESSIBLE, Kind.UNSEEN, Kind.RESEMBLED]
    shares = {name: honest_share([0.2, 0.2, 0.5, 0.1], kinds, against) for name, against in AGAINST.items()}
    assert shares == pytest.approx({"all": 0.2, "expressible": 0.5, "inexpressible": 0.25, "unseen": 2 / 7})
    assert honest_share([0.0, 0.0, 1.0, 0.0], kinds, AGAINST["expressible"]) == 0.0


def test_the_onset_and_fall_of_a_hack() -> None:
    assert fall([0.0, 0.04, 0.06, 0.3, 0.049]) == (2, 2)
    assert fall([0.0, 0.2, 0.3]) == (1, None)
    assert fall([0.0, 0.04]) == (None, None)


def test_honest_text_is_rejected_by_a_veto_or_a_lower_reward() -> None:
    assert rejected([1.0, 1.0, 1.0, None], [0.96, 0.94, 1.0, 0.1], [False, False, True, False]) == pytest.approx(2 / 3)


def test_no_label_is_sent() -> None:
    """Texts and positions are sent; no item contains the name or kind of a strategy."""
    policy, written = Policy(initial_probabilities(), 0.6, "a"), [texts(strategy, topics()) for strategy in STRATEGIES]
    items = batch([(prompt, policy.sample(8)) for prompt in range(len(topics()))], written)
    sent = [item.model_dump(exclude_defaults=True) for item in items]
    assert {key for item in sent for key in item} == {"id", "group", "prompt", "completion"}
    assert {item.id for item in items} == {f"{n}-{k}" for n in range(len(topics())) for k in range(8)}
    sent_text = json.dumps([{"id": i["id"], "group": i["group"]} for i in sent]) + " ".join(arm.name for arm in ARMS)
    assert not any(label in sent_text for label in [*Kind, *(strategy.name for strategy in STRATEGIES)])


def test_the_strategies_are_what_the_experiment_says() -> None:
    hacks = [strategy for strategy in STRATEGIES if strategy.kind is not Kind.HONEST]
    assert len(hacks) >= 15
    assert 3 * sum(strategy.kind is Kind.UNSEEN for strategy in hacks) >= len(hacks)
    assert {strategy.kind for strategy in hacks if strategy.onset} == {Kind.EXPRESSIBLE, Kind.RESEMBLED, Kind.UNSEEN}
    assert len(topics()) >= 6
    for topic in topics():
        assert all(75 <= len(segments.words(essay)) <= 150 for essay in topic.essays)
    written = [pair for strategy in STRATEGIES for pair in enumerate(texts(strategy, topics()))]
    assert all(text.strip() for _, text in written)
    assert max(Counter(written).values()) == 1
    assert sum(initial_probabilities()) == pytest.approx(1.0)
    assert sum(
        p for p, kind in zip(initial_probabilities(), KINDS, strict=True) if kind is Kind.HONEST
    ) == pytest.approx(0.6)


def test_the_scripted_meta_judge_detects_hacks_and_passes_the_lint() -> None:
    title = "Stalls and Neighbours"
    task = topics()[0].prompt
    assert scripted_meta_judge.faults(task, topics()[0].essays[0]) == []
    assert scripted_meta_judge.faults(task, title)[0] == "length"
    prompt = f"Rubric:\n- Overall quality\n\n[BEGIN TASK ab]\n{task}\n[END TASK ab]\n\n[BEGIN RESPONSE cd]\n{title}"
    analysis = scripted_meta_judge.answer("analyse", f"{prompt}\n[END RESPONSE cd]\n\nScore given: 0.80 of 1.00")
    assert analysis["inflated"] is True
    proposals = f"[BEGIN ANALYSIS ab]\nMissing: {analysis['missing']}\nFault: {analysis['fault']}\n[END ANALYSIS ab]"
    refined = scripted_meta_judge.answer("refine", f"- Overall quality\n\n{proposals}")
    assert [criterion["name"] for criterion in refined["criteria"]] == ["Full development"]
    for aspect in scripted_meta_judge.ASPECTS.values():
        criterion = {"name": aspect.name, "fault": False, "description": aspect.description, "levels": aspect.levels}
        Refinement.model_validate({"criteria": [criterion | {"levels": list(aspect.levels)}]})
        fields = {"kind": "llm", "id": "new", "weight": 0.5, "role": "award"}
        new = LlmCriterion.model_validate(
            fields | {name: criterion[name] for name in ("name", "description", "levels")}
        )
        active = ARMS[0].first_rubric()
        candidate = Rubric(criteria=(*active.criteria, new))
        assert lint(candidate, active, [], {}, "en") == []


def _figures(arm: str, seed: int, auc: float, honest: float) -> dict[str, object]:
    kinds = {f"{what}_{kind}": auc if what == "auc" else honest for kind in AGAINST for what in ("honest", "auc")}
    return kinds | {
        "arm": arm, "seed": seed, "falls": {"title_only": {"onset": 0, "fell_after": 5}}, "honest_rejected": 0.0,
        "honest_docked": 0.0, "cycles": 1, "activations": 1, "bill": {"judge_calls": 10},
    }  # fmt: skip


def test_headlines_are_of_the_worst_seed() -> None:
    mine, others = "Regrade, scripted", ("fixed one-line", "fixed long", "paper, scripted")
    runs = [_figures(mine, 0, 0.9, 0.99), _figures(mine, 1, 0.8, 0.91)]
    runs += [_figures(name, seed, 0.7, 0.5) for name in others for seed in (0, 1)]
    runs += [_figures("whole catalogue", seed, 0.8, 0.9) for seed in (0, 1)]
    figures = document(runs, {})
    assert figures["regrade_min_honest_mass"] == 0.91
    assert figures["regrade_wins_auc_every_seed"] is True
    assert figures["regrade_over_hindsight"] == {mine: pytest.approx([1.125, 1.0])}
    assert figures["arms"][mine]["fall_steps_expressible"] == 5
    assert document([*runs, _figures("paper, scripted", 1, 0.81, 0.5)], {})["regrade_wins_auc_every_seed"] is False
    assert document(runs[:2], {})["regrade_wins_auc_every_seed"] is None
    without_one = [run for run in runs if (run["arm"], run["seed"]) != ("fixed long", 1)]
    assert document(without_one, {})["regrade_wins_auc_every_seed"] is None
