"""The gRPC service that agents connect to."""
