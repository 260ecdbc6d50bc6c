"""What must never happen in the sources: wrong layers, circles, misplaced calls, dead files."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("fastpath", "drivers", "gateway")

# What a package may import of ours, itself aside.
LAYERS = {"fastpath": set(), "drivers": {"fastpath"}, "gateway": {"fastpath", "drivers"}}

# Rooms of the gateway, low to high: a module imports nothing that stands higher than itself.
GATEWAY_ROOMS = (
    ("errors", "sites"),
    ("site",),
    ("logic",),
    ("check",),
    ("life", "guard", "plant", "orders", "store", "alarms", "uplink", "view"),  # and what is beside
    ("daemon",),
    ("run",),
    ("cli",),
    ("__main__",),
)
MIDDLE = 4  # where a module of the gateway stands that the list does not name

ENTRY_POINTS = {"gateway.__main__", "gateway.site.schema", "fastpath.guard", "drivers.sim"}
ORACLES = {"fastpath.reference"}  # what the tests hold the fast path against
MAY_PRINT = ("gateway/cli/", "gateway/__main__.py", "drivers/sim")

LEFT_OVERS = ("FIXME", "TODO", "XXX")  # a reader has no use for these
TEXTS = {".py", ".pyx", ".pxd", ".pyi", ".h", ".c", ".md", ".toml", ".sql", ".lark", ".service"}


@cache
def modules() -> dict[str, Path]:
    """Every module of the product by its dotted name; compiled ones by their .pyx."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py*")):
            if path.suffix in {".py", ".pyx"}:
                parts = path.relative_to(ROOT).with_suffix("").parts
                found[".".join(parts).removesuffix(".__init__")] = path
    return found


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _walk(node: ast.AST, *, types_too: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if types_too or not _is_type_checking(child):
            yield child
            yield from _walk(child, types_too=types_too)


def _python_imports(path: Path, *, types_too: bool) -> Iterator[str]:
    for node in _walk(ast.parse(path.read_text()), types_too=types_too):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _cython_imports(path: Path) -> Iterator[str]:
    for source in (path, path.with_suffix(".pxd")):
        text = source.read_text() if source.exists() else ""
        for module in re.findall(r"^\s*c?import ([\w.]+)", text, re.MULTILINE):
            yield module
        for module, names in re.findall(r"^\s*from ([\w.]+) c?import (.*)$", text, re.MULTILINE):
            yield module
            yield from (f"{module}.{name}" for name in re.findall(r"\w+", names))


@cache
def imports(name: str, *, types_too: bool = False) -> frozenset[str]:
    """The modules of ours that this one imports (``types_too``: for annotations alone as well)."""
    path = modules()[name]
    if path.suffix == ".pyx":
        raw = set(_cython_imports(path))
    else:
        raw = set(_python_imports(path, types_too=types_too))
    return frozenset((raw & modules().keys()) - {name})


def _room(name: str) -> int:
    part = name.split(".")[1]
    levels = [level for level, rooms in enumerate(GATEWAY_ROOMS) if part in rooms]
    return levels[0] if levels else MIDDLE


def test_packages_import_downward_alone() -> None:
    wrong = [
        f"{name} imports {other}"
        for name in modules()
        for other in imports(name, types_too=True)
        if (top := other.split(".")[0]) != (own := name.split(".")[0]) and top not in LAYERS[own]
    ]
    assert not wrong


def test_rooms_of_the_gateway_import_downward_alone() -> None:
    wrong = [
        f"{name} imports {other}"
        for name in modules()
        for other in imports(name)
        if name.startswith("gateway.")
        and other.startswith("gateway.")
        and _room(other) > _room(name)
    ]
    assert not wrong


def test_no_circles() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            pytest.fail("circle: " + " -> ".join((*path[path.index(name) :], name)))
        if name in done:
            return
        for other in sorted(imports(name)):
            visit(other, (*path, name))
        done.add(name)

    for name in modules():
        visit(name, ())


def test_every_module_is_used() -> None:
    used = {other for name in modules() for other in imports(name, types_too=True)}
    packages = {name for name, path in modules().items() if path.name == "__init__.py"}
    unused = sorted(modules().keys() - used - packages - ENTRY_POINTS - ORACLES)
    assert not unused


def test_calls_have_their_place() -> None:
    wrong = []
    for path in modules().values():
        if path.suffix != ".py":
            continue
        file = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                if call == "print" and not file.startswith(MAY_PRINT):
                    wrong.append(f"{file}:{node.lineno}: print")
                if call in {"time.time", "datetime.now", "datetime.utcnow"}:
                    wrong.append(
                        f"{file}:{node.lineno}: {call} (monotonic ns, or time_ns to stamp)"
                    )
            elif isinstance(node, ast.ExceptHandler) and node.type is None:
                wrong.append(f"{file}:{node.lineno}: bare except")
            elif isinstance(node, ast.Assert):
                wrong.append(f"{file}:{node.lineno}: assert")
    assert not wrong


def test_every_package_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    there = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert there | {"gateway.sites"} == listed


def test_every_compiled_module_is_built() -> None:
    listed = set(re.findall(r'^    "(\w+)",$', (ROOT / "setup.py").read_text(), re.MULTILINE))
    assert listed == {path.stem for path in (ROOT / "fastpath").glob("*.pyx")}


def test_locks_name_no_host_and_hold_every_dependency() -> None:
    pinned = ""
    for lock in sorted((ROOT / "requirements").glob("*.txt")):
        text = lock.read_text()
        assert "://" not in text, lock.name
        assert "--hash=sha256:" in text, lock.name
        pinned += text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = {re.split(r"[<>=]", line)[0] for line in wanted}
    assert not {name for name in names if not re.search(rf"^{name}==", pinned, re.MULTILINE)}


def test_no_left_overs() -> None:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    wrong = []
    for name in listing.split("\0"):
        path = ROOT / name
        if path == Path(__file__) or path.suffix not in TEXTS or not path.exists():
            continue
        text = path.read_text(errors="replace")
        wrong += [f"{name}: {word}" for word in LEFT_OVERS if re.search(rf"{word}\b", text)]
    assert not wrong
