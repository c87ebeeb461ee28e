"""What tests of several packages need: real servers that they start, and stop."""
