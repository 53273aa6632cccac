"""What a Python job's artifact is: a zip with `job.yaml` and modules, read in memory, by its names, within bounds.

    name: sessions
    entry: sessions:sessions
    query: SELECT user, path, ts FROM requests WHERE status < 500
    params:
      gap: {type: duration, default: 30s}
    output: {user: VARCHAR, pages: BIGINT, seconds: DOUBLE}
    examples:
      - input: [{ts: 0, user: ann, path: /, status: 200}]
        expect: [{user: ann, pages: 1}]

`query` is what the function reads, and may be any query. `job.yaml` is a template's YAML and a few names more.
"""

from __future__ import annotations

import hashlib
import io
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from mql.errors import MqlError
from mql.learn import parse_type
from mql.planner.physical import Plan
from server.outline import MOMENT, WINDOW_TIMES, Outline
from server.settings import Bytes, Seconds
from server.templates import ParamName, Template, Written, checked, names_used, values_of
from sources.strict_yaml import Document, parse_yaml

MANIFEST = "job.yaml"
ENTRIES_MAX = 100
UNPACKED_MAX = 64 << 20
PACKED_MAX = 16 << 20
RATIO_MAX = 100
ENTRY = r"^[A-Za-z_][A-Za-z0-9_.]{0,200}:[A-Za-z_][A-Za-z0-9_]{0,100}$"
VERSION = r"^[0-9A-Za-z][0-9A-Za-z._-]{0,63}$"
UNREADABLE = (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, ValueError, LookupError)
KEPT_NAMES = ("mql", "server", "sources", "pyarrow", "reactivex", "numpy")
"""Modules that the process itself needs: an artifact's own must not hide them."""


class Program(Template):
    """A Python job: a template whose query's rows go through a function.

    `memory`: what its process may take beside its code. `answer_within`: how long the function may be busy with one
    batch before it counts as hung.
    """

    HAS_CODE: ClassVar[bool] = True

    entry: str = Field(description="module:function")
    output: Mapping[ParamName, str] = Field(min_length=1, max_length=500, description="columns and their types")
    memory: Annotated[Bytes, Field(ge=128 << 20, le=64 << 30)] = 512 << 20
    answer_within: Annotated[Seconds, Field(ge=1, le=3_600)] = 30.0
    guarantee: Literal["at_most_once"] = "at_most_once"
    sla: None = None

    @field_validator("entry")
    @classmethod
    def names_a_function(cls, entry: str) -> str:
        if not re.fullmatch(ENTRY, entry):
            raise ValueError("must be module:function")
        return entry

    @field_validator("output")
    @classmethod
    def has_types(cls, output: Mapping[str, str]) -> Mapping[str, str]:
        for name, type in output.items():
            try:
                parse_type(type)
            except MqlError as error:
                raise ValueError(f"{name}: {error.message}") from None
        return output

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        return tuple((name, str(parse_type(type))) for name, type in self.output.items())


@dataclass(frozen=True, slots=True)
class Artifact:
    """What was read of a zip. `digest`: of its bytes."""

    program: Program
    digest: str
    data: bytes


def read_artifact(data: bytes) -> Artifact:
    """The artifact of a zip's bytes. MqlError, or ConfigError of its job.yaml, where it is none that we would run."""
    files = unpacked(data)
    if MANIFEST not in files:
        raise bad(f"it has no {MANIFEST}", f"Put one at its top, beside the module: {', '.join(sorted(files))[:200]}.")
    program = parse_program(files[MANIFEST])
    check_entry(program, files)
    return Artifact(program, hashlib.sha256(data).hexdigest(), data)


def read_directory(folder: Path) -> Artifact:
    """The artifact that a directory becomes."""
    return read_artifact(packed(folder))


def parse_program(data: bytes, file: str = MANIFEST) -> Program:
    document: Document = parse_yaml(data, file)
    return checked(document.value, Written(document, data.decode("utf-8-sig", "replace")), Program)


def check_entry(program: Program, files: Mapping[str, bytes]) -> None:
    module = program.entry.partition(":")[0]
    for top in {name.split("/")[0].removesuffix(".py") for name in files}:
        if top in KEPT_NAMES:
            raise bad(f'its module may not be called "{top}"', "Give it another name.")
    path = module.replace(".", "/")
    if f"{path}.py" not in files and f"{path}/__init__.py" not in files:
        raise bad(f'its entry is "{program.entry}", and there is no {path}.py in it', "Say module:function.")


def packed(folder: Path) -> bytes:
    """A directory as a zip, the same bytes for the same files; what is hidden or made by Python is left out."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
            if path.is_file() and not hidden:
                archive.writestr(zipfile.ZipInfo(name.as_posix(), (1980, 1, 1, 0, 0, 0)), path.read_bytes())
    return out.getvalue()


def unpacked(data: bytes) -> Mapping[str, bytes]:
    """The files of a zip by their names. Nothing is written anywhere."""
    if len(data) > PACKED_MAX:
        raise bad(f"it has {len(data):,} bytes; {PACKED_MAX:,} are allowed", "Leave data out of it.")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return dict(files_of(archive, len(data)))
    except UNREADABLE as error:
        raise bad(f"it is no zip that can be read: {error}", "Pack it with mql artifact push DIR.") from None


def files_of(archive: zipfile.ZipFile, packed_bytes: int) -> Iterator[tuple[str, bytes]]:
    infos = archive.infolist()
    if len(infos) > ENTRIES_MAX:
        raise bad(f"it has {len(infos)} entries; {ENTRIES_MAX} are allowed", "Leave out what the job does not import.")
    names = [info.filename for info in infos]
    if len(set(names)) < len(names):
        raise bad("it has two entries of one name", "Pack it anew.")
    left = min(UNPACKED_MAX, max(1 << 20, packed_bytes * RATIO_MAX))
    for info in infos:
        check_name(info)
        if info.is_dir():
            continue
        with archive.open(info) as file:
            content = file.read(left + 1)  # what it says of its own size may be a lie
        left -= len(content)
        if left < 0:
            raise bad(f"unpacked it has more than {UNPACKED_MAX:,} bytes, or too many for its size", "Leave data out.")
        yield info.filename, content


def check_name(info: zipfile.ZipInfo) -> None:
    name = info.filename
    path = PurePosixPath(name)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise bad(f'"{name[:80]}" is no plain file', "Put the file itself there, no link.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise bad(f'"{name[:80]}" is packed in a way that modules cannot be', "Pack it with mql artifact push DIR.")
    odd = "\\" in name or ":" in name or not name.isprintable()
    if path.is_absolute() or ".." in path.parts or odd or len(name) > 200:
        raise bad(f'"{name[:80]}" is no name for a file in it', "Use names below its top, with / between.")


def bad(what: str, hint: str) -> MqlError:
    return MqlError(f"this is no artifact of a Python job: {what}", hint=hint, code="invalid-artifact")


# --- what a job of it is -------------------------------------------------------------------------------------


def query_values(program: Program, params: Mapping[str, Any]) -> dict[str, object]:
    """What is bound into its query: the parameters that it names."""
    used = names_used(program) or set()
    return {name: value for name, value in values_of(program, params).items() if name in used}


def function_params(program: Program, params: Mapping[str, Any]) -> dict[str, Any]:
    """What its function is given: as the YAML has them, durations as seconds."""
    values = values_of(program, params)
    said = {name: params.get(name, param.default) for name, param in program.params.items()}
    return {
        name: values[name].total_seconds() if param.type == "duration" and said[name] is not None else said[name]  # type: ignore[attr-defined]
        for name, param in program.params.items()
    }


def outline_of_program(program: Program, plan: Plan) -> Outline:
    """What is known of the results of a job of it."""
    types = dict(program.columns)
    moments = (name for name in (*WINDOW_TIMES, MOMENT) if types.get(name) == "TIMESTAMP")
    moment = next(moments, None)
    sources = tuple(dict.fromkeys(scan.source for scan in plan.scans))
    time = None if moment is None else (moment, "auto")
    return Outline(
        program.columns, keyed=False, windowed=False, episodes=None, time=time, lateness_us=0, sources=sources
    )
