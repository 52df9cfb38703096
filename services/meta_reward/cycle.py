"""One evolution cycle: evidence, sample, propose, lint, gate, activate.

Source: Meta Policy Optimization, arXiv 2504.20157, algorithm 1. The meta-judge's steps (prescreen, analyse, refine,
merge) are in `propose/paper.py`; evidence, lint and gate are not in the paper. Training never waits for a cycle: it
costs only judge time, and shadow scoring yields that to training (I7).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from regrade.contracts import (
    CycleReport,
    EventKind,
    GatePass,
    LineageEvent,
    Override,
    Reason,
    ReasonCode,
    SampleStrategy,
    Stage,
)
from services.kit.errors import ServiceError
from services.kit.store import keys
from services.kit.store.rubric_store import refusal_event
from services.meta_reward.cycle_run import CycleRun, StageOutput
from services.meta_reward.evidence.alarms import update_alarms
from services.meta_reward.evidence.audit import audit_figures, change_since_activation, with_score
from services.meta_reward.evidence.sampling import SamplingPool, draw_sample, sample_seed, sampled_pairs, sampled_traces
from services.meta_reward.evidence.text_features import extract_features, read_text
from services.meta_reward.evidence.window import Baselines, build_evidence, extend_baselines, summarise_window
from services.meta_reward.gate.alpha_spending import count_decisions
from services.meta_reward.gate.calibration import without_offset
from services.meta_reward.gate.early_originals import missing_originals, select_early
from services.meta_reward.gate.lint import lint
from services.meta_reward.gate.stage import GateStage, rolled_back_reasons
from services.meta_reward.propose.base import ProposalContext, run_proposer
from services.meta_reward.stores.checkpoints import STAGE_ORDER
from services.meta_reward.stores.status import alarms_json, baseline_json
from services.meta_reward.types import Candidate

MAX_CANDIDATES = 8
"""Candidates of one cycle that reach the gate. They share its error level: more candidates, less power for each."""
MAX_EARLY_ORIGINALS = 24
"""Early completions that become originals of a lineage: no more than the pack's own (`gate_originals` by default), so
that a policy's texts do not outweigh those of people."""
MAX_EARLY_SHARE = 0.25
"""Largest share of a window's traces that become originals. Proposers can't see those, and need the rest."""
SAMPLE_WEIGHTS: Mapping[SampleStrategy, float] = {
    SampleStrategy.SUSPICIOUS: 0.4,
    SampleStrategy.DISAGREEMENT: 0.2,
    SampleStrategy.RECENT: 0.15,
    SampleStrategy.GREAT_PAIRS: 0.15,
    SampleStrategy.UNIFORM: 0.1,
}
"""Shares of the meta-judge's sample by strategy. An exploit is rare when it begins, so most places go to traces where a
mistake of the rubric would show; a tenth is uniform, so that any trace can be drawn."""
PAPER_WEIGHTS: Mapping[SampleStrategy, float] = {SampleStrategy.UNIFORM: 1.0}


async def run_cycle(run: CycleRun) -> CycleReport | None:
    """Run the stages that are not completed, and report; None when there is nothing to consume.

    Raises `Conflict` when the lease was lost: then nothing more was written, and the window stays unread.
    """
    if not await run.open():
        return None
    for stage in STAGE_ORDER:
        if not run.state.has_done(stage):
            began = time.monotonic()
            await run.complete(stage, await _STAGES[stage](run))
            run.stage_seconds[stage] = time.monotonic() - began
    return await run.finish()


async def _evidence(run: CycleRun) -> StageOutput:
    """Compare the window with the first steps of its runs, and update the alarms."""
    await run.report_stage(Stage.EVIDENCE, f"{len(run.window)} traces")
    lineage, window, compared = run.lineage, run.state.window, run.deps.settings.audit_window
    baselines = await _baselines(run)
    change = change_since_activation(run.audits, run.active.digest, compared)
    summary = await asyncio.to_thread(summarise_window, run.window, baselines, audit=change)
    run.features = summary.features
    alarms = update_alarms(summary, await run.deps.status_store.alarms(lineage), window[1])
    audit = audit_figures(run.audits, window, run.active.digest, compared) if run.deps.audits else None
    run.state.evidence = build_evidence(summary, baselines, window, rubric=run.active, alarms=alarms, audit=audit)
    if run.has_gate:
        await _add_early_originals(run, baselines)
    values = {keys.baseline_key(lineage, run_name): baseline_json(first) for run_name, first in baselines.items()}
    return StageOutput(values={keys.alarms_key(lineage): alarms_json(alarms)} | values)


async def _baselines(run: CycleRun) -> Baselines:
    """The first traces of the window's runs; for a new run, those in the window."""
    known = await run.deps.status_store.baselines(run.lineage, {trace.run for trace in run.window})
    return extend_baselines(known, run.window)


async def _add_early_originals(run: CycleRun, baselines: Baselines) -> None:
    """Turn early completions into originals where the gate's next decision would have too few of them."""
    missing = missing_originals(run.anchors, run.deps.settings.gate_alpha, await _decision(run), MAX_CANDIDATES)
    count = min(missing, MAX_EARLY_ORIGINALS - run.anchors.early_originals, int(MAX_EARLY_SHARE * len(run.window)))
    if count > 0:
        first = [trace for traces in baselines.values() for trace in traces]
        early = await asyncio.to_thread(select_early, first, run.anchors, count)
        run.anchors = await run.deps.anchors.add_early_completions(run.lineage, early)


async def _decision(run: CycleRun) -> int:
    """The 1-based index of this cycle's decision against the active rubric, counted once a cycle."""
    if run.state.decision is None:
        history, anchors = await run.deps.store.history(run.lineage), run.anchors
        counted = count_decisions(history, anchors.base, run.active.digest, anchors.base_originals)
        run.state.decision = 1 + counted
    return run.state.decision


async def _sample(run: CycleRun) -> StageOutput:
    """Draw the traces that the meta-judge analyses; never an early original, on which the gate measures."""
    settings = run.deps.settings
    await run.report_stage(Stage.SAMPLE, f"{settings.samples} of {len(run.window)} traces")
    if run.features is None:
        run.features = await asyncio.to_thread(extract_features, run.window)
    hidden = await run.deps.anchors.early_completion_ids(run.lineage)
    visible = [pair for pair in zip(run.window, run.features, strict=True) if pair[0].trace_id not in hidden]
    audit = {one.trace_id: one.audit for _, one in with_score(run.audits) if one.audit is not None}
    pool = SamplingPool([trace for trace, _ in visible], [features for _, features in visible], audit)
    seed = sample_seed(f"{run.lineage.task}/{run.lineage.label}", run.state.cycle)
    run.state.sample = draw_sample(pool, settings.samples, SAMPLE_WEIGHTS if run.has_gate else PAPER_WEIGHTS, seed)
    return StageOutput()


async def _propose(run: CycleRun) -> StageOutput:
    """Ask each proposer for candidates; each proposal is saved before the next proposer is asked."""
    context = _proposal_context(run)
    for proposer in run.deps.proposers:
        if proposer.name not in run.state.proposals:
            await run.report_stage(Stage.PROPOSE, proposer.name)
            proposal = await run_proposer(proposer, context, run.report_stage)
            run.state.proposals = run.state.proposals | {proposer.name: proposal}
            await run.save()
    return StageOutput()


def _proposal_context(run: CycleRun) -> ProposalContext:
    evidence, sample = run.state.evidence, run.state.sample
    if evidence is None or sample is None:
        raise ValueError("a cycle can't propose without evidence and a sample")
    return ProposalContext(
        cycle=run.state.cycle,
        meta_role=run.pack.meta_role,
        visible=[(original.prompt, original.completion) for original in run.anchors.visible],
        active=run.active,
        evidence=evidence,
        window=run.window,
        sample=sampled_traces(sample, run.window),
        pairs=sampled_pairs(sample, run.window),
        labelled=run.anchors.visible_pairs,
        core={criterion.id for criterion in run.pack.starting_rubric.criteria},
        max_llm_criteria=run.deps.settings.max_llm_criteria,
        guided=run.pack.kind == "depth" and run.lineage.scope is not None,
    )


async def _lint(run: CycleRun) -> StageOutput:
    """Refuse candidates that break a lint rule. Every candidate is recorded. Strategy `paper` refuses none."""
    await run.report_stage(Stage.LINT, f"{len(run.state.proposed)} candidates")
    sample = _proposal_context(run).sample
    sampled_texts = [text for trace in sample for text in (read_text(trace.prompt), read_text(trace.completion))]
    rolled_back = await rolled_back_reasons(run.deps.store, run.lineage)
    active = without_offset(run.active)
    clean: list[Candidate] = []
    events: list[LineageEvent] = []
    for name, proposal in run.state.proposals.items():
        if proposal.failed:
            events.append(run.event(EventKind.FAILED, run.active.digest, name, proposal.failed))
    for candidate in run.state.proposed:
        rubric = candidate.rubric
        await run.deps.store.put(run.lineage.task, rubric)
        events.append(run.event(EventKind.PROPOSED, rubric.digest, candidate.proposer, rubric.rationale))
        plain = without_offset(rubric)
        reasons = lint(plain, active, sampled_texts, rolled_back, run.pack.language) if run.has_gate else []
        if len(clean) == MAX_CANDIDATES:
            reasons.append(Reason(code=ReasonCode.BUDGET, text=f"budget: {MAX_CANDIDATES} candidates per cycle"))
        if reasons:
            events.append(refusal_event(rubric.digest, reasons, by="lint", cycle=run.state.cycle))
        else:
            clean.append(candidate)
    run.state.clean = tuple(clean)
    return StageOutput(events)


async def _gate(run: CycleRun) -> StageOutput:
    """Test the candidates on held-out anchors; every decision is recorded. Strategy `paper` has no gate."""
    if not run.has_gate or not run.state.clean:
        return StageOutput()
    gate = GateStage(
        store=run.deps.store,
        client=run.deps.client,
        settings=run.deps.settings,
        lineage=run.lineage,
        cycle=run.state.cycle,
        active=run.active,
        anchors=run.anchors,
        decision=await _decision(run),
        on_progress=partial(run.report_stage, Stage.GATE),
    )
    outcome = await gate.decide(run.state.clean, (await _baselines(run))[run.window[-1].run])
    run.state.gates, run.state.notes = outcome.reports, outcome.notes
    return StageOutput(outcome.events)


async def _activate(run: CycleRun) -> StageOutput:
    """Activate the best candidate by compare-and-set, unless this cycle has activated it already."""
    digest, store, lineage, cycle = _best_candidate(run), run.deps.store, run.lineage, run.state.cycle
    if digest is None:
        return StageOutput()
    await run.report_stage(Stage.ACTIVATE, digest[:12])
    activated = await store.activated_by(lineage, cycle)
    if activated is None:
        authority = GatePass(cycle=cycle) if run.has_gate else _paper_override(cycle)
        try:
            await store.activate(lineage, digest, expected=run.active.digest, authority=authority, token=run.token)
        except ServiceError as error:
            # The response to an earlier try may have been lost: then this one fails because the rubric is active.
            if await store.activated_by(lineage, cycle) is None:
                reason = Reason(code=ReasonCode.ACTIVATION, text=error.detail)
                return StageOutput([refusal_event(digest, [reason], by="activation", cycle=cycle)])
    run.state.activated = activated or digest
    return StageOutput()


def _best_candidate(run: CycleRun) -> str | None:
    """The passing candidate with the largest sum of lower bounds; under strategy `paper` the first new one."""
    if not run.has_gate:
        return next((c.rubric.digest for c in run.state.clean if c.rubric.digest != run.active.digest), None)
    passed = [report for report in run.state.gates if report.passed]
    best = max(passed, key=lambda report: report.order_gain_lower + report.attack_gain_lower, default=None)
    return None if best is None else best.candidate.digest


def _paper_override(cycle: str) -> Override:
    """The authority of strategy `paper`: the operator who chose it decided to have no gate (I6)."""
    reason = "strategy 'paper' was chosen for this service: a blind merge, without lint and gate"
    return Override(by="strategy paper", reason=reason, cycle=cycle)


_STAGES: Mapping[Stage, Callable[[CycleRun], Awaitable[StageOutput]]] = {
    Stage.EVIDENCE: _evidence,
    Stage.SAMPLE: _sample,
    Stage.PROPOSE: _propose,
    Stage.LINT: _lint,
    Stage.GATE: _gate,
    Stage.ACTIVATE: _activate,
}
