"""What the tests use: things that break links, outside observers, servers that are not ours."""
