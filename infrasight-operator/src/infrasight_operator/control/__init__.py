"""The gRPC service for agents: sends configurations, receives reports."""
