"""What a person holds: the command line, the client, the embedded servers."""
