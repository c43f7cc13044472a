"""Evaluation: the loss of a model on held-out rows, source by source.

``evaluate_model`` starts a job of one process, follows it, and commits the losses; ``__main__`` is what that process
runs, and only it and ``scoring`` import torch.
"""

from cpt_core.evaluation.stage import evaluate_model, num_rows_scored

__all__ = ["evaluate_model", "num_rows_scored"]
