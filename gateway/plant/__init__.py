"""The devices that the gateway polls, and what their readings become: tags."""
