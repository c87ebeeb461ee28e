"""Generated from sample.proto."""
