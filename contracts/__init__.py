"""Messages and subjects of the bus."""
