"""Stores rows: the ClickHouse client, the migrations, and the writers of the tables."""
