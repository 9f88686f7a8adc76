"""One file a vendor, found by folder; each has its `VENDOR`."""
