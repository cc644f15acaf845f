"""Shared by all tests: pytester, which runs pytest on small suites, and fixtures of nodes with real browsers."""

pytest_plugins = ["pytester", "bench_fixtures"]
