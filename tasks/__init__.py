"""Thin Prefect tasks: each calls one stage of ``cpt_core`` and says what happened. No logic of a stage lives here.

Tasks have no tags, runs have: Prefect asks the server for a slot for each tag of a task, over a connection that gives
up at once, so that a server that is restarted at that moment would fail the run.
"""
