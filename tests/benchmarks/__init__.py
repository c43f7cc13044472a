"""Measures this project beside its peers on the machine at hand.

``python -m tests.benchmarks`` runs every subject and writes docs/benchmarks.{json,md,svg}; ``--quick`` takes smaller
corpora and fewer repeats and writes to build/bench; with names of subjects only those are run, also to build/bench.

``materials`` fetches corpora, tokenizer and peers by their package names; a subject names its contenders; ``measure``
runs each of them in a process of its own; ``report`` writes what came out.
"""
