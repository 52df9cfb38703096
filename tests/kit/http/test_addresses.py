"""Base URLs and keys as people have them: which URL is requested, and what is refused without being repeated."""

import pytest

from services.kit.http.addresses import clean_key, split_urls

CHAT, OWN = "/v1/chat/completions", "/version"


@pytest.mark.parametrize(
    ("base", "chat", "own"),
    [
        ("http://h:8000", "http://h:8000/v1/chat/completions", "http://h:8000/version"),
        ("http://h:8000/", "http://h:8000/v1/chat/completions", "http://h:8000/version"),
        ("http://h/v1", "http://h/v1/chat/completions", "http://h/version"),
        ("http://h//v1//", "http://h/v1/chat/completions", "http://h/version"),
        ("http://h/v1/chat/completions", "http://h/v1/chat/completions", "http://h/version"),
        ("http://h/v1/chat/completions/", "http://h/v1/chat/completions", "http://h/version"),
        ("http://h/v1/models", "http://h/v1/chat/completions", "http://h/version"),
        ("http://h/engine", "http://h/engine/v1/chat/completions", "http://h/engine/version"),
        ("http://h/engine/v1", "http://h/engine/v1/chat/completions", "http://h/engine/version"),
        ("https://h/v1beta/openai", "https://h/v1beta/openai/chat/completions", "https://h/version"),
        ("https://h/v1beta/openai/", "https://h/v1beta/openai/chat/completions", "https://h/version"),
        ("https://h/api/paas/v4", "https://h/api/paas/v4/chat/completions", "https://h/api/paas/version"),
        ("https://h/api/v1", "https://h/api/v1/chat/completions", "https://h/api/version"),
        ("https://h/openai/v1", "https://h/openai/v1/chat/completions", "https://h/openai/version"),
        (
            "https://h/v1/projects/p/endpoints/openapi",
            "https://h/v1/projects/p/endpoints/openapi/chat/completions",
            "https://h/version",
        ),
        ("https://h/serving-endpoints/chat/completions", "https://h/serving-endpoints/chat/completions", None),
        ("https://h/models-v2", "https://h/models-v2/v1/chat/completions", "https://h/models-v2/version"),
        ("https://h/models", "https://h/models/v1/chat/completions", "https://h/models/version"),
        ("http://[::1]:8000", "http://[::1]:8000/v1/chat/completions", "http://[::1]:8000/version"),
    ],
)
def test_the_url_that_is_requested(base: str, chat: str, own: str | None) -> None:
    (address,) = split_urls(base)
    assert address.url(CHAT) == chat
    if own is not None:
        assert address.url(OWN) == own


def test_several_base_urls_and_their_credentials() -> None:
    addresses = split_urls(" http://gpu-1:8000/ ,https://me:s%20cret@gpu-2/engine,http://gpu-1:8000/v1", key=" k\n")
    assert [(address.root, address.name) for address in addresses] == [
        ("http://gpu-1:8000", "gpu-1:8000"),
        ("https://gpu-2/engine", "gpu-2"),
    ]
    assert [address.headers["Authorization"] for address in addresses] == ["Bearer k", "Basic bWU6cyBjcmV0"]
    assert addresses[1].masked("s cret or s%20cret or bWU6cyBjcmV0") == "*** or *** or ***"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gpu-1:8000",
        "ftp://x",
        "http://",
        "http://a,",
        "http://me:hush@a:port",
        "http://a?key=hush",
        "http://a#hush",
        "http://a b/hush",
        "http://a/hu\nsh",
    ],
)
def test_what_is_no_base_url_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ValueError, match=r"base URL \d is not") as refused:
        split_urls(text)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("key", ["hush\n", " hush", "\thush\r\n", "hush", "", "\n"])
def test_white_space_around_a_key_is_dropped(key: str) -> None:
    assert clean_key(key) == key.strip()


@pytest.mark.parametrize("key", ["hu\nsh", "hu sh", "hu\x00sh", "hush\x7f", "h\u00fcsh", "\ufeffhush", "hu\u200bsh"])
def test_a_key_that_no_header_carries_is_refused_without_being_repeated(key: str) -> None:
    with pytest.raises(ValueError, match="a key is printable ASCII") as refused:
        clean_key(key)
    assert key not in str(refused.value)
