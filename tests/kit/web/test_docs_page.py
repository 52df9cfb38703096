"""`/docs` works without a network and under a policy that allows no foreign script."""

import os
import re
import shutil
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright

from tests.support import story
from tests.support.fake_engine import FakeEngine

CHROMIUM = os.environ.get("REGRADE_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(params=["reward", "meta_reward"])
def service(
    request: pytest.FixtureRequest, redis_url: str, reward_url: str, fake_engine: FakeEngine
) -> Iterator[httpx.Client]:
    if request.param == "reward":
        with httpx.Client(base_url=reward_url) as client:
            yield client
        return
    with story.meta_service(redis_url, reward_url, fake_engine) as meta:
        yield meta


def test_everything_the_page_needs_is_served_here(service: httpx.Client) -> None:
    page = service.get("/docs")
    assert page.status_code == 200
    assert re.findall(r"(?:https?:)?//[a-z0-9.]+", page.text) == []
    files = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {name.rpartition(".")[2] for name in files} == {"js", "css", "png"}
    for name in files:
        asset = service.get(f"/{name}")
        assert asset.status_code == 200
        assert len(asset.content) > 1_000
        assert asset.headers["x-content-type-options"] == "nosniff"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy.partition("script-src")[2].partition(";")[0]
    assert page.headers["x-content-type-options"] == "nosniff"
    for path in ("/redoc", "/docs/oauth2-redirect", "/docs/..%2f__init__.py", "/docs/redoc.standalone.js"):
        assert service.get(path).status_code in (404, 422)


@pytest.mark.console
@pytest.mark.slow
def test_a_browser_shows_it_and_asks_no_other_site(service: httpx.Client) -> None:
    if not CHROMIUM:
        pytest.skip("no Chromium on the path, and REGRADE_TEST_CHROMIUM names none")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        messages: list[str] = []
        addresses: list[str] = []
        page.on("console", lambda message: messages.append(message.text))
        page.on("request", lambda request: addresses.append(request.url))
        page.goto(str(service.base_url.join("/docs")))
        expect(page.locator(".opblock").first).to_be_visible(timeout=60_000)
        page.locator("text=/healthz").first.click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        expect(page.get_by_text('"status": "ok"').first).to_be_visible(timeout=30_000)
        browser.close()
    assert [text for text in messages if "Content Security Policy" in text] == []
    own = ("data:", "blob:", str(service.base_url))
    assert [address for address in addresses if not address.startswith(own)] == []
