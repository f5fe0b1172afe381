"""The loop of every task: training, evaluation, previews, checkpoints, and the record of a run."""
