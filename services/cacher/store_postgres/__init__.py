"""Postgres writers: prices, bars, runs and symbol health."""
