"""HTTP for the adapters: a metered client behind an egress policy."""
