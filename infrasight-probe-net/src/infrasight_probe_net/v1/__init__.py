"""Generated from accept.proto and connect.proto."""
