"""The direction of imports, and that no room reaches into what another keeps to itself."""

import ast
from pathlib import Path

import pytest

import kfisher

ROOT = Path(kfisher.__file__).parent

# From the bottom up: a module imports from rooms on lower floors, and from its own.
FLOORS = [
    {"version", "logs.schema", "_keras.private"},
    {"_common", "_keras", "model"},
    {"likelihoods", "spectra", "damping", "datasets"},
    {"fisher", "losses"},
    {"jacobian"},
    {"damped_operator"},
    {"curvature", "operator", "diagnosis"},
    {"optimizers", "logs"},
    {"plots", "tensorboard"},
    {"callbacks"},
]
APART = {tuple(room.split(".")) for room in FLOORS[0] if "." in room}
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Two rooms of one floor that import from each other's public side, one way.
NEIGHBOURS = {("model", "_keras"), ("_keras", "_common"), ("model", "_common"), ("curvature", "operator")}


def modules():
    return sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def imported(path):
    """`(module, name)` of every import of kfisher in a file, those for types only left out."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("kfisher"):
            yield from ((node.module, alias.name) for alias in node.names)
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.startswith("kfisher"))


def is_module(package, name):
    path = ROOT.parent.joinpath(*package.split("."), name)
    return path.is_dir() or path.with_suffix(".py").exists()


def room_of(parts):
    """The first part of a module's name; two modules that import nothing of ours are rooms of their own."""
    return ".".join(parts[:2]) if tuple(parts[:2]) in APART else parts[0] if parts else ""


def test_every_room_has_a_floor():
    rooms = {room_of(p.relative_to(ROOT).with_suffix("").parts) for p in modules()}
    assert rooms == set(FLOOR)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    own = room_of(path.relative_to(ROOT).with_suffix("").parts)
    for module, name in imported(path):
        parts = [*module.split(".")[1:], *([name] if is_module(module, name) else [])]
        other = room_of(parts)
        assert other, f"{path.name} imports from kfisher itself: {module}.{name}"
        if other == own:
            continue
        allowed = FLOOR[other] < FLOOR[own] or (own, other) in NEIGHBOURS
        assert allowed, f"{own} imports {module}.{name}"
        private = [part for part in parts[1:] if part.startswith("_")]
        assert not private, f"{own} reaches into {module}"


def test_the_package_shows_its_public_names_only():
    assert sorted(dir(kfisher)) == sorted(kfisher.__all__)


def test_files_hold_one_idea():
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in modules()}
    assert max(lengths.values()) <= 345
    assert len([p for p, length in lengths.items() if length > 250]) <= 5, lengths
