"""Checkpoints: written beside and renamed, verified when loaded, newest complete one first.

A folder of checkpoints holds, for each kept step, `step_00001234.pt` (or the folder `step_00001234.shards` of a sharded
run) and its manifest, and `best.pt` with `best.json`. See state.py for what they hold, files.py for how they stay
complete, single.py and shards.py for the two forms, loading.py for which one is taken, writer.py for writing while
training goes on.
"""

from mvit_video.engine.checkpoints.loading import (
    find_checkpoint,
    latest_checkpoint,
    load_checkpoint,
    load_latest,
    whole_weights_in,
)
from mvit_video.engine.checkpoints.shards import WHOLE, is_folder_of_shards, save_shards, whole_weights
from mvit_video.engine.checkpoints.single import save_checkpoint
from mvit_video.engine.checkpoints.writer import CheckpointWriter, Snapshot
from mvit_video.models.weights.files import CheckpointError

__all__ = [
    "WHOLE",
    "CheckpointError",
    "CheckpointWriter",
    "Snapshot",
    "find_checkpoint",
    "is_folder_of_shards",
    "latest_checkpoint",
    "load_checkpoint",
    "load_latest",
    "save_checkpoint",
    "save_shards",
    "whole_weights",
    "whole_weights_in",
]
