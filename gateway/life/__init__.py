"""The gateway's own life: tasks, time, memory, descriptors, and what is wrong now."""
