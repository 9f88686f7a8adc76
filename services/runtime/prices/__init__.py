"""Prices as services store and read them: columns, documents, and the readers of PostgreSQL and Redis."""
