"""Circuits: the one owner of what is known about whether a provider may be called."""
