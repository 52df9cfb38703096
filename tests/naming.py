"""Counts of vague names, and the limits of sizes: `python -m tests.naming [folder of a checkout]` prints a table.

A vague name says that something was found, told or asked, and not what it is. An ambiguous word has one sense in
this project (ROOMS: *line* is a line of text, *early* the first steps of a run, *verdict* the check `label_match`,
*wire* nothing); a name that has it in another sense is counted.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("regrade", "services", "benchmarks", "deploy", "tests")
VAGUE = frozenset(
    "about asked found kept landed left look looked met noticed said shown stood told took".split()  # noqa: SIM905
)
AMBIGUOUS = frozenset({"line", "wire", "early", "verdict"})

MAX_MODULES = 14
MAX_LINES = 400
MAX_FUNCTION_LINES = 50

_LINE_OF_TEXT = ("splitlines", "readline", "readlines", "\n", b"\n")
_ONE_SENSE = ("early_completion", "early_original", "verdict_equal", "label_match", "first_line")
_PUBLIC = frozenset({"verdicts"})
"""The parameter of the check `verdict_equal`, and of a task that has it."""
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(root: Path) -> list[Path]:
    """The modules of the packages; not those of the environments that benchmarks install."""
    paths = (path for package in PACKAGES for path in (root / package).rglob("*.py"))
    return sorted(path for path in paths if not {".venv", "out", "node_modules"} & set(path.relative_to(root).parts))


def names(tree: ast.AST) -> Iterator[str]:
    """Every use of a variable, argument, attribute or function, and its definition."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.keyword(arg=str(name)) | ast.alias(asname=str(name)):
                yield name


def vague(tree: ast.AST) -> Counter[str]:
    """How often each vague word is a name."""
    plain = (name.strip("_").lower() for name in names(tree))
    return Counter(name for name in plain if name in VAGUE)


def ambiguous(tree: ast.AST) -> Counter[str]:
    """How often each ambiguous word is part of a name, its one sense left out.

    In a function that splits or joins lines of text, *line* is one of them.
    """
    counts: Counter[str] = Counter()
    for scope in _scopes(tree):
        text = _handles_lines(scope)
        for name in names(scope):
            words = _words(name)
            if name in _PUBLIC or any(sense in "_".join(words) for sense in _ONE_SENSE):
                continue
            counts.update(word for word in words if word in AMBIGUOUS and not (word == "line" and text))
    return counts


def _scopes(tree: ast.AST) -> Iterator[ast.AST]:
    """The outermost functions of a module, and the rest of it without them."""
    rest: list[ast.AST] = []
    waiting = list(ast.iter_child_nodes(tree))
    while waiting:
        node = waiting.pop()
        if isinstance(node, _Function):
            yield node
        elif isinstance(node, ast.ClassDef):
            waiting += node.body
            rest += [ast.Name(node.name, ast.Load()), *node.bases, *node.decorator_list]
        else:
            rest.append(node)
    yield ast.Module([node for node in rest if isinstance(node, ast.stmt)], [])
    yield from (node for node in rest if not isinstance(node, ast.stmt))


def _handles_lines(scope: ast.AST) -> bool:
    for node in ast.walk(scope):
        if isinstance(node, ast.Attribute) and node.attr in _LINE_OF_TEXT:
            return True
        if isinstance(node, ast.Constant) and node.value in _LINE_OF_TEXT:
            return True
        if (
            isinstance(node, ast.arg)
            and "line" in node.arg
            and ast.unparse(node.annotation or node) in ("str", "bytes")
        ):
            return True
    return False


def _words(name: str) -> list[str]:
    """The words of a snake_case or CamelCase name, in lower case and the singular."""
    snake = "".join(f"_{letter}" if letter.isupper() and not name.isupper() else letter for letter in name).lower()
    return [word[:-1] if word[:-1] in AMBIGUOUS else word for word in snake.strip("_").split("_")]


def room(path: Path, root: Path) -> str:
    """The folder to count a module under: a package, or a package of `services`."""
    parts = path.relative_to(root).parts[:-1]
    return "/".join(parts[:2] if parts[0] == "services" else parts[:1])


def counts(root: Path) -> dict[str, Counter[str]]:
    """Vague and ambiguous names by room, then by word."""
    table: dict[str, Counter[str]] = {}
    for path in python_files(root):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        table.setdefault(room(path, root), Counter()).update(vague(tree) + ambiguous(tree))
    return table


def oversized(root: Path) -> list[str]:
    """Folders, modules and functions of `regrade`, `services` and `benchmarks` above the limits."""
    faults: list[str] = []
    modules: Counter[Path] = Counter()
    for path in python_files(root):
        name = path.relative_to(root)
        if name.parts[0] not in ("regrade", "services", "benchmarks"):
            continue
        modules[name.parent] += path.name not in ("__init__.py", "__main__.py")
        source = path.read_text(encoding="utf-8")
        if (count := len(source.splitlines())) > MAX_LINES:
            faults.append(f"{name}: {count} lines")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, _Function) and (span := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES:
                faults.append(f"{name}:{node.lineno} {node.name}: {span} lines")
    return faults + [f"{folder}: {count} modules" for folder, count in modules.items() if count > MAX_MODULES]


def report(root: Path) -> str:
    """The table: a row for each room, a column for each word that occurs, and the sums; then what is too large."""
    table = counts(root)
    total = sum(table.values(), Counter())
    words = [word for word, _ in total.most_common()]
    rows = [["", *words, "sum"]]
    for name, row in [*table.items(), ("sum", total)]:
        rows.append([name, *(str(row[word] or "") for word in words), str(row.total())])
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    cells = [
        "  ".join(cell.rjust(w) if n else cell.ljust(w) for n, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join([*cells, "", *(f"too large: {fault}" for fault in oversized(root))])


if __name__ == "__main__":
    print(report(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT))  # noqa: T201 - a program's output
