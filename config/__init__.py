"""The example sites, installed as ``gateway.sites``."""
