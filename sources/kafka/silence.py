"""How long the brokers have not answered for each partition of a consumer."""

from __future__ import annotations

from collections.abc import Collection

from aiokafka import AIOKafkaConsumer

from sources.kafka.directory import Partition

NOT_LOOKED_S = 1.0  # who did not look for so long fetched nothing either, and can say nothing of answers
NAMED_MAX = 3


class Silence:
    """Looked at after each fetch of one consumer. A broker answers an idle fetch every half second."""

    def __init__(self, now_s: float) -> None:
        self.made_s = now_s
        self._looked_s = now_s
        self._marks: dict[Partition, tuple[int | None, float]] = {}

    def look(self, consumer: AIOKafkaConsumer, got: Collection[Partition], now_s: float) -> None:
        """`got`: the partitions of which something was handed over just now."""
        absent = now_s - self._looked_s > NOT_LOOKED_S
        self._looked_s = now_s
        marks = {}
        for partition in consumer.assignment() - consumer.paused():
            mark = (consumer.last_poll_timestamp(partition), now_s)
            before = self._marks.get(partition)
            is_same = before is not None and before[0] == mark[0] and partition not in got and not absent
            marks[partition] = before if before is not None and is_same else mark
        self._marks = marks

    def least_s(self) -> float:
        """For so long all of them are silent."""
        return min((self._looked_s - since_s for _, since_s in self._marks.values()), default=0.0)

    def silent(self, longer_s: float) -> dict[Partition, float]:
        """The partitions that are silent for longer than that, and for how long."""
        silences = {one: self._looked_s - since_s for one, (_, since_s) in self._marks.items()}
        return {one: silences[one] for one in sorted(silences) if silences[one] > longer_s}

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
