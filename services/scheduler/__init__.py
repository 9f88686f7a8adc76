"""Asks: publishes a refresh request for every slot that falls due."""
