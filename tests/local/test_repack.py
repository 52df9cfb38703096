"""The small judge's weights in 8-bit blocks: the same model, converted once; a failure never prevents the start."""

import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from services.local.engine import gguf_path
from services.local.repack import repacked

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield repacked(gguf_path())


@pytest.fixture(scope="module")
def readers(converted: Path) -> tuple[gguf.GGUFReader, gguf.GGUFReader]:
    """Of the model as it ships and as converted; each takes seconds to make."""
    return gguf.GGUFReader(gguf_path()), gguf.GGUFReader(converted)


def test_the_repacked_model_has_the_same_weights_and_is_made_once(
    converted: Path, readers: tuple[gguf.GGUFReader, gguf.GGUFReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = gguf_path()
    assert converted.parent.name == "regrade"
    before, after = ({tensor.name: tensor for tensor in reader.tensors} for reader in readers)
    assert before.keys() == after.keys()
    for name in ("token_embd.weight", "blk.0.attn_q.weight", "blk.29.ffn_down.weight", "output_norm.weight"):
        old, new = (gguf.dequantize(t.data, t.tensor_type) for t in (before[name], after[name]))
        assert np.abs(old - new).max() <= np.abs(old).max() / 127
    written = converted.stat().st_mtime_ns
    monkeypatch.setenv("XDG_CACHE_HOME", str(converted.parents[1]))
    assert repacked(source) == converted
    assert converted.stat().st_mtime_ns == written
    assert [path.name for path in converted.parent.iterdir()] == [converted.name]


def test_the_metadata_is_unchanged(readers: tuple[gguf.GGUFReader, gguf.GGUFReader]) -> None:
    before, after = (reader.fields for reader in readers)
    names = {name for name in before if not name.startswith("GGUF.")} - {"general.file_type"}
    for name in names:
        assert before[name].contents() == after[name].contents(), name


def test_without_a_writable_cache_the_model_is_served_as_it_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert repacked(gguf_path()) == gguf_path()
    assert "served as it ships" in caplog.text


def test_without_the_converter_the_model_is_served_as_it_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert repacked(gguf_path()) == gguf_path()
    assert list((tmp_path / "regrade").iterdir()) == []
