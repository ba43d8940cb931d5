"""Load tools of the system tests."""
