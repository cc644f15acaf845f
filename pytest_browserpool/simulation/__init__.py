"""The placement engine and xdist's own schedulers on a virtual clock: same workloads, same truth."""
