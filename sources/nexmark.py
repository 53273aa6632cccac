"""The Nexmark benchmark's auction site: persons, auctions and bids in the proportions 1 : 3 : 46.

Fields, proportions and hot keys follow the benchmark's generator (Tucker, Tufte, Papadimos, Maier: NEXMark, a
benchmark for queries over data streams, and its later implementations); the random numbers are our own, so that event
i is a function of the seed and i (see synthetic.py). Ids refer to what has been before: the bidder of a bid is a
person that exists.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mql.catalog import TimeRule
from mql.exec.clock import Clock
from mql.schema import BIGINT, VARCHAR, DataType, Field, Shape, StructOf
from sources.generator import taken, text
from sources.settings import DEFAULTS, Settings
from sources.synthetic import Curve, Numbers, SyntheticSource, begin_us, below, mixed

STREAMS = ("all", "person", "auction", "bid")
PERSONS, AUCTIONS, BIDS = 1, 3, 46
TOTAL = PERSONS + AUCTIONS + BIDS
FIRST_PERSON = FIRST_AUCTION = 1000
FIRST_CATEGORY, CATEGORIES = 10, 5
ACTIVE_PEOPLE = 1000
IN_FLIGHT_AUCTIONS = 100
HOT_AUCTION_RATIO, HOT_BIDDER_RATIO, HOT_SELLER_RATIO = 2, 4, 4
HOT_STEP = 100  # the hot one is the newest whose number is a multiple of this

STATES = ("AZ", "CA", "ID", "OR", "WA", "WY")
CITIES = (
    "Phoenix",
    "Los Angeles",
    "San Francisco",
    "Boise",
    "Portland",
    "Bend",
    "Redmond",
    "Seattle",
    "Kent",
    "Cheyenne",
)
FIRST_NAMES = ("Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter")
LAST_NAMES = ("Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris")
CHANNELS = ("Google", "Facebook", "Baidu", "Apple")

PERSON_FIELDS: tuple[tuple[str, DataType], ...] = (
    ("id", BIGINT),
    ("name", VARCHAR),
    ("email_address", VARCHAR),
    ("credit_card", VARCHAR),
    ("city", VARCHAR),
    ("state", VARCHAR),
    ("date_time", BIGINT),
    ("extra", VARCHAR),
)
AUCTION_FIELDS: tuple[tuple[str, DataType], ...] = (
    ("id", BIGINT),
    ("item_name", VARCHAR),
    ("description", VARCHAR),
    ("initial_bid", BIGINT),
    ("reserve", BIGINT),
    ("date_time", BIGINT),
    ("expires", BIGINT),
    ("seller", BIGINT),
    ("category", BIGINT),
    ("extra", VARCHAR),
)
BID_FIELDS: tuple[tuple[str, DataType], ...] = (
    ("auction", BIGINT),
    ("bidder", BIGINT),
    ("price", BIGINT),
    ("channel", VARCHAR),
    ("url", VARCHAR),
    ("date_time", BIGINT),
    ("extra", VARCHAR),
)
FIELDS = {"person": PERSON_FIELDS, "auction": AUCTION_FIELDS, "bid": BID_FIELDS}


class NexmarkSource(SyntheticSource):
    """`stream`: person, auction or bid, with the benchmark's columns; or all, in which `event_type` (0, 1, 2) tells
    which of the nested `person`, `auction`, `bid` is there. Sources of one seed and rate fit together. `events` counts
    those of all three.
    """

    def __init__(
        self,
        name: str,
        stream: str = "all",
        *,
        rate: float = 1_000,
        splits: int = 2,
        seed: int = 1,
        events: int | None = None,
        start_us: int | None = None,
        settings: Settings = DEFAULTS,
        clock: Clock | None = None,
    ) -> None:
        assert stream in STREAMS, stream
        curve = Curve(rate, 0.0, begin_us(start_us, events))
        super().__init__(
            name, Auctions(stream, seed), curve, splits=splits, events=events, settings=settings, clock=clock
        )


@dataclass(frozen=True, slots=True)
class Auctions:
    """What the auction site's events say."""

    stream: str
    seed: int
    kind = "nexmark"
    time = TimeRule(("date_time",), "ms")
    bytes_per_event = 260

    @property
    def shape(self) -> Shape:
        if self.stream != "all":
            return Shape(tuple(Field(name, type) for name, type in FIELDS[self.stream]))
        nested = tuple(Field(name, StructOf(fields)) for name, fields in FIELDS.items())
        return Shape((Field("event_type", BIGINT), Field("date_time", BIGINT), *nested))

    def keep(self, numbers: Numbers) -> Numbers:
        if self.stream == "all":
            return numbers
        kept: Numbers = numbers[kind_of(numbers) == STREAMS.index(self.stream) - 1]
        return kept

    def texts(self, numbers: Numbers, times_us: Numbers) -> pa.Array:
        millis = times_us // 1000
        match self.stream:
            case "person":
                return self.persons(numbers, millis)
            case "auction":
                return self.auctions(numbers, millis)
            case "bid":
                return self.bids(numbers, millis)
            case _:
                return self.all_kinds(numbers, millis)

    def all_kinds(self, numbers: Numbers, millis: Numbers) -> pa.Array:
        kinds = kind_of(numbers)
        made, order = [], []
        for kind, make in enumerate((self.persons, self.auctions, self.bids)):
            at = np.flatnonzero(kinds == kind)
            if len(at):
                head = f'{{"event_type":{kind},"date_time":'
                inner = make(numbers[at], millis[at])
                made.append(
                    pc.binary_join_element_wise(head, text(millis[at]), f',"{STREAMS[kind + 1]}":', inner, "}", "")
                )
                order.append(at)
        return taken(pa.concat_arrays(made), np.argsort(np.concatenate(order)))

    def persons(self, numbers: Numbers, millis: Numbers) -> pa.Array:
        ids = last_person(numbers)
        first = below(mixed(numbers, self.seed, 21), len(FIRST_NAMES))
        last = below(mixed(numbers, self.seed, 22), len(LAST_NAMES))
        card = mixed(numbers, self.seed, 23)
        return pc.binary_join_element_wise(
            '{"id":', text(ids), ',"name":"', taken(pa.array(FIRST_NAMES), first), " ",
            taken(pa.array(LAST_NAMES), last),
            '","email_address":"', taken(pa.array(LAST_NAMES), last), "@", text(ids), '.example","credit_card":"',
            text(1000 + below(card, 9000)), " ", text(1000 + below(card * np.uint64(7), 9000)), " ",
            text(1000 + below(card * np.uint64(11), 9000)), " ", text(1000 + below(card * np.uint64(13), 9000)),
            '","city":"', taken(pa.array(CITIES), below(mixed(numbers, self.seed, 24), len(CITIES))),
            '","state":"', taken(pa.array(STATES), below(mixed(numbers, self.seed, 25), len(STATES))),
            '","date_time":', text(millis), ',"extra":"', self.padding(numbers), '"}', "",
        )  # fmt: skip

    def auctions(self, numbers: Numbers, millis: Numbers) -> pa.Array:
        initial = self.price(numbers, 31)
        reserve = initial + self.price(numbers, 32)
        return pc.binary_join_element_wise(
            '{"id":', text(last_auction(numbers)), ',"item_name":"item ', text(below(mixed(numbers, self.seed,
            33), 5000)),
            '","description":"lot ', self.padding(numbers), '","initial_bid":', text(initial), ',"reserve":',
            text(reserve),
            ',"date_time":', text(millis), ',"expires":', text(millis + 1 + below(mixed(numbers, self.seed,
            34), 20_000)),
            ',"seller":', text(self.person(numbers, 35, HOT_SELLER_RATIO, 0)),
            ',"category":', text(FIRST_CATEGORY + below(mixed(numbers, self.seed, 37), CATEGORIES)),
            ',"extra":"', self.padding(numbers), '"}', "",
        )  # fmt: skip

    def bids(self, numbers: Numbers, millis: Numbers) -> pa.Array:
        channel = below(mixed(numbers, self.seed, 43), len(CHANNELS))
        return pc.binary_join_element_wise(
            '{"auction":', text(self.auction(numbers)), ',"bidder":', text(self.person(numbers, 41,
            HOT_BIDDER_RATIO, 1)),
            ',"price":', text(self.price(numbers, 42)), ',"channel":"', taken(pa.array(CHANNELS), channel),
            '","url":"https://www.nexmark.example/item.htm?query=1&channel_id=', text(channel),
            '","date_time":', text(millis), ',"extra":"', self.padding(numbers), '"}', "",
        )  # fmt: skip

    def price(self, numbers: Numbers, purpose: int) -> Numbers:
        """In cents: 10 to the power of up to six, evenly in the exponent."""
        exponent = below(mixed(numbers, self.seed, purpose), 6_000_000) / 1e6
        return np.round(np.power(10.0, exponent) * 100).astype(np.int64)

    def auction(self, numbers: Numbers) -> Numbers:
        """Half the bids are for the hot auction, the others for one of those in flight."""
        newest = last_auction(numbers) - FIRST_AUCTION
        hot = newest // HOT_STEP * HOT_STEP
        oldest = np.maximum(newest - IN_FLIGHT_AUCTIONS, 0)
        bits = mixed(numbers, self.seed, 44)
        usual = oldest + (bits % (newest - oldest + 1).astype(np.uint64)).astype(np.int64)
        return FIRST_AUCTION + np.where(below(mixed(numbers, self.seed, 45), HOT_AUCTION_RATIO) > 0, hot, usual)

    def person(self, numbers: Numbers, purpose: int, hot_ratio: int, beside: int) -> Numbers:
        """Three of four are the hot person, the others one of the active. `beside`: hot buyers are not hot sellers."""
        newest = last_person(numbers) - FIRST_PERSON
        hot = np.minimum(newest // HOT_STEP * HOT_STEP + beside, newest)
        active = np.minimum(newest + 1, ACTIVE_PEOPLE)
        bits = mixed(numbers, self.seed, purpose)
        usual = newest - (bits % active.astype(np.uint64)).astype(np.int64)
        return FIRST_PERSON + np.where(below(mixed(numbers, self.seed, purpose + 50), hot_ratio) > 0, hot, usual)

    def padding(self, numbers: Numbers) -> pa.Array:
        """Text that means nothing and makes an event as big as the benchmark wants it."""
        return text(mixed(numbers, self.seed, 51).astype(np.int64) & np.int64(0x7FFFFFFFFFFFFFFF))


def kind_of(numbers: Numbers) -> Numbers:
    """0 a person, 1 an auction, 2 a bid: of fifty events the first, the next three, the rest."""
    place = numbers % TOTAL
    return (place >= PERSONS).astype(np.int64) + (place >= PERSONS + AUCTIONS).astype(np.int64)


def last_person(numbers: Numbers) -> Numbers:
    """The id of the newest person at an event (a person's own id at its own)."""
    return FIRST_PERSON + numbers // TOTAL


def last_auction(numbers: Numbers) -> Numbers:
    """The id of the newest auction at an event (an auction's own id at its own)."""
    rounds, place = numbers // TOTAL, numbers % TOTAL
    return FIRST_AUCTION + np.maximum(rounds * AUCTIONS + np.clip(place - PERSONS, -1, AUCTIONS - 1), 0)
