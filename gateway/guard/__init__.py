"""The gateway's side of the guard: its life, its program, its shared file, its mailbox."""
