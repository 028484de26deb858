"""What a config says, read without changing it."""
