"""How long the brokers have not answered for each partition of a consumer."""

from __future__ import annotations

from collections.abc import Collection

from aiokafka import AIOKafkaConsumer

from sources.kafka.directory import Partition

LOOKS_S = 1.0  # of the time between two looks so much counts: who does not look takes nothing, so less is fetched
NAMED_MAX = 3


class Silence:
    """Looked at after each fetch of one consumer. A broker answers an idle fetch every half second."""

    def __init__(self, now_s: float) -> None:
        self.made_s = now_s
        self._looked_s = now_s
        self._marks: dict[Partition, tuple[int | None, float]] = {}

    def look(self, consumer: AIOKafkaConsumer, got: Collection[Partition], now_s: float) -> None:
        """`got`: the partitions of which something was handed over just now."""
        passed_s = min(LOOKS_S, now_s - self._looked_s)
        self._looked_s = now_s
        marks = {}
        for partition in consumer.assignment() - consumer.paused():
            stamp = consumer.last_poll_timestamp(partition)
            before, silent_s = self._marks.get(partition, (stamp, 0.0))
            is_silent = stamp == before and partition not in got
            marks[partition] = stamp, silent_s + passed_s if is_silent else 0.0
        self._marks = marks

    def least_s(self) -> float:
        """For so long all of them are silent."""
        return min((silent_s for _, silent_s in self._marks.values()), default=0.0)

    def silent(self, longer_s: float) -> dict[Partition, float]:
        """The partitions that are silent for longer than that, and for how long."""
        return {one: silent_s for one, (_, silent_s) in sorted(self._marks.items()) if silent_s > longer_s}

    @property
    def answered(self) -> bool:
        """Whether anything ever came."""
        return any(stamp is not None for stamp, _ in self._marks.values())

    def told(self, brokers: str, longer_s: float) -> str | None:
        """A sentence for people; None where all of them speak."""
        silent = self.silent(longer_s)
        if not silent:
            return None
        if len(silent) == len(self._marks):
            return f"Kafka at {brokers} has not answered for {min(silent.values()):.0f} s; still trying"
        names = ", ".join(f"{one.topic}-{one.partition}" for one in tuple(silent)[:NAMED_MAX])
        more = f" and {len(silent) - NAMED_MAX} more" if len(silent) > NAMED_MAX else ""
        longest = f"{max(silent.values()):.0f} s"
        return f"Kafka at {brokers} has not answered for {longest} for {names}{more}, whose leader may be away"
