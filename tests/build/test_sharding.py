"""What sharded ranks exchange is what the model can be computed with."""

import pytest
import torch
from torch import nn

from mvit_video.build import common
from mvit_video.build.batch_size import training_state
from mvit_video.config import Train
from mvit_video.distributed.process_group import World
from mvit_video.models.mvit.activation_checkpointing import block_model
from tests.conftest import options
from tests.models.detection.helpers import tiny_detector

GPUS = World(rank=0, size=2, device=torch.device("cuda", 0))


@pytest.fixture(scope="module")
def config() -> Train:
    return options("+experiment=motion_mvitv2", "trainer.precision=bf16", "trainer.strategy=fsdp")


class Recorded:
    """In the place of a Sharding, which needs GPUs: with what it was made."""

    def __init__(self, world: World, *, bf16: bool, timeout_s: float) -> None:
        self.bf16 = bf16

    def apply(self, model: nn.Module, *, compile: bool = False) -> None:
        pass


def test_a_detector_is_gathered_in_float32_and_a_classifier_in_bf16(
    config: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Detection runs without autocast, so bf16 weights would meet float32 images there."""
    monkeypatch.setattr(common, "Sharding", Recorded)
    for model, bf16 in ((common.build_model(config), True), (tiny_detector(), False)):
        sharding = common.build_sharding(config, model, None, GPUS)
        assert isinstance(sharding, Recorded) and sharding.bf16 is bf16
        measured = block_model(model)
        assert measured is not None
        # Plans count the bytes that are sent.
        assert training_state(config, measured, accumulate=1, bf16=True).gathers_bf16 is bf16
        assert training_state(config, measured, accumulate=1, bf16=False).gathers_bf16 is False
