"""Shows: jobs, runs, prices and a live stream over HTTP."""
