"""Generated from chmod.proto."""
