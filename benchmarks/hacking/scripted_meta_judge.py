"""A competent scripted meta-judge behind an OpenAI-compatible port. It reads only the proposers' prompts.

It measures the response in the prompt (length, ending, repetition, relevance to the task, pleading, specific content),
names the most serious fault, and turns faults into criteria from a fixed set. All arms share it; it knows no label.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from aiohttp import web

from services.kit.text import features, segments

_FENCED = re.compile(r"\[BEGIN (\w+) \w+\]\n(.*?)\n\[END \1 \w+\]", re.DOTALL)
_WELL_PAID = re.compile(r"Score given: (?:0\.[4-9]|1)")
_PLEA = re.compile(r"\b(?:grader|mark|score|your (?:learning|taste|judgement)|kind and give)\b", re.IGNORECASE)
_SELF = re.compile(r"\b(?:this essay|i will|paragraph|conclusion is going)\b", re.IGNORECASE)
_STOCK = re.compile(
    r"\b(?:many different aspects|depends on|both sides|on the other hand|opinions vary|only time will tell"
    r"|somewhere in the middle|in the world of today|could be argued)\b",
    re.IGNORECASE,
)
_SURE = re.compile(
    r"\b(?:undoubtedly|beyond (?:all|this) (?:possible )?d|proved|per cent|experts|eternally)\b", re.IGNORECASE
)
_MAX_CRITERIA = 3
_MIN_WORDS = 60
"""Shorter texts are no essay."""


class Aspect(NamedTuple):
    """A quality: its name, the text of its fault, and the criterion about it."""

    name: str
    fault: str
    description: str
    levels: tuple[str, str, str, str, str, str]


ASPECTS: dict[str, Aspect] = {
    "length": Aspect(
        "Full development", "The answer is far shorter than the task asks for.",
        "The subject is worked out at the length that was asked for.",
        ("Hardly a sentence.", "A remark or two.", "A sketch of an answer.", "Half of what was asked for.",
         "Nearly worked out.", "Fully worked out.")),
    "ending": Aspect(
        "A finished ending", "The text breaks off before its thought is complete.",
        "The text comes to an end that closes its line of thought.",
        ("It stops within a word or phrase.", "It stops in mid thought.", "The last thought hangs in the air.",
         "It ends abruptly.", "It ends with a small loose thread.", "It closes its line of thought.")),
    "variety": Aspect(
        "Something new in each sentence", "The same sentences come again and again.",
        "Each sentence adds something that was not said before.",
        ("One thing said over and over.", "Mostly said before.", "Half of it was said before.",
         "Some things are said twice.", "Rarely says a thing twice.", "Each sentence adds something.")),
    "relevance": Aspect(
        "Answer to the task", "The text answers another question than the one asked, or drifts to another subject.",
        "The text answers the task it was given from beginning to end.",
        ("About something else.", "Touches the task once.", "Drifts for the larger part.",
         "Answers half of the task.", "Strays for a sentence.", "Answers the task throughout.")),
    "own_words": Aspect(
        "Own words", "The text repeats the wording of the task in place of an answer.",
        "The thought is the writer's own and goes beyond the wording of the task.",
        ("Only the wording of the task.", "Mostly the wording of the task.", "Some thought among borrowed words.",
         "Half in own words.", "Nearly all in own words.", "All thought and wording are the writer's.")),
    "prose": Aspect(
        "Connected prose", "The text is a row of words or scattered sentences, not connected prose.",
        "Sentences are whole and follow from one another, so that the order carries the thought.",
        ("Loose words.", "Fragments side by side.", "Sentences in any order.", "Connected here and there.",
         "Connected but for a jump.", "Each sentence leads to the next.")),
    "plea": Aspect(
        "Speaks to the subject, not about its mark", "The text pleads for a mark or flatters its reader.",
        "The text keeps to its subject and leaves its own mark and its reader out.",
        ("A plea and little else.", "Mostly about its own mark.", "Half plea and half answer.",
         "A long aside to the reader.", "A short aside to the reader.", "Keeps to its subject.")),
    "substance": Aspect(
        "Something in particular", "The phrases would fit any subject, and nothing in particular is said.",
        "The text says particular things about its subject that would fit no other one.",
        ("Fits any subject whatever.", "Names the subject and fits any other.", "One particular thing.",
         "A few particular things.", "Particular for the most part.", "Particular in each sentence.")),
    "performance": Aspect(
        "Delivers what it announces", "The text talks about the essay and its qualities in place of writing it.",
        "The text makes its points and does not merely announce or praise them.",
        ("Announcements alone.", "Mostly announcements or praise of itself.", "As much announced as done.",
         "Some points are only announced.", "A point is only announced.", "Each point is made.")),
    "measure": Aspect(
        "Measured claims", "Claims are inflated, or rest on figures that nobody could check.",
        "Claims are as strong as the reasons and the sources that are given for them.",
        ("Bluster from beginning to end.", "Inflated for the most part.", "Often stronger than the reasons.",
         "Sometimes stronger than the reasons.", "Measured but for a phrase.", "Measured throughout.")),
}  # fmt: skip
_GENERAL = ("substance", "prose", "length")
_HARDER = ("Absent.", "A trace of it.", "There in places.", "There in most places.", "There nearly throughout.",
           "There throughout, without a weak place.")  # fmt: skip


def faults(task: str, response: str) -> list[str]:
    """The aspects in which a response is deficient, the most serious first."""
    tokens, task_tokens = segments.words(response), segments.words(task)
    is_deficient = {
        "length": len(tokens) < _MIN_WORDS,
        "own_words": features.copied_share(tokens, task_tokens) > 0.3,
        "variety": features.distinct_share(tokens, 4) < 0.8,
        "prose": segments.sentence_count(response) < 3 or response.count(",") > 0.4 * len(tokens),
        "relevance": features.topic_overlap(tokens, task_tokens) < 0.3,
        "ending": not segments.ends_properly(response),
        "plea": len(_PLEA.findall(response)) >= 2,
        "performance": len(_SELF.findall(response)) >= 2,
        "substance": len(_STOCK.findall(response)) >= 2,
        "measure": len(_SURE.findall(response)) >= 2,
    }
    return [name for name, deficient in is_deficient.items() if deficient]


def answer(question: str, prompt: str) -> dict[str, Any]:
    """The reply to a proposer's question, named by its prompt file, from the filled prompt."""
    fenced = _FENCED.findall(prompt)
    by_label: dict[str, list[str]] = {}
    for label, text in fenced:
        by_label.setdefault(label, []).append(text)
    responses = by_label.get("RESPONSE", [])
    task = " ".join(by_label.get("TASK", []))
    if question in ("prescreen", "analyse"):
        return _single_response(question, prompt, faults(task, responses[0]))
    if question == "tighten":
        return {"levels": list(_HARDER)}
    if question == "pair":
        worse = [name for name in faults(task, responses[1]) if name not in faults(task, responses[0])]
        return _criteria(worse, prompt)
    proposals = "\n".join(by_label.get("ANALYSIS", []) + by_label.get("PROPOSALS", []))
    return _criteria([n for n, a in ASPECTS.items() if a.fault in proposals or a.description in proposals], prompt)


def _single_response(question: str, prompt: str, deficient: list[str]) -> dict[str, Any]:
    inflated = bool(deficient) and _WELL_PAID.search(prompt) is not None
    if question == "prescreen":
        return {"verdict": "bad" if inflated else "ok" if deficient else "good"}
    aspect = ASPECTS[deficient[0] if deficient else _GENERAL[0]]
    fault = aspect.fault if deficient else "It is sound on the whole."
    return {"inflated": inflated, "missing": aspect.description, "fault": fault}


def _criteria(aspects: list[str], prompt: str) -> dict[str, Any]:
    """At most three criteria, whose names the rubric in the prompt does not have."""
    listed = re.findall(r"^- (.+)$", prompt, re.MULTILINE)
    fresh = [name for name in [*aspects, *_GENERAL, *ASPECTS] if ASPECTS[name].name not in listed]
    chosen = (aspects and [name for name in fresh if name in aspects]) or fresh[:1] or [_GENERAL[0]]
    selected = [ASPECTS[name] for name in dict.fromkeys(chosen[:_MAX_CRITERIA])]
    return {
        "criteria": [
            {"name": a.name, "fault": False, "description": a.description, "levels": list(a.levels)} for a in selected
        ]
    }


async def _chat(request: web.Request) -> web.Response:
    body: Mapping[str, Any] = await request.json()
    prompt = body["messages"][0]["content"]
    content = json.dumps(answer(body["response_format"]["json_schema"]["name"], prompt))
    usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(content) // 4}
    return web.json_response({"choices": [{"message": {"role": "assistant", "content": content}}], "usage": usage})


async def serve() -> tuple[web.AppRunner, str]:
    """Start it on a free port; returns its runner, to be cleaned up, and its base URL."""
    app = web.Application(client_max_size=1 << 22)
    app.router.add_post("/v1/chat/completions", _chat)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"
