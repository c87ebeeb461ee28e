"""The kernel side of the core: programs are loaded here, and their blocks drained."""
