"""How an answer is written down: one sheet a format. Rows go to standard output or a file, nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from server import encode
from server.encode import ArrowStream, Look

FORMATS = ("table", "ndjson", "csv", "json", "parquet", "arrow")
ENDINGS = {".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".csv": "csv", ".json": "json"}
ROWS_PER_GROUP = 100_000

Columns = Sequence[tuple[str, str]]


class Sheet(Protocol):
    """Takes a result's rows as they come."""

    def begin(self, meta: Mapping[str, Any]) -> None:
        """What is told first: the columns, whether rows have keys, whether it will end."""
        ...

    def rows(self, table: pa.Table) -> None: ...

    def beat(self) -> None:
        """Called now and then, and after rows: what waits may be shown."""
        ...

    def end(self) -> None:
        """The answer is over, or is broken off: what was given is made whole."""
        ...


def columns_of(meta: Mapping[str, Any]) -> Columns:
    return [(column["name"], column["type"]) for column in meta["schema"]]


class Plain:
    """What the sheets of bytes share: where they write, and how values look."""

    def __init__(self, out: IO[bytes]) -> None:
        self.out = out
        self.columns: Columns = ()
        self.look = Look()

    def begin(self, meta: Mapping[str, Any]) -> None:
        self.columns = columns_of(meta)
        self.look = encode.look_of(self.columns)

    def beat(self) -> None:
        self.out.flush()

    def end(self) -> None:
        self.out.flush()


class LinesSheet(Plain):
    """One JSON object a line."""

    def rows(self, table: pa.Table) -> None:
        self.out.write(encode.rows_lines(table, self.look))


class JsonSheet(Plain):
    """One JSON array."""

    def __init__(self, out: IO[bytes]) -> None:
        super().__init__(out)
        self.count = 0

    def rows(self, table: pa.Table) -> None:
        for row in encode.rows_of(table, self.look):
            self.out.write((b",\n " if self.count else b"[") + encode.dumps(row))
            self.count += 1

    def end(self) -> None:
        self.out.write(b"]\n" if self.count else b"[]\n")
        super().end()


class CsvSheet(Plain):
    """A header and rows."""

    def __init__(self, out: IO[bytes]) -> None:
        super().__init__(out)
        self.names: Sequence[str] | None = None

    def rows(self, table: pa.Table) -> None:
        self.head(table.column_names)
        self.out.write(encode.csv_rows(table, self.look))

    def end(self) -> None:
        self.head([name for name, _ in self.columns])
        super().end()

    def head(self, names: Sequence[str]) -> None:
        if self.names is None and names:
            self.names = tuple(names)
            self.out.write(encode.csv_header(names))


class ArrowSheet(Plain):
    """An Arrow IPC stream."""

    def __init__(self, out: IO[bytes]) -> None:
        super().__init__(out)
        self.stream = ArrowStream()

    def rows(self, table: pa.Table) -> None:
        self.stream.add([table])
        self.out.write(self.stream.drain())

    def end(self) -> None:
        if self.stream.writer is None:
            self.stream.begin(encode.schema_of(self.columns))
        self.stream.end()
        self.out.write(self.stream.drain())
        super().end()


class ParquetSheet(Plain):
    """A Parquet file. Rows are gathered into groups; the file is whole once the answer has ended."""

    def __init__(self, out: IO[bytes]) -> None:
        super().__init__(out)
        self.writer: pq.ParquetWriter | None = None
        self.waiting: list[pa.Table] = []
        self.waiting_rows = 0

    def rows(self, table: pa.Table) -> None:
        self.waiting.append(table.replace_schema_metadata())
        self.waiting_rows += table.num_rows
        if self.waiting_rows >= ROWS_PER_GROUP:
            self.write()

    def write(self) -> None:
        if self.writer is None:
            schema = self.waiting[0].schema if self.waiting else encode.schema_of(self.columns)
            self.writer = pq.ParquetWriter(Counted(self.out), schema, compression="zstd")
        if self.waiting:
            schema = self.writer.schema
            self.writer.write_table(pa.concat_tables([table.cast(schema) for table in self.waiting]))
        self.waiting, self.waiting_rows = [], 0

    def end(self) -> None:
        self.write()
        assert self.writer is not None
        self.writer.close()
        super().end()


class Counted:
    """A stream that only goes forward, for a writer that asks where it is."""

    def __init__(self, out: IO[bytes]) -> None:
        self.out = out
        self.at = 0
        self.closed = False

    def write(self, data: Any) -> int:
        self.out.write(data)
        self.at += len(data)
        return len(data)

    def tell(self) -> int:
        return self.at

    def flush(self) -> None:
        self.out.flush()

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


SHEETS: Mapping[str, Callable[[IO[bytes]], Sheet]] = {
    "ndjson": LinesSheet,
    "json": JsonSheet,
    "csv": CsvSheet,
    "arrow": ArrowSheet,
    "parquet": ParquetSheet,
}
