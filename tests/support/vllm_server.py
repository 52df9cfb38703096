"""A real vLLM for `bench-engine` and the engine tests: started on this CPU or given by URL, with its own counters."""

import os
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from services.local.engine import MODEL_NAME
from services.local.processes import Processes
from tests.support.prefix_tree import distinct_tokens

CACHE = Path(__file__).parents[2] / ".cache"
_READY_S = 300.0
_OPTIONS = (
    "--dtype", "bfloat16", "--enforce-eager", "--max-model-len", "4096", "--max-num-seqs", "64",
    "--block-size", "32",
)  # fmt: skip
"""32 tokens is the smallest block on a CPU; a prefix is reused in whole blocks."""
_COUNTERS = {
    "prompt": ("vllm:prompt_tokens", None),
    "computed": ("vllm:prompt_tokens_by_source", "local_compute"),
    "generated": ("vllm:generation_tokens", None),
}


class Counters(NamedTuple):
    """The engine's token counters: prompt tokens, those of them not in the prefix cache, and generated tokens."""

    prompt: float
    computed: float
    generated: float

    def since(self, before: "Counters") -> "Counters":
        """The difference to earlier counters."""
        return Counters(*(now - then for now, then in zip(self, before, strict=True)))


class Vllm:
    """A context with a client for the engine's counters, tokenizer and prefix cache."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=600.0)
        self.model = str(self._http.get("/v1/models").raise_for_status().json()["data"][0]["id"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def counters(self) -> Counters:
        """The current counters."""
        text = self._http.get("/metrics").raise_for_status().text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return Counters(
            **{
                field: sum(
                    s.value for s in samples if s.name == f"{name}_total" and source in (None, s.labels.get("source"))
                )
                for field, (name, source) in _COUNTERS.items()
            }
        )

    def reset_prefix_cache(self) -> None:
        """Empty the prefix cache."""
        self._http.post("/reset_prefix_cache").raise_for_status()

    def distinct_tokens(self, conversations: Iterable[Sequence[dict[str, str]]]) -> int:
        """The number of tokens in the prefix tree of these conversations' prompts."""
        return distinct_tokens(map(self.tokens, conversations))

    def tokens(self, conversation: Sequence[dict[str, str]]) -> list[int]:
        """The token ids of a conversation's prompt."""
        body = {"model": self.model, "messages": list(conversation), "add_generation_prompt": True}
        return list(self._http.post("/tokenize", json=body).raise_for_status().json()["tokens"])


def start(processes: Processes, options: Sequence[str] = ()) -> str:
    """Start vLLM with SmolLM2-135M-Instruct on all cores; returns its URL. `options` override the defaults.

    By default vLLM leaves a core free, which on two cores halves its speed.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [str(CACHE / "vllm" / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--model", str(CACHE / "vllm-model")]
    command += ["--served-model-name", MODEL_NAME, *_OPTIONS, *options]
    env = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_SERVER_DEV_MODE": "1",
    }
    processes.start("vllm", command, {name: os.environ.get(name, value) for name, value in env.items()})
    processes.wait_for("vllm", lambda: _healthy(url), _READY_S)
    return url


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5.0).status_code == 200
    except httpx.TransportError:
        return False
