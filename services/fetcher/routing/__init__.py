"""Routing: which provider serves a symbol, and which symbols it is known to lack."""
