"""Where each test runs: pure. Events in, commands out; no clock, no I/O, no pytest, no xdist."""
