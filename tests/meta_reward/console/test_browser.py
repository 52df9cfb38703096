"""The console in a real Chromium: its pages, a rollback, and that hostile text stays text."""

import os
import shutil
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from redis import Redis

from services.kit.store import keys
from tests.support import story
from tests.support.builders import LINEAGE, TASK, checks_only, rubric
from tests.support.fake_engine import FakeEngine

pytestmark = [pytest.mark.console, pytest.mark.slow]
CHROMIUM = os.environ.get("REGRADE_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


_PAST_THEIR_CARDS = """[...document.querySelectorAll('.card, .tile, .small')].flatMap((card) =>
  [...card.querySelectorAll('*')]
    .filter((part) => !part.closest('.scroll, svg, select, details:not([open])'))
    .filter((part) => part.getBoundingClientRect().right > card.getBoundingClientRect().right + 1)
    .map((part) => part.textContent.slice(0, 60)))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("no Chromium on the path, and REGRADE_TEST_CHROMIUM names none")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(params=[True, False], ids=["with JavaScript", "without JavaScript"])
def page(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Page]:
    with browser.new_context(java_script_enabled=request.param) as context:
        opened = context.new_page()
        opened.set_default_timeout(10_000)
        yield opened


@pytest.fixture
def meta(redis_url: str, reward_url: str, fake_engine: FakeEngine) -> Iterator[httpx.Client]:
    with story.meta_service(redis_url, reward_url, fake_engine) as client:
        yield client


def _put(reward_url: str, words: int, **why: str) -> str:
    body = {"rubric": checks_only(words).model_dump(mode="json"), **(story.ACTION | why)}
    return str(httpx.put(f"{reward_url}/rubrics/{TASK}", json=body).raise_for_status().json()["digest"])


def test_an_operator_reads_the_pages_and_rolls_back(
    page: Page, meta: httpx.Client, reward_url: str, redis_url: str
) -> None:
    for step in range(16, 19):
        story.score_step(reward_url, step)
    story.run_cycle(meta)
    first = meta.get(f"/lineage/{TASK}").json()[0]["digest"]
    _put(reward_url, 31)
    page.goto(f"{meta.base_url}/console")
    expect(page.locator("h1")).to_have_text(TASK)
    expect(page.locator("svg.plot")).to_be_visible()
    refused = next(e for e in meta.get(f"/lineage/{TASK}").json() if e["kind"] == "rejected" and e["gate"])
    page.locator(f".event.rejected a[href$='{refused['digest']}']").first.click()
    expect(page.locator(".verdict.fail")).to_have_text("Refused by the gate")
    expect(page.locator(".reasons")).to_contain_text(refused["gate"]["reasons"][0]["text"])
    page.get_by_role("link", name="Rubrics").click()
    expect(page.locator(".diff")).to_contain_text("31")
    page.get_by_role("link", name="Traces").click()
    page.locator("table.traces td a").first.click()
    expect(page.locator(".scored").first).to_be_visible()
    page.goto(f"{meta.base_url}/console/{TASK}/do/rollback?digest={first}")
    page.get_by_label("Your name").fill("dana")
    page.get_by_label("Reason").fill("too strict by far")
    page.get_by_role("button", name="Roll back").click()
    expect(page.locator(".event.rolled_back").first).to_contain_text("too strict by far")
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        assert str(redis.get(keys.active_key(LINEAGE))).split()[0] == first
    last = meta.get(f"/lineage/{TASK}").json()[-1]
    assert (last["kind"], last["by"]) == ("rolled_back", "dana")


_CUT_OFF = """[...document.querySelectorAll('.tabs, .tile small, .small figcaption, .card[data-live=reward]')]
    .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.slice(0, 60))"""


def test_pages_fit_a_phone_and_a_wide_screen(browser: Browser, meta: httpx.Client, reward_url: str) -> None:
    """Nothing scrolls sideways but what is made to, and no text leaves its card."""
    for step in range(16, 19):
        story.score_step(reward_url, step)
    report = story.run_cycle(meta)
    trace_id = meta.get(f"/traces/{TASK}").json()["traces"][0]["trace_id"]
    paths = ("", "/rubrics", "/cycles", f"/cycles/{report['cycle']}", "/alarms", "/traces", f"/traces/{trace_id}")
    for width in (390, 1_280):
        with browser.new_context(viewport={"width": width, "height": 850}) as context:
            page = context.new_page()
            for path in paths:
                page.goto(f"{meta.base_url}/console/{TASK}{path}")
                assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, (width, path)
                assert page.evaluate(_PAST_THEIR_CARDS) == [], (width, path)
                assert page.evaluate(_CUT_OFF) == [], (width, path)


def test_the_first_empty_field_has_the_focus(page: Page, meta: httpx.Client) -> None:
    page.goto(f"{meta.base_url}/console/{TASK}/do/pause")
    expect(page.get_by_label("Your name")).to_be_focused()


def test_hostile_text_stays_text(browser: Browser, meta: httpx.Client, reward_url: str) -> None:
    trace_id = story.score_hostile(reward_url)
    own = rubric(rationale=story.HOSTILE, preamble=story.HOSTILE).model_dump(mode="json")
    digest = (
        httpx.put(f"{reward_url}/rubrics/{TASK}", json={"rubric": own} | story.WHY).raise_for_status().json()["digest"]
    )
    with browser.new_context() as context:
        page = context.new_page()
        for path in ("", "/traces", f"/traces/{trace_id}", "/rubrics", f"/rubrics/{digest}", "/do/rollback"):
            page.goto(f"{meta.base_url}/console/{TASK}{path}")
            assert page.evaluate("window.owned") is None, path
            assert page.locator("main script, main img, [onerror], [onload], a[href^='javascript:']").count() == 0, path
        page.goto(f"{meta.base_url}/console/{TASK}/traces/{trace_id}")
        assert page.locator("#completion").text_content() == story.HOSTILE
        page.goto(f"{meta.base_url}/console/{TASK}")
        expect(page.locator(".events").first).to_contain_text("<b>mallory</b>")
