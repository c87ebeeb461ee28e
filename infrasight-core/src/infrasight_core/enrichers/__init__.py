"""The core's own enrichers; they use the same hooks as third-party plugins."""
