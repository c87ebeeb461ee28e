"""The wire: the only part of the core that knows gRPC."""
