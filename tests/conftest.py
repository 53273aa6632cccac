"""What all tests share: the Kafka broker, and how thorough random tests are."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

pytest_plugins = ["support.kafka_fixture"]

settings.register_profile("mql", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mql")
