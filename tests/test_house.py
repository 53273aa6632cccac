"""The house: floors (imports point down only) and doors (one way in for each package from outside)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("mql", "mql.planner", "mql.exec", "sources", "server")
WITHIN_MQL = (
    {"errors", "sdk"},
    {"schema", "syntax", "scan", "precedence", "regexes", "zones"},
    {"catalog", "aggregates", "functions", "overs", "detectors", "mistakes", "learn"},
    {"building"},
    {"parser"},
    {"formatter"},
)
DOORS = {
    "lark": ("mql/parser.py", "mql/building.py"),
    "reactivex": ("mql/exec/pipeline.py", "mql/sdk.py", "server/programs/child.py"),
    "duckdb": ("mql/exec/kernel.py", "mql/exec/backfill.py", "sources/sinks/duck.py"),
    "aiokafka": ("sources/kafka/", "sources/sinks/kafka.py"),
    "fastavro": ("sources/formats/avro.py",),
    "pyruhvro": ("sources/formats/avro.py",),
    "google": ("sources/formats/protobuf.py",),
    "ptars": ("sources/formats/protobuf.py",),
    "grpc_tools": ("sources/formats/protobuf.py",),
    "msgspec": ("sources/formats/msgpack.py",),
    "msgpack": ("sources/formats/msgpack.py",),
    "yaml": ("sources/strict_yaml.py",),
    "stringzilla": ("mql/exec/prefilter.py", "mql/exec/survey.py"),
    "aiohttp": ("server/",),
    "click": ("server/",),
    "rich": ("server/",),
    "prometheus_client": ("server/",),
    "sqlalchemy": ("sources/table_readings.py", "server/", "sources/sinks/postgres.py"),
    "cronsim": ("server/life.py",),
    "pydantic": ("server/", "sources/"),
}
IMPURE = {"asyncio", "threading", "socket", "os", "io", "subprocess", "pathlib", "time", "random", "secrets", "uuid"}
CLOCK_CALLS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "date.today", "random.random"}


def modules() -> list[Path]:
    return sorted(path for floor in ("mql", "sources", "server") for path in (ROOT / floor).rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def floor_of(module: str) -> int | None:
    """The number of a module's floor, None for what comes from outside."""
    found = [number for number, floor in enumerate(FLOORS) if module == floor or module.startswith(floor + ".")]
    return max(found) if found else None


def imports(path: Path, top_only: bool = False) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_down(path: Path) -> None:
    module = name_of(path)
    own = floor_of(module)
    assert own is not None
    # `mql` itself is the front door: it opens upward, and only when it is called.
    for imported in imports(path, top_only=module == "mql"):
        other = floor_of(imported)
        assert other is None or other <= own, f"{module} looks up to {imported}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_packages_from_outside_come_in_by_their_door(path: Path) -> None:
    inside = str(path.relative_to(ROOT))
    for imported in imports(path):
        doors = DOORS.get(imported.split(".")[0], ("",))
        assert any(inside.startswith(door) for door in doors), f"{inside} imports {imported}"


def test_the_language_knows_its_own_floors() -> None:
    level = {name: number for number, names in enumerate(WITHIN_MQL) for name in names}
    for path in sorted((ROOT / "mql").glob("*.py")):
        if path.stem == "__init__":
            continue
        assert path.stem in level, f"mql/{path.name} has no floor yet"
        for imported in imports(path):
            if imported.startswith("mql.") and imported.count(".") == 1:
                assert level[imported[4:]] <= level[path.stem], f"mql/{path.name} looks up to {imported}"


@pytest.mark.parametrize("path", [path for path in modules() if floor_of(name_of(path)) in (0, 1)], ids=name_of)
def test_the_language_and_the_planner_are_pure(path: Path) -> None:
    if name_of(path) == "mql":
        return
    assert not IMPURE & {imported.split(".")[0] for imported in imports(path)}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_one_module_knows_what_time_it_is(path: Path) -> None:
    if path.name == "clock.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in CLOCK_CALLS, f"{path.name}:{node.lineno} asks a clock of its own"


def test_every_package_is_installed() -> None:
    """The packages that pyproject lists are the folders there are."""
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    assert listed == {name_of(path) for path in modules() if path.name == "__init__.py"}
