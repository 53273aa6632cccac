"""Where artifacts are kept: `artifacts/NAME/VERSION.zip` below the data directory. A version never changes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mql.errors import MqlError
from mql.exec.files import replace_file
from server.programs.manifest import VERSION, Artifact, read_artifact
from server.templates import NAME

VERSIONS_MAX = 100
ARTIFACTS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Kept:
    """One version of an artifact. `added_us`: when it was put there."""

    name: str
    version: str
    path: Path
    added_us: int
    bytes: int

    def read(self) -> Artifact:
        return read_kept(self.path, self.path.stat().st_mtime_ns)


@lru_cache(maxsize=32)
def read_kept(path: Path, changed_ns: int) -> Artifact:
    return read_artifact(path.read_bytes())


class Shelf:
    """All artifacts of one server. Calls block; the files themselves are what is known."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def put(self, name: str, version: str, data: bytes) -> tuple[Kept, bool]:
        """Keeps an artifact, and says whether it is new. The same bytes may come again; others are refused."""
        artifact = read_artifact(data)
        if artifact.program.name != name:
            raise MqlError(
                f'its job.yaml calls it "{artifact.program.name}", not "{name[:80]}"', code="invalid-artifact"
            )
        if not re.fullmatch(VERSION, version):
            hint = "Letters, digits, dots, _ and -, such as 1.0.2."
            raise MqlError(f'"{version[:80]}" is no version', hint=hint, code="invalid-artifact")
        there = self.find(name, version)
        if there is not None:
            if there.read().digest == artifact.digest:
                return there, False
            hint = "A version never changes: take another."
            raise MqlError(
                f'"{name}" {version} is there already, with other contents', hint=hint, code="artifact-exists"
            )
        if len(self.versions(name)) >= VERSIONS_MAX or len(self.names()) >= ARTIFACTS_MAX:
            raise MqlError(f'there are enough versions of "{name}"', hint="Delete one.", code="too-many-artifacts")
        folder = self.directory / name
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / f"{version}.zip", data)
        kept = self.find(name, version)
        assert kept is not None
        return kept, True

    def names(self) -> Sequence[str]:
        if not self.directory.is_dir():
            return ()
        return tuple(sorted(one.name for one in self.directory.iterdir() if self.versions(one.name)))

    def versions(self, name: str) -> Sequence[Kept]:
        """The oldest first."""
        folder = self.directory / name
        if not re.fullmatch(NAME, name) or not folder.is_dir():
            return ()
        found = [kept_at(name, path) for path in folder.glob("*.zip") if re.fullmatch(VERSION, path.stem)]
        return tuple(sorted(found, key=lambda one: (one.added_us, one.version)))

    def find(self, name: str, version: str | None) -> Kept | None:
        """That version; the one that was added last where none is said."""
        versions = self.versions(name)
        if version is None:
            return versions[-1] if versions else None
        return next((one for one in versions if one.version == version), None)

    def get(self, name: str, version: str | None) -> Kept:
        found = self.find(name, version)
        if found is None:
            which = "" if version is None else f" {version[:64]}"
            raise MqlError(
                f'no artifact "{name[:80]}"{which}', hint="GET /v1/artifacts lists them.", code="unknown-artifact"
            )
        return found

    def drop(self, kept: Kept) -> None:
        kept.path.unlink(missing_ok=True)
        if not self.versions(kept.name):
            kept.path.parent.rmdir()


def kept_at(name: str, path: Path) -> Kept:
    told = path.stat()
    return Kept(name, path.stem, path, told.st_mtime_ns // 1_000, told.st_size)
