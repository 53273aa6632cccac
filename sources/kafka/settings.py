"""What names a topic and the way to it, and the mistakes that can be seen before a broker is asked."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mql.errors import MqlError, did_you_mean
from mql.schema import BIGINT, JSON, TIMESTAMP, VARCHAR, Field

ENVELOPE = (
    Field("_kafka_key", VARCHAR),
    Field("_kafka_headers", JSON),
    Field("_kafka_partition", BIGINT),
    Field("_kafka_topic", VARCHAR),
    Field("_kafka_timestamp", TIMESTAMP),
)
"""What Kafka knows of a message beside its value, for the sources that ask for it."""


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """What names a topic and the way to it. The names are those of mql.yaml.

    `bootstrap_servers`: `host:port`, several with commas. `topic`: one or several; splits are numbered by the
    order given. `group`: readers that start from now are members of it, go on where it has committed, and share
    the partitions by Kafka's rebalance; readers that are told a start (a restored job, SINCE) read beside it.
    `start`: where a reader begins that is not told (in a group: where nothing is committed). `envelope`: the
    columns of `ENVELOPE` to give, with or without `_kafka_`. `password_env`, `password_file`: where the password
    stands, so that it need not stand in the YAML. `history_slack_s`: a topic is searched by Kafka's timestamps, and
    so much earlier than asked, since an event's own time may be earlier than its message's.
    """

    bootstrap_servers: str
    topic: str | tuple[str, ...]
    group: str | None = None
    start: Literal["latest", "earliest"] = "latest"
    envelope: tuple[str, ...] = ()
    isolation_level: Literal["read_committed", "read_uncommitted"] = "read_committed"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_env: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    check_hostname: bool = True
    client_id: str = "mql"
    fetch_bytes: int = 32 << 20
    partition_bytes: int = 2 << 20
    fetch_wait_ms: int = 500
    metadata_refresh_s: float = 30.0
    request_timeout_s: float = 10.0
    session_timeout_s: float = 10.0
    history_slack_s: float = 600.0

    @property
    def topics(self) -> tuple[str, ...]:
        return (self.topic,) if isinstance(self.topic, str) else tuple(self.topic)


@dataclass(frozen=True, slots=True)
class Form:
    """How messages are given: values as JSON texts (else as bytes), keys as texts (else as bytes)."""

    json: bool = True
    text_keys: bool = True


AS_JSON = Form()


class KafkaAway(ConnectionError):
    """The broker does not answer, or not as hoped; the message is a sentence for people."""


def envelope_of(kafka: KafkaSettings) -> tuple[Field, ...]:
    fields = {one.name: one for one in ENVELOPE}
    asked = tuple(name if name.startswith("_kafka_") else f"_kafka_{name}" for name in kafka.envelope)
    for name in asked:
        if name not in fields:
            hint = did_you_mean(name, fields) or f"There are {', '.join(fields)}."
            raise MqlError(f'Kafka has no "{name}" beside a message', hint=hint, code="invalid-source")
    return tuple(fields[name] for name in dict.fromkeys(asked))


def check_security(kafka: KafkaSettings) -> None:
    """The mistakes that can be seen before a broker is asked."""
    if not kafka.topics:
        raise MqlError("a Kafka source needs a topic", hint="Name one, or a list of them.", code="invalid-source")
    passwords = [one for one in (kafka.password, kafka.password_env, kafka.password_file) if one is not None]
    if kafka.security_protocol.startswith("SASL") and (kafka.username is None or len(passwords) != 1):
        raise MqlError(
            f'"{kafka.security_protocol}" needs a username and one password',
            hint="Give `username` and one of `password_env`, `password_file` and `password`.",
            code="invalid-source",
        )
    for file in (kafka.ca_file, kafka.cert_file, kafka.key_file, kafka.password_file):
        if file is not None and not Path(file).is_file():
            raise MqlError(f'there is no file "{file}"', hint="Check the path.", code="invalid-source")


def password_of(kafka: KafkaSettings) -> str | None:
    """Read for each connection, since a file or a variable may be changed while we run."""
    if kafka.password_file is not None:
        return Path(kafka.password_file).read_text().rstrip("\r\n")
    if kafka.password_env is not None:
        if kafka.password_env not in os.environ:
            raise KafkaAway(f"the password's environment variable {kafka.password_env} is not set")
        return os.environ[kafka.password_env]
    return kafka.password
