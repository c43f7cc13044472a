"""Training: packed rows and a base model become a further-trained model.

``train_model`` starts a job of its own, follows it, and commits its record; ``__main__`` is what the job's processes
run. Importing this room imports no torch; only ``__main__`` and what stands below it here does::

    stage -> plan, continuing, job_file, launching
    __main__ -> device, worker -> model, recomputation, losses, attention, probe, engine
                               -> loop -> order, schedule, flops, metrics
                               -> profiling
                               -> checkpoint, resuming -> partitions, slice_files, sealing
                               -> export -> slice_files, sealing, model_files
"""

from cpt_core.training.plan import StepPlan, plan_steps, training_key_parts
from cpt_core.training.stage import find_trained, train_model, training_folder

__all__ = ["StepPlan", "find_trained", "plan_steps", "train_model", "training_folder", "training_key_parts"]
