"""Real clusters on one machine, for ``make test-cluster``: hosts that are network namespaces, and a Slurm."""
