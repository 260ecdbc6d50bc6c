"""Connections to upstream platforms."""
