"""`docs/extend.md`: every example works as it stands in the page."""

from pathlib import Path

import pytest

from tests.support.extend_page import ExampleError, Section, run, sections

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
SMALL = """
# How to extend

## Text only
```python
print("not an example")
```

## A constant
```python
# services/kit/answer.py
ANSWER = 42
```
```python
# register: services/kit/__init__.py, below `{anchor}`
from services.kit.answer import ANSWER
```
```python
# try it
from services.kit import ANSWER

assert ANSWER == {expected}
```
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with the packages' names."""
    for package in ("regrade", "services/kit"):
        (tmp_path / "root" / package).mkdir(parents=True)
    (tmp_path / "root/services/kit/__init__.py").write_text("FIRST = 1\nLAST = 2\n")
    return tmp_path / "root"


@pytest.mark.slow
@pytest.mark.parametrize("section", sections(PAGE), ids=lambda section: section.name)
def test_the_example_works_as_it_stands_in_the_page(section: Section, tmp_path: Path) -> None:
    run(section, ROOT, tmp_path)


@pytest.mark.slow
def test_a_file_is_added_and_a_line_registered(root: Path, tmp_path: Path) -> None:
    (section,) = sections(SMALL.format(anchor="FIRST = 1", expected=42))
    run(section, root, tmp_path / "copy")
    registered = (tmp_path / "copy/services/kit/__init__.py").read_text()
    assert registered == "FIRST = 1\nfrom services.kit.answer import ANSWER\nLAST = 2\n"
    with pytest.raises(ExampleError, match=r"^A constant: answer\.py is there already"):
        run(section, tmp_path / "copy", tmp_path / "again")


@pytest.mark.slow
def test_a_try_that_fails_names_its_section(root: Path, tmp_path: Path) -> None:
    (section,) = sections(SMALL.format(anchor="FIRST = 1", expected=43))
    with pytest.raises(ExampleError, match=r"(?s)^A constant: the try exits with 1:.*AssertionError"):
        run(section, root, tmp_path / "copy")


def test_a_place_that_is_not_there_names_its_section(root: Path, tmp_path: Path) -> None:
    (section,) = sections(SMALL.format(anchor="GONE = 1", expected=42))
    with pytest.raises(ExampleError, match=r"^A constant: __init__\.py has the line `GONE = 1` 0 times, not once"):
        run(section, root, tmp_path / "copy")


def test_a_section_without_a_try_is_refused() -> None:
    with pytest.raises(ExampleError, match=r"^A file: the last block"):
        sections("## A file\n```python\n# services/kit/answer.py\nANSWER = 42\n```\n")
