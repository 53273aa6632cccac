"""Times that are plain numbers are read by a swifter statement, which must never tell another time."""

import random
from collections.abc import Iterator

import pytest

from mql.catalog import TimeRule
from mql.exec.items import Chunk
from mql.exec.kernel import Kernel, Session
from mql.exec.scan import Decoder, json_statement, swift_statement
from mql.schema import BIGINT, BOOLEAN, DOUBLE, VARCHAR

VALUES = (
    *("0", "1", "1.0", "2", "3", "-5", "1.5", "1e3", "1E12", "1.7e9", "1700000000", "1700000000.5", "1e400", "-1e30"),
    *("1700000000000", "1700000000000.25", "1700000000000000", "1700000000000000000", "9007199254740991"),
    *("9007199254740993", "99999999999", "100000000000", "253402300799", "253402300800", "253402300799999999"),
    *("true", "false", "null", '"1700000000"', '" 1700000000000 "', '"2023-11-14T22:13:20Z"', '"x"', '""', "[1700]"),
)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    kernel = Kernel()
    yield kernel.session()
    kernel.close()


@pytest.mark.parametrize("unit", ["s", "ms", "us", "auto"])
@pytest.mark.parametrize("asked", [None, BIGINT, DOUBLE])
def test_no_time_is_read_otherwise(session: Session, unit: str, asked: object) -> None:
    columns = [(("a",), VARCHAR), *([(("t",), asked)] if asked else [])]
    time = TimeRule(("t",), unit)
    assert swift_statement(tuple(columns), time, frozenset()) is not None
    for value in VALUES:
        event = Chunk(0, b'{"a":"b","t":%s,"t":7}\n' % value.encode(), 0, 5)
        swift = Decoder(session, "json", time, columns)
        careful = Decoder(session, "json", time, columns)
        careful._swift = None
        assert swift.decode([event]) == careful.decode([event]), value


def test_one_odd_time_among_plain_ones_is_read_as_before(session: Session) -> None:
    time = TimeRule(("t",), "ms")
    data = b'{"t":1700000000000}\n{"t":"2023-11-14T22:13:20Z"}\n{"t":true}\n{"t":1700000000001}\n'
    decoder = Decoder(session, "json", time, [(("t",), BIGINT)])
    for _ in range(2):
        found = decoder.decode([Chunk(0, data, 0, 5)])
        assert found.table.column("__t").to_pylist() == [1_700_000_000_000_000] * 2 + [1_700_000_000_001_000]
        assert [letter.offset for letter in found.malformed] == [data.index(b'{"t":true}')]


def test_a_time_that_is_asked_for_as_text_is_read_as_text() -> None:
    for asked in (VARCHAR, BOOLEAN):
        assert swift_statement(((("t",), asked),), TimeRule(("t",), "ms"), frozenset()) is None
    assert swift_statement(((("t", "x"), BIGINT),), TimeRule(("t",), "ms"), frozenset()) is None
    assert swift_statement((), TimeRule(("t",), "iso"), frozenset()) is None
    assert json_statement((), TimeRule(("t",), "iso"), frozenset()).timed


PIECES = (*'{}[]":,1-a\\ \t\x01é', ".5", "e9", "null", "true", "NaN")


def test_texts_are_no_json_to_a_wary_statement_where_they_are_none_to_the_other(session: Session) -> None:
    """Broken texts make it wary from then on, which must not change what is an event."""
    dice = random.Random(5)
    lines = [b'{"a":"b","t":1}']
    for _ in range(3_000):
        text = list('{"a":"x","t":1,"b":[1,{"c":null}]}')
        for _ in range(dice.randrange(4)):
            at = dice.randrange(len(text) + 1)
            text[at : at + dice.randrange(2)] = [dice.choice(PIECES)]
        lines.append("".join(text).encode())
    data = b"\n".join(lines) + b"\n"
    columns = [(("a",), VARCHAR), (("b",), VARCHAR)]
    decoder = Decoder(session, "json", TimeRule(("t",), "s"), columns)
    swift = decoder.decode([Chunk(0, data, 0, 5)])
    assert decoder._wary
    assert 500 < swift.unreadable < 2_900
    wary = decoder.decode([Chunk(0, data, 0, 5)])
    assert (wary.table, wary.unreadable) == (swift.table, swift.unreadable)
    one_by_one = Decoder(session, "json", TimeRule(("t",), "s"), columns)
    for _ in range(2):
        found = one_by_one.decode([Chunk(0, b'{"a":"b","t":1}\n' * 5_000, 0, 5)])
        assert (found.unreadable, one_by_one._wary) == (0, 0)
