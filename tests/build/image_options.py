"""Options of short runs on images."""

from collections.abc import Sequence
from pathlib import Path

# ImageNet's recipe and augmentation, on the smallest model and few pixels.
SHORT = (
    "+experiment=in1k_mvitv2_t",
    "data.crop_size=32",
    "schedule.epochs=2",
    "schedule.warmup_epochs=1",
    "trainer.batch_size=6",
    "trainer.global_batch=null",
    "trainer.num_workers=0",
    "trainer.threads=1",
    "trainer.precision=fp32",
    "trainer.device=cpu",
    "trainer.log_every=1",
    "trainer.eval_every=1",
    "name=tiny",
)


def small_images(folder: Path, output: Path, *more: str) -> Sequence[str]:
    """Overrides for runs on a miniature ImageNet of three classes in `folder`."""
    source = (f"data.source.folder={folder}", "data.num_classes=3")
    return [*SHORT, "model=mvitv2_shapes", *source, f"output_dir={output}", *more]
