"""A table as a whole answer, in any of the formats."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
from aiohttp import web

from server import encode
from server.encode import Look
from server.routes.asking import one_of
from server.routes.route import ARROW, CSV, JSON, LINES
from server.shared import shared_of
from server.stream import coding_of

NEXT = "MQL-Next"
"""The header with the number of the row at which to go on reading."""
TABLE_TYPES = (JSON, LINES, CSV, ARROW)
COMPRESS_FROM_BYTES = 4096
ROWS_A_TURN = 20_000


async def table_answer(
    request: web.Request,
    table: pa.Table,
    kind: str,
    columns: Sequence[tuple[str, str]] = (),
    next_row: int | None = None,
) -> web.StreamResponse:
    """The table, encoded on a thread a part at a time, so that a large one does not block the loop. `next_row`: where
    to go on reading, where it is not all."""
    shared = shared_of(request)
    int64_text = one_of(request, "int64", ("number", "string")) == "string"
    look = encode.look_of(columns, int64_text)
    types = encode.columns_of(table, columns)
    parts = table_parts(table, kind, look, types, next_row)
    headers = {"Vary": "Accept, Accept-Encoding"}
    if next_row is not None:
        headers[NEXT] = str(next_row)
    first = await shared.call(next, parts, b"")
    second = await shared.call(next, parts, None)
    if second is None:
        return small_answer(request, first, kind, headers)
    response = web.StreamResponse(headers={**headers, "Content-Type": kind})
    await response.prepare(request)
    await response.write(first)
    while second is not None:
        await response.write(second)
        second = await shared.call(next, parts, None)
    await response.write_eof()
    return response


def small_answer(request: web.Request, body: bytes, kind: str, headers: dict[str, str]) -> web.Response:
    if len(body) >= COMPRESS_FROM_BYTES and coding_of(request.headers.get("Accept-Encoding", "")) == "gzip":
        state = zlib.compressobj(5, zlib.DEFLATED, 31)
        body = state.compress(body) + state.flush()
        headers = {**headers, "Content-Encoding": "gzip"}
    return web.Response(body=body, headers={**headers, "Content-Type": kind})


def table_parts(
    table: pa.Table, kind: str, look: Look, columns: Sequence[tuple[str, str]], next_row: int | None
) -> Iterator[bytes]:
    """The table's bytes in parts; a table of few rows is one part."""
    slices = [table.slice(at, ROWS_A_TURN) for at in range(0, table.num_rows, ROWS_A_TURN)] or [table]
    match kind:
        case "application/json":
            yield from json_parts(slices, look, columns, next_row)
        case "application/x-ndjson":
            for each in slices:
                yield encode.rows_lines(each, look)
        case "text/csv":
            header = encode.csv_header(table.column_names or [name for name, _ in columns])
            for at, each in enumerate(slices):
                yield (header if at == 0 else b"") + encode.csv_rows(each, look)
        case _:
            yield arrow_bytes(table, columns)


def json_parts(
    slices: Sequence[pa.Table], look: Look, columns: Sequence[tuple[str, str]], next_row: int | None
) -> Iterator[bytes]:
    """One document: `{"columns": […], "rows": […]}`, with `next` where it is not all."""
    told = [{"name": name, "type": str(type)} for name, type in columns]
    end = b"]}" if next_row is None else b'],"next":%d}' % next_row
    before = b'{"columns":' + encode.dumps(told) + b',"rows":['
    for at, each in enumerate(slices):
        inner = b",".join(encode.rows_inner(each, look))
        last = at == len(slices) - 1
        yield before + inner + (end if last else b"")
        before = b","


def arrow_bytes(table: pa.Table, columns: Sequence[tuple[str, str]]) -> bytes:
    stream = encode.ArrowStream()
    stream.begin(table.schema.remove_metadata() if table.num_columns else encode.schema_of(columns))
    if table.num_rows:
        stream.add([table])
    stream.end()
    return stream.drain()
