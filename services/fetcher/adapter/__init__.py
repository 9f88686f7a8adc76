"""What an adapter may use: builders of events, parsers of fields, readers of responses."""
