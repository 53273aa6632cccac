"""The offset that a group has committed, and not what a broker believes that has stood still meanwhile.

Whoever takes over a transactional id must know whether the transaction before it was committed. The broker that keeps
the group's offsets may have changed since; the one before goes on to answer from what it knew for some 100 ms after it
has stood still, and then for seconds with an error that the client's `committed` takes for "nothing". A broker that
confirms something written is the one that keeps the group, and what it has kept by then holds all that was committed
before: so something is written first, in a transaction that is given up, and then the same broker is asked.
"""

from __future__ import annotations

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import GroupCoordinatorNotAvailableError, for_code
from aiokafka.protocol.commit import OffsetFetchRequest

NOTHING = -1


async def newest_place(producer: AIOKafkaProducer, group: str, slot: TopicPartition) -> int:
    """What was committed before the producer's start, or by it; `NOTHING`: nothing, or Kafka has forgotten it.

    The producer is started, and the only one with its transactional id. Raises KafkaError."""
    await producer.partitions_for(slot.topic)  # brokers that make topics when they are named do so now
    await producer.begin_transaction()
    await producer.send_offsets_to_transaction({slot: 0}, group)
    keeper = producer._sender._coordinators[CoordinationType.GROUP]
    await producer.abort_transaction()
    return await _place_at(producer.client, keeper, group, slot)


async def place_told(client: AIOKafkaClient, group: str, slot: TopicPartition) -> int:
    """What the brokers say, who may be behind."""
    keeper = await client.coordinator_lookup(CoordinationType.GROUP, group)
    return await _place_at(client, keeper, group, slot)


async def _place_at(client: AIOKafkaClient, broker: int, group: str, slot: TopicPartition) -> int:
    request = OffsetFetchRequest(group, [(slot.topic, [slot.partition])])
    answer = await client.send(broker, request, group=ConnectionGroup.COORDINATION)
    wrong = getattr(answer, "error_code", 0)  # older brokers have none for the whole
    for _, partitions in answer.topics:
        for _, offset, _, error in partitions:
            if not (wrong or error):
                return int(offset)
            wrong = wrong or error
    raise for_code(wrong)() if wrong else GroupCoordinatorNotAvailableError()
