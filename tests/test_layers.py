"""Imports of the package: only from earlier layers, at the top of a file, and without circles."""

import ast
import graphlib
from pathlib import Path

import pytest

import pyro_kanerva

PACKAGE = Path(pyro_kanerva.__file__).parent
LAYERS = [  # a folder or file imports only from those before it
    "_checks", "_files", "_precision", "_repr", "distributions", "networks", "datasets", "conjugate", "likelihoods",
    "priors", "channels", "readers", "writers", "model", "retrieval", "memory", "machine", "training", "weights",
    "runs", "evaluation", "diagnostics", "testing", "plotting", "playground", "cli",
]  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imported_modules(tree: ast.AST) -> set[str]:
    """The own modules that the import statements below ``tree`` load."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names = {f"{node.module}.{name.name}" for name in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return {name for name in found if name.split(".")[0] == "pyro_kanerva"}


def layer(module: str) -> int:
    return LAYERS.index(module.split(".")[1])


INNER = [name for name in MODULES if name not in ("pyro_kanerva", "pyro_kanerva.__main__")]


def test_every_folder_has_a_layer():
    assert {module.split(".")[1] for module in INNER} == set(LAYERS)


@pytest.mark.parametrize("module", INNER)
def test_imports_are_from_earlier_layers(module):
    for other in imported_modules(ast.parse(MODULES[module].read_text())):
        assert other != "pyro_kanerva"
        assert layer(other) < layer(module) or other.split(".")[1] == module.split(".")[1]


@pytest.mark.parametrize("module", MODULES)
def test_own_imports_stand_at_the_top(module):
    """No import in a function, and none for type checkers only."""
    tree = ast.parse(MODULES[module].read_text())
    for node in tree.body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            assert not imported_modules(node)


def test_no_circle():
    """No file imports itself through others. So no file imports from the ``__init__`` of its own folder."""
    graph = {name: imported_modules(ast.parse(path.read_text())) for name, path in MODULES.items()}
    tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_no_name_hides_a_file(module):
    """``from folder.file import name`` with a name that is also a file would hide that file."""
    tree = ast.parse(MODULES[module].read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    names = {alias.asname or alias.name for node in imports for alias in node.names}
    files = {name.rpartition(".")[2] for name in MODULES if name.rpartition(".")[0] == module}
    modules = {alias.name for node in imports for alias in node.names if f"{node.module}.{alias.name}" in MODULES}
    assert not (names - modules) & files
