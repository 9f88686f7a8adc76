"""Scheduler: the clock that publishes a refresh request for every slot that falls due."""

SERVICE = "scheduler"
