"""Generated from open.proto."""
