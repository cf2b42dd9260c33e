"""The tail of the code: the one huge function, the one god file, the import that hides a cycle."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
FOLDERS = ("accounts", "metering", "pricing", "billing", "config", "benchmarks", "clients", "tests")
SOURCES = sorted(
    path
    for folder in FOLDERS
    for path in (PROJECT / folder).rglob("*.py")
    if path.parent.name != "migrations" and "__pycache__" not in path.parts
)
LONGEST_FUNCTION = 70
LONGEST_FILE = 500
MOST_COMPLEX = 8
VAGUE_NAMES = {"utils", "helpers", "managers", "common", "misc", "base", "services", "selectors"}
# Django's settings and a database backend have to be called so.
NAMED_BY_DJANGO = {PROJECT / "config/settings/base.py", PROJECT / "config/postgres/base.py"}
Function = ast.FunctionDef | ast.AsyncFunctionDef
IMPORTS = (ast.Import, ast.ImportFrom)
BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)


@pytest.fixture(scope="module")
def functions() -> list[tuple[str, Function]]:
    return [
        (f"{path.relative_to(PROJECT)}:{node.lineno} {node.name}", node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, Function)
    ]


def test_no_file_is_longer_than_500_lines() -> None:
    too_long = [str(path) for path in SOURCES if len(path.read_text().splitlines()) > LONGEST_FILE]

    assert too_long == []


def test_no_function_is_longer_than_70_lines(functions: list[tuple[str, Function]]) -> None:
    too_long = [place for place, node in functions if (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION]

    assert too_long == []


def test_no_function_has_more_than_8_ways_through(functions: list[tuple[str, Function]]) -> None:
    too_complex = [place for place, node in functions if _complexity(node) > MOST_COMPLEX]

    assert too_complex == []


def test_nothing_is_imported_inside_a_function(functions: list[tuple[str, Function]]) -> None:
    hidden = [place for place, node in functions if any(isinstance(part, IMPORTS) for part in ast.walk(node))]

    assert hidden == []


def test_modules_are_named_for_the_trade() -> None:
    vague = [str(path) for path in SOURCES if path.stem in VAGUE_NAMES and path not in NAMED_BY_DJANGO]

    assert vague == []


def test_complexity_counts_branches_but_not_those_of_inner_functions() -> None:
    source = "def f(a):\n if a:\n  return 1\n for b in a:\n  print(b)\n def g():\n  if a:\n   return 2\n return 3"
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)

    complexity = _complexity(function)

    assert complexity == 3


def _complexity(function: Function) -> int:
    """Return McCabe's number: one, and one more for each branch."""
    return 1 + sum(isinstance(part, BRANCHES) for part in _own(function))


def _own(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Function | ast.Lambda):
            yield child
            yield from _own(child)
