"""`python -m services.trainer.convert_gguf`: convert a GGUF file into a model folder that transformers can train."""

import argparse
import logging
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def convert(gguf: Path, folder: Path) -> None:
    """Dequantize `gguf` to float32 and save model and tokenizer in `folder`. Does nothing if `folder` is complete."""
    if (folder / "config.json").is_file():
        return
    unfinished = folder.with_name(f"{folder.name}.part")
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    config = GgufConfig(dequantize=True)
    AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, quantization_config=config).save_pretrained(
        unfinished
    )
    AutoTokenizer.from_pretrained(**source).save_pretrained(unfinished)
    unfinished.rename(folder)


def main() -> None:
    """Convert `--gguf` into `--folder`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path, required=True, help="the GGUF file")
    parser.add_argument("--folder", type=Path, required=True, help="folder to create")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    args.folder.parent.mkdir(parents=True, exist_ok=True)
    convert(args.gguf, args.folder)


if __name__ == "__main__":
    main()
