"""What people may do: every command, what it needs, and what became of it."""
