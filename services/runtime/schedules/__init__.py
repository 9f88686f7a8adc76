"""Schedules: pure computation of the slots of a job."""
