"""Remembers: writes price events to Postgres, then to Redis, and closes runs."""
