"""I4 in the source: shipped code evaluates no text, formats no template with it, and reads no score out of prose."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("regrade", "services", "benchmarks")

EVALUATORS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "literal_eval",
    "from_string",
    "format",
    "format_map",
    "safe_substitute",
}
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "code", "pty"}
NUMBERS = {"int", "float", "Decimal", "Fraction"}
MATCHERS = {"group", "groups", "groupdict", "findall", "finditer", "search", "match", "fullmatch", "split", "partition"}
NO_SCORE = {
    ("services/meta_reward/gate/lint.py", "int"): "amounts in a rubric's level texts, checked to rise",
    ("services/kit/store/rubric_store.py", "int"): "the time in a stream's entry id",
    ("benchmarks/soak/monitor.py", "float"): "a figure of a metrics page",
}
SHIPPED_TEMPLATE = {
    ("services/local/report.py", "from_string"): "a page's template ships with the package, and every value is escaped"
}
READERS = (
    "services/reward/judge",
    "services/reward/scoring",
    "services/meta_reward/clients",
    "services/meta_reward/gate",
    "services/meta_reward/propose",
)
"""Folders whose modules handle the output of a judge or a meta-judge."""
NO_READER = {
    "services/meta_reward/gate/lint.py": "reads the words of a validated rubric",
    "services/meta_reward/gate/quotations.py": "compares the letters of texts",
    "services/reward/judge/special_tokens.py": "respells brackets, and reads no value",
}


def sources(folder: str) -> dict[str, ast.Module]:
    """The modules below a folder by path; without the peers' own environments, which benchmarks install."""
    files = sorted((ROOT / folder).rglob("*.py"))
    names = [path.relative_to(ROOT).as_posix() for path in files]
    trees = {name: ast.parse((ROOT / name).read_text()) for name in names if not name.startswith("benchmarks/out/")}
    assert trees, f"{folder} holds no module: name the folder that took its place"
    return trees


def _called(node: ast.Call) -> tuple[str, str]:
    """The name that is called, and the name it is taken from ("" for a bare one)."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr, node.func.value.id if isinstance(node.func.value, ast.Name) else "?"
    return (node.func.id, "") if isinstance(node.func, ast.Name) else ("", "")


def evaluated(tree: ast.AST) -> Iterator[str]:
    """Calls that would run or fill in a text, and imports of what does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name, owner = _called(node)
            if name in EVALUATORS and not (name == "compile" and owner in {"re", "re2"}):
                yield name
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in UNSAFE_MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module.split(".")[0] in UNSAFE_MODULES or (node.module, "Template") in _names(node):
                yield node.module
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and isinstance(node.left, ast.JoinedStr):
            yield "%"


def _names(node: ast.ImportFrom) -> set[tuple[str | None, str]]:
    return {(node.module, alias.name) for alias in node.names if node.module == "string"}


def numbers_from_prose(tree: ast.AST) -> Iterator[str]:
    """Numbers made of what a pattern found, or of a piece cut out of a text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node)[0] in NUMBERS and _called(node)[1] == "":
            read = [argument for argument in node.args if not isinstance(argument, ast.Compare)]
            inner = (part for argument in read for part in ast.walk(argument) if isinstance(part, ast.Call))
            if any(_called(call)[0] in MATCHERS for call in inner):
                yield _called(node)[0]


def imports_patterns(tree: ast.AST) -> bool:
    """Whether a module has a pattern engine at hand."""
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return bool({"re", "re2", "regex"} & {name.split(".")[0] for name in names})


@pytest.mark.parametrize("package", PACKAGES)
def test_i4_no_text_is_evaluated_or_mined_for_a_score(package: str) -> None:
    evaluations = {(name, call) for name, tree in sources(package).items() for call in evaluated(tree)}
    numbers = {(name, kind) for name, tree in sources(package).items() for kind in numbers_from_prose(tree)}
    assert evaluations - SHIPPED_TEMPLATE.keys() == set()
    assert numbers - NO_SCORE.keys() == set()
    excused = {entry for entry in SHIPPED_TEMPLATE.keys() | NO_SCORE.keys() if entry[0].startswith(package)}
    assert excused <= evaluations | numbers, "an exception that nothing needs"


@pytest.mark.parametrize("folder", READERS)
def test_i4_what_reads_a_models_output_has_no_patterns(folder: str) -> None:
    with_patterns = {name for name, tree in sources(folder).items() if imports_patterns(tree)}
    assert with_patterns - NO_READER.keys() == set()
    assert {name for name in NO_READER if name.startswith(folder)} <= with_patterns, "an exception that nothing needs"


@pytest.mark.parametrize(
    "code",
    [
        "eval(reply)", "exec(reply)", "builtins.eval(reply)", "compile(reply, 'x', 'eval')", "__import__(name)",
        "ast.literal_eval(reply)", "template.format(text=reply)", "'{x}'.format(x=reply)", "str.format_map(a, b)",
        "import pickle", "from pickle import loads", "import yaml", "environment.from_string(reply)",
        "from string import Template", "f'{reply}' % values",
    ],
)  # fmt: skip
def test_the_scan_sees_evaluation(code: str) -> None:
    assert list(evaluated(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "int(re.search(r'<score>(.*)</score>', reply).group(1))", "float(found.group())", "int(match[1].group())",
        "max(int(n) for n in [int(re.findall('x', reply)[0])])", "Decimal(reply.partition('score:')[2])",
        "int(reply.split('/')[0])", "float(pattern.fullmatch(reply).groups()[0])",
    ],
)  # fmt: skip
def test_the_scan_sees_a_score_read_from_prose(code: str) -> None:
    assert list(numbers_from_prose(ast.parse(code)))


def test_the_scan_lets_honest_code_be() -> None:
    tree = ast.parse(
        "import re\nP = re.compile('x')\ny = int(row['level'])\nz = float(P.search(x) is not None)\nf'{x:.2f}'"
    )
    assert list(evaluated(tree)) == list(numbers_from_prose(tree)) == []
    assert imports_patterns(tree)
