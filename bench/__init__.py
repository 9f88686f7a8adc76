"""The measurements of docs/performance.md: `python -m bench` runs all of them, each as a ratio of two figures of one run."""
