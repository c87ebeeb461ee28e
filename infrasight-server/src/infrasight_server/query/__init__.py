"""Answers readers: SQL queries and live events."""
