"""InfraSight's server: batches come in over gRPC, rows go into ClickHouse, questions are answered."""

__version__ = "0.1.0"
