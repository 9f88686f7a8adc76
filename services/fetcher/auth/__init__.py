"""Access tokens of providers at which a person logs in: renewal, storage, monitoring."""
