"""The custom resources as values, and the rules that combine them; pure."""
