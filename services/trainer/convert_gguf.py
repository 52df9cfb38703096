"""`python -m services.trainer.convert_gguf`: turn a GGUF file into a folder that transformers can train."""

import argparse
import logging
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

log = logging.getLogger(__name__)


def convert(gguf: Path, folder: Path) -> None:
    """Dequantise `gguf` to float32 and save model and tokenizer into `folder`; a finished folder is left alone."""
    if (folder / "config.json").is_file():
        return
    unfinished = folder.with_name(f"{folder.name}.part")
    where, name = str(gguf.parent), gguf.name
    model = AutoModelForCausalLM.from_pretrained(
        where, gguf_file=name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(unfinished)
    AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(unfinished)
    unfinished.rename(folder)


def main() -> None:
    """Convert `--gguf` into `--folder`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    args.folder.parent.mkdir(parents=True, exist_ok=True)
    convert(args.gguf, args.folder)


if __name__ == "__main__":
    main()
