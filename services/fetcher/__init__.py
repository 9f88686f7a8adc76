"""Answers: plans requests into tasks, spends permits, calls providers, publishes price events."""
