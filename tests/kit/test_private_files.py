"""Files that services write hold what a policy and its users wrote: others cannot read them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from regrade.contracts import Trace
from services.meta_reward.archive.parquet import ArchiveStore
from services.reward.persistence.spool_file import SpoolFile
from tests.support.builders import TASK, record

_MODES = """
import json, os, sys
from pathlib import Path
from services.kit.private_files import keep_files_private
os.umask(int(sys.argv[2], 8))
keep_files_private()
folder = Path(sys.argv[1]) / "a" / "b"
folder.mkdir(parents=True)
(folder / "file").write_text("x")
os.system(f"touch {folder}/of-a-child")
modes = {path.name: oct(path.stat().st_mode & 0o777) for path in [folder, folder.parent, *folder.iterdir()]}
print(json.dumps(modes))
"""


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [("022", "0o640", "0o750"), ("000", "0o640", "0o750"), ("077", "0o600", "0o700")]
)
def test_new_files_and_folders_are_not_for_others(tmp_path: Path, umask: str, file: str, folder: str) -> None:
    command = [sys.executable, "-c", _MODES, str(tmp_path), umask]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout) == {"a": folder, "b": folder, "file": file, "of-a-child": file}


def test_archive_and_spool_are_not_for_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = ArchiveStore(str(tmp_path / "archive"))
        trace = record("i1").trace
        assert trace is not None
        with store.new_file(TASK) as written:
            written.add([("1-0", Trace.model_validate_json(trace.to_json()))])
            written.close()
            path = store.publish(TASK, written)
        SpoolFile.create(tmp_path, fsync=False).close()
    finally:
        os.umask(before)
    assert Path(path).stat().st_mode & 0o777 == 0o640
    assert Path(path).parent.stat().st_mode & 0o777 == 0o750
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in tmp_path.iterdir() if file.is_file())


@pytest.mark.parametrize(
    "module",
    [
        "services.trainer.train",
        "services.trainer.evaluate.__main__",
        "services.local.__main__",
        "services.kit.web.server",
    ],
)
def test_every_program_that_writes_keeps_its_files_private(module: str) -> None:
    source = Path(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    assert "    keep_files_private()\n" in source
