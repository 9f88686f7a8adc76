"""What crosses the bus: messages and subjects."""
