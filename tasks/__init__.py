"""Thin Prefect tasks: each calls one stage of ``cpt_core`` and says what happened. No logic of a stage lives here."""
