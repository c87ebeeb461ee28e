"""Stores rows: the connection to ClickHouse, migrations, and the tables' writers."""
