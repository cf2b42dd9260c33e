"""The client as a package: it stands alone, and on older Pythons than the house does."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import countinghouse

PACKAGE = Path(countinghouse.__file__).parent
OLDEST = (3, 9)


def test_it_reads_as_the_oldest_python_it_promises_to_run_on() -> None:
    for path in PACKAGE.glob("*.py"):
        ast.parse(path.read_text(), feature_version=OLDEST)

    assert 'requires-python = ">=3.9"' in (PACKAGE.parent / "pyproject.toml").read_text()


def test_it_needs_nothing_but_pythons_own_library() -> None:
    imported = {
        (node.module or "").partition(".")[0]
        if isinstance(node, ast.ImportFrom)
        else node.names[0].name.partition(".")[0]
        for path in PACKAGE.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }

    assert imported - sys.stdlib_module_names - {"countinghouse"} == set()


def test_what_it_offers_is_there() -> None:
    assert [name for name in countinghouse.__all__ if not hasattr(countinghouse, name)] == []
