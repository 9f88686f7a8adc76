"""Jobs: their store, and the refresh request of a run."""
