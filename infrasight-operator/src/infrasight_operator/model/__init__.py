"""The custom resources as frozen values, and the rules that combine them. Pure: no I/O."""
