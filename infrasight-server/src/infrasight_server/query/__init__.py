"""Serves readers: SQL queries and live events."""
