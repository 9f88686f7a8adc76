"""One file a provider, found by being here."""
