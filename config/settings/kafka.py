"""Where usage may be read from Kafka; without brokers nothing asks for it."""

import os

KAFKA_BOOTSTRAP_SERVERS = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "")
KAFKA_TOPICS = tuple(os.environ.get("KAFKA_TOPICS", "").replace(",", " ").split())
KAFKA_GROUP = os.environ.get("KAFKA_GROUP") or "countinghouse"
# librdkafka's own settings, for TLS and passwords: a file, so that no secret is in the environment of other programs.
KAFKA_CONFIG_FILE = os.environ.get("KAFKA_CONFIG_FILE", "")
