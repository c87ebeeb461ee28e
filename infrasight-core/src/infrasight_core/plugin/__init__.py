"""What a plugin touches: the hooks, the manager that calls them, schemas, columns and programs."""
