"""InfraSight's server: receives batches over gRPC, stores them in ClickHouse, answers queries."""

__version__ = "0.1.0"
