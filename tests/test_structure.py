"""Who may know whom: arrows between modules point one way."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

MODULES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
    for top in ("fedkvasir", "clients", "server")
    for path in (REPOSITORY / top).rglob("*.py")
}
KNOWN_TO = {
    "clients": ("clients", "fedkvasir.simulation"),
    "server": ("server", "fedkvasir.simulation", "fedkvasir.deployment"),
    "ray": ("server",),  # the local engine works without
    "flwr": ("clients", "server", "fedkvasir.algorithms", "fedkvasir.packing", "fedkvasir.sites", "fedkvasir.wire"),
}
"""Package -> the only modules that import it."""


def imports(path: Path, lazy: bool) -> Iterator[str]:
    """Names that a module imports; lazy: inside functions, too."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("package", KNOWN_TO)
def test_a_package_is_known_to_few(package: str) -> None:
    who = {name for name, path in MODULES.items() if any(within(own, (package,)) for own in imports(path, lazy=True))}
    assert who and not [name for name in who if not within(name, KNOWN_TO[package])]


def test_no_part_knows_one_that_knows_it() -> None:
    """A part is a module, or a folder of them, right under a package."""

    def part(name: str) -> str:
        return ".".join(name.split(".")[:2])

    knows: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        others = {part(other) for other in imports(path, lazy=False) if part(other) in map(part, MODULES)}
        knows.setdefault(part(name), set()).update(others - {part(name)})
    tuple(TopologicalSorter(knows).static_order())  # raises CycleError
