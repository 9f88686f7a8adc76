"""Derived data: implied volatility and longer bars, from Postgres, at no call."""
