"""Shared by all tests: pytester, which runs pytest on small suites."""

pytest_plugins = ["pytester"]
