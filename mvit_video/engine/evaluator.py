"""Scores every sample of a split once, on any number of ranks."""

import logging
from collections.abc import Callable

import torch
from torch import nn

from mvit_video.distributed.process_group import World, gather_to_main
from mvit_video.engine.precision import autocast
from mvit_video.engine.task import Evaluation, Scorer, Task

logger = logging.getLogger(__name__)


@torch.inference_mode()
def score(
    model: nn.Module,
    evaluation: Evaluation,
    *,
    task: Task,
    world: World,
    bf16: bool,
    on_progress: Callable[[int], None],
) -> Scorer | None:
    """What the model makes of a split, gathered on rank 0; None on the other ranks.

    Args:
        model: on the world's device; put into eval mode.
        evaluation: the split and its samples.
        task: makes the model's inputs of a batch.
        world: this process among the others.
        bf16: compute in bf16 autocast.
        on_progress: called with the number of samples done after each batch.
    """
    model.eval()
    scorer = evaluation.scorer()
    failures: list[tuple[str, str]] = []
    for batch in evaluation.batches(world):
        failures += batch.failures
        on_device = batch.to(world.device)
        inputs = task.eval_inputs(on_device)
        with autocast(bf16, world.device):
            outputs = model(*inputs)
        scorer.add(on_device, outputs)
        on_progress(len(batch))
    for path, reason in failures:
        logger.warning("unreadable %s, counted as failed: %s: %s", task.item, path, reason)
    gathered = gather_to_main(scorer.state(), world)
    if not gathered:
        return None
    for state in gathered[1:]:
        scorer.merge(state)
    return scorer
