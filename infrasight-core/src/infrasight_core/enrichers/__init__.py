"""The core's own plugins: they use the same hook as a third party's."""
