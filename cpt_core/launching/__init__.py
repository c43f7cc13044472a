"""Launching: a job of several processes, started, watched and judged the same way wherever it runs.

``launchers.launch(job)`` gives a handle with ``poll`` and ``stop``; ``waiting.wait_for_job`` follows it to its
``DONE.json`` or to the rank that died first. Training and evaluation use this room; it knows no torch.
"""
