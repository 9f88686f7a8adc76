"""Calls: one provider call, the validation of its answer, the publication of its events."""
