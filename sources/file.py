"""Files as a source: JSON lines, CSV and Parquet, plain or packed, read to their end or followed as they grow.

A file is a split. Its offsets are bytes of the uncompressed text (JSON lines) or rows (CSV, Parquet).
"""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from mql.catalog import SourceInfo, TimeRule
from mql.errors import MqlError
from mql.exec.clock import Clock, SystemClock
from mql.exec.feed import From, Positions, Reader
from mql.exec.items import Chunk, Raw, Rows
from mql.learn import learn
from mql.schema import Field, Shape
from sources.columns import conform, rows_of, shape_of
from sources.delimited import PLAIN_CSV, SNIFF_BYTES, CsvForm, CsvPlan, batches_of, plan_csv
from sources.learning import LEARN_FIRST, Learner, parsed
from sources.pieces import END, clip, lines_list
from sources.settings import DEFAULTS, Settings, describe
from sources.stored import StoredReader
from sources.tail import Tail, TailReader
from sources.texts import blocks_of, complete_end, decompressed, is_compressed, length_of

FORMATS = ("ndjson", "array", "csv", "parquet")
ENDINGS = (
    (("parquet", "pq"), "parquet"),
    (("csv", "tsv"), "csv"),
    (("ndjson", "jsonl"), "ndjson"),
)
LEARN_ELSEWHERE = 300
ROWS_PER_BATCH = 65_536


class FileSource:
    """One file, several, or all that match a pattern.

    `path`: a path, a pattern (`logs/*.json`), or several of them. `format`: ndjson, array (one JSON array or object),
    csv, parquet, or auto (by name, then by content). `follow`: wait for what is appended and for new files, as
    `tail -F` does (JSON lines, and new Parquet files). `registry`: where a followed source notes which file was which
    split, for restarts; unless it `notes` nothing, as one that is a guest where a server is at home.
    """

    def __init__(
        self,
        name: str,
        path: str | Path | Sequence[str | Path],
        *,
        format: str = "auto",
        follow: bool = False,
        csv: CsvForm = PLAIN_CSV,
        settings: Settings = DEFAULTS,
        clock: Clock | None = None,
        registry: Path | None = None,
        notes: bool = True,
    ) -> None:
        self.name = name
        self.patterns = tuple(str(one) for one in ([path] if isinstance(path, str | Path) else path))
        self.settings = settings
        self.clock = clock or SystemClock()
        self.follow = follow
        self.csv = csv
        self.paths = matching(self.patterns)
        if not self.paths and not follow:
            raise MqlError(
                f'no file matches "{", ".join(self.patterns)}"', hint="Check the path.", code="no-such-source"
            )
        self.format = format if format != "auto" else format_of(self.paths)
        assert self.format in FORMATS, self.format
        if follow and self.format in ("array", "csv"):
            raise MqlError(
                f"a file of format {self.format} cannot be followed", hint="Follow JSON lines or Parquet files."
            )
        self.csv_plan: CsvPlan | None = plan_csv(csv_samples(self.paths), csv) if self.format == "csv" else None
        self.shape = self.learned()
        self.learner = Learner(self.shape, settings.open)
        self.tail = Tail(self.patterns, self.format, self.clock, registry, self.learner, notes) if follow else None

    @property
    def info(self) -> SourceInfo:
        if self.tail is not None and not self.shape.fields:
            self.paths = matching(self.patterns)
            self.shape = self.learned()
        growing = self.tail is not None and self.format == "ndjson" and self.learner.shape.fields
        return describe(
            self.name,
            "file",
            self.learner.shape if growing else self.shape,
            self.settings,
            encoding="json" if self.is_text else "columns",
            bounded=not self.follow,
            history=True,
            splits=max(1, len(self.paths)),
        )

    @property
    def is_text(self) -> bool:
        return self.format in ("ndjson", "array")

    @property
    def skipped_rows(self) -> int:
        """Rows of CSV with too many or too few cells, left out since the source was made."""
        return self.csv_plan.skipped if self.csv_plan is not None else 0

    def learned(self) -> Shape:
        """What the files' events look like, as far as their heads, middles and ends tell."""
        match self.format:
            case "parquet":
                return shape_of(pa.unify_schemas(schemas_of(self.paths), promote_options="permissive"))
            case "csv":
                assert self.csv_plan is not None
                return shape_of(self.csv_plan.schema)
            case "array":
                return learn(parsed(lines_list(self.array(0), LEARN_FIRST)), open=self.settings.open)
            case _:
                events = parsed(sample_lines(self.paths))
                return learn(events, open=self.settings.open) if events else Shape(open=True, events=0)

    def open(self, start: From | None, task: int = 0, tasks: int = 1, columns: Sequence[str] | None = None) -> Reader:
        if self.tail is not None:
            return TailReader(self.tail, start, task, tasks)
        since = From() if start is None else start
        splits = range(task, len(self.paths), tasks)
        items = (item for split in splits for item in self.items(split, since.positions or {}, None, 0, 1, columns))
        return StoredReader(items, splits, since.positions or {})

    def end(self) -> Positions:
        if self.tail is not None:
            return self.tail.end()
        return {split: self.length(path) for split, path in enumerate(self.paths)}

    def length(self, path: Path) -> int:
        """The offset after the file's last event."""
        match self.format:
            case "parquet":
                return int(pq.read_metadata(path).num_rows)
            case "csv":
                return sum(item.table.num_rows for item in self.csv_rows(0, path, ()))
            case "array":
                return len(array_lines(path))
            case _:
                if is_compressed(path):
                    return length_of(path)
                with path.open("rb") as file:
                    size = path.stat().st_size
                    return size if complete_end(file.fileno()) == size else size + 1

    def history(
        self,
        since: From,
        until: Positions | None = None,
        part: int = 0,
        parts: int = 1,
        columns: Sequence[str] | None = None,
    ) -> Iterator[Raw]:
        if self.tail is not None:
            last = until if until is not None else self.end()
            yield from self.tail.stored(since.positions or {}, last, part, parts)
            return
        for split in range(len(self.paths)):
            yield from self.items(split, since.positions or {}, until, part, parts, columns, since.time_us)

    def plain_files(self, since: From, until: Positions | None) -> Sequence[Path]:
        if self.tail is not None or self.format != "ndjson" or since.positions:
            return ()
        if until is not None and until != self.end():
            return ()
        paths = [path.resolve() for path in self.paths]
        # The kernel takes other names for patterns.
        return () if any(is_compressed(path) or set(str(path)) & set("*?[]{}") for path in paths) else paths

    def items(
        self,
        split: int,
        since: Positions,
        until: Positions | None,
        part: int,
        parts: int,
        columns: Sequence[str] | None,
        since_us: int | None = None,
    ) -> Iterator[Raw]:
        """A part's share of one file, between two positions."""
        first, last = since.get(split, 0), END if until is None else until.get(split, 0)
        path = self.paths[split]
        if first >= last:
            return
        whole: Iterator[Raw]
        match self.format:
            case "parquet":
                whole = self.parquet_rows(split, path, part, parts, columns, first, since_us)
            case "csv":
                whole = self.csv_rows(split, path, columns) if split % parts == part else iter(())
            case "array":
                whole = iter([self.array(split)] if split % parts == part else [])
            case _:
                whole = self.chunks(split, path, part, parts, first, last)
        pieces = (clip(item, first, last) for item in whole if item.next_offset > first)
        yield from (piece for piece in pieces if piece is not None)

    def chunks(self, split: int, path: Path, part: int, parts: int, first: int, last: int) -> Iterator[Chunk]:
        """Lines as they lie in the file: a share of its bytes if it is plain, else whole files in turn."""
        begin, end = 0, END
        if is_compressed(path):
            if split % parts != part:
                return
        elif parts > 1:
            size = path.stat().st_size
            begin, end = size * part // parts, END if part == parts - 1 else size * (part + 1) // parts
        arrived = self.arrived_us(path)
        for at, data in blocks_of(path, max(begin, first), min(end, last)):
            yield Chunk(split, data, at, arrived)

    def arrived_us(self, path: Path) -> int:
        """When a file's events came: when it was written last, so that each reading of it says the same."""
        return path.stat().st_mtime_ns // 1000

    def array(self, split: int) -> Chunk:
        """The elements of a JSON array as lines; offsets are bytes of these."""
        return Chunk(split, array_lines(self.paths[split]), 0, self.arrived_us(self.paths[split]))

    def parquet_rows(
        self,
        split: int,
        path: Path,
        part: int,
        parts: int,
        columns: Sequence[str] | None,
        since: int,
        since_us: int | None,
    ) -> Iterator[Rows]:
        with pq.ParquetFile(path) as file:
            wanted = [
                group
                for group in range(file.num_row_groups)
                if since_us is None or may_hold(file.metadata.row_group(group), self.info.time, since_us)
            ]
            share = frozenset(wanted[len(wanted) * part // parts : len(wanted) * (part + 1) // parts])
            yield from parquet_items(file, split, share, self.wanted(columns), self.arrived_us(path), since)

    def csv_rows(self, split: int, path: Path, columns: Sequence[str] | None) -> Iterator[Rows]:
        assert self.csv_plan is not None
        arrived, at = self.arrived_us(path), 0
        blocks = (data for _, data in blocks_of(path))
        for batch in batches_of(self.csv_plan, blocks, self.wanted(columns)):
            rows = rows_of(split, batch, at, arrived)
            yield rows
            at = rows.next_offset

    def wanted(self, columns: Sequence[str] | None) -> tuple[Field, ...]:
        fields = self.info.shape.fields
        return fields if columns is None else tuple(field for field in fields if field.name in columns)

    def sample(self, n: int) -> Sequence[bytes]:
        if self.is_text:
            return tuple(sample_lines(self.paths) if self.format == "ndjson" else lines_list(self.array(0), n))[:n]
        found: list[bytes] = []
        for item in self.history(From()):
            assert isinstance(item, Rows)
            rows = item.table.slice(0, n - len(found)).drop_columns(["_offset"]).to_pylist()
            found.extend(orjson.dumps(row, default=str) for row in rows)
            if len(found) >= n:
                break
        return tuple(found)

    def close(self) -> None:
        return


def matching(patterns: Sequence[str]) -> tuple[Path, ...]:
    """The files that match, each once, in the order of their paths: a file's place is its split."""
    found = {path for pattern in patterns for path in expand(pattern) if not Path(path).is_dir()}
    return tuple(Path(path) for path in sorted(found))


def expand(pattern: str) -> list[str]:
    """A path that exists is taken as it stands, whatever signs are in its name."""
    return [pattern] if Path(pattern).exists() else glob.glob(pattern, recursive=True)


def format_of(paths: Sequence[Path]) -> str:
    """By the name's ending (without that of its packing), else by the content; JSON lines where nothing tells."""
    if not paths:
        return "ndjson"
    path = paths[0]
    name = path.with_suffix("") if path.suffix in (".gz", ".zst", ".gzip", ".zstd") else path
    ending = name.suffix.lstrip(".").lower()
    known = next((format for endings, format in ENDINGS if ending in endings), None)
    if known:
        return known
    with decompressed(path) as stream:
        return format_of_head(stream.read(4096))


def format_of_head(head: bytes) -> str:
    """Told from the first bytes of a text."""
    if head.startswith(b"PAR1"):
        return "parquet"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    start = text[:1]
    if text.split(b"\n")[0].strip() == b"{":
        return "array"  # one object, printed over several lines
    return {b"{": "ndjson", b"": "ndjson", b"[": "array"}.get(start, "csv")


def array_lines(path: Path) -> bytes:
    with decompressed(path) as stream:
        text = stream.read().removeprefix(b"\xef\xbb\xbf")
    try:
        elements = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise MqlError(f'file "{path}" is no JSON array: {error.msg}', code="source-unreadable") from error
    events = elements if isinstance(elements, list) else [elements]
    return b"".join(orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE) for event in events)


def sample_lines(paths: Sequence[Path]) -> list[bytes]:
    """Lines from the first file's head, and some from the middle and the end of the last."""
    lines: list[bytes] = []
    for path in paths[:10]:
        if len(lines) < LEARN_FIRST:
            lines += head_lines(path, LEARN_FIRST - len(lines))
    if paths and not is_compressed(paths[-1]):
        size = paths[-1].stat().st_size
        for start in (size // 2, size - SNIFF_BYTES // 4):
            if start > SNIFF_BYTES:
                lines += block_lines(paths[-1], start, LEARN_ELSEWHERE)
    return lines


def head_lines(path: Path, n: int) -> list[bytes]:
    lines: list[bytes] = []
    for at, data in blocks_of(path, size=SNIFF_BYTES):
        lines += lines_list(Chunk(0, data, at, 0), n - len(lines))
        if len(lines) >= n:
            break
    return lines


def block_lines(path: Path, start: int, n: int) -> list[bytes]:
    at, data = next(blocks_of(path, start, start + SNIFF_BYTES // 4), (0, b""))
    return lines_list(Chunk(0, data, at, 0), n)


def csv_samples(paths: Sequence[Path]) -> list[bytes]:
    """The head of the first file, and a piece of its middle and its end."""
    path = paths[0]
    samples = [data for _, data in [next(blocks_of(path, size=SNIFF_BYTES), (0, b""))] if data]
    if not is_compressed(path):
        size = path.stat().st_size
        for start in (size // 2, size - SNIFF_BYTES // 4):
            if start > SNIFF_BYTES:
                samples += [data for _, data in blocks_of(path, start, start + SNIFF_BYTES // 4)]
    return samples


def schemas_of(paths: Sequence[Path]) -> list[pa.Schema]:
    return [pq.read_schema(path) for path in (*paths[:20], *paths[20:][-5:])]


def may_hold(group: pq.RowGroupMetaData, time: TimeRule, since_us: int) -> bool:
    """Whether a row group may hold events from `since_us` on, as far as the statistics of its time column tell."""
    found = (group.column(at) for at in range(group.num_columns))
    column = next((one for one in found if time.path is not None and one.path_in_schema == ".".join(time.path)), None)
    if column is None or column.statistics is None or not column.statistics.has_min_max or column.statistics.null_count:
        return True
    match column.statistics.max:
        case datetime() as newest:
            return (newest if newest.tzinfo else newest.replace(tzinfo=UTC)).timestamp() * 1e6 >= since_us - 1
        case int() as newest:
            return newest * 1_000_000 >= since_us * per_second(newest, time.unit)
        case _:
            return True


def per_second(value: int, unit: str) -> int:
    """How many of the unit are a second; for `auto` told by the value, as the decoder does."""
    units = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
    if unit in units:
        return units[unit]
    return next((per for limit, per in ((1e11, 1), (1e14, 1_000), (1e17, 1_000_000)) if value < limit), 1_000_000_000)


def parquet_items(
    file: pq.ParquetFile, split: int, share: Collection[int], fields: Sequence[Field], now_us: int, since: int = 0
) -> Iterator[Rows]:
    """The row groups of one Parquet file that are in `share`, from the group on that holds row `since`."""
    names = [field.name for field in fields if field.name in file.schema_arrow.names]
    at = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if group in share and at + rows > since:
            first = at
            for batch in file.iter_batches(ROWS_PER_BATCH, row_groups=[group], columns=names):
                item = rows_of(split, conform(batch, fields), first, now_us)
                yield item
                first = item.next_offset
        at += rows
