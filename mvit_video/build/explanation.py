"""What explains a prediction: its clips again, each with the map of where and when it speaks for a class."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from mvit_video.build.samples import build_normalization
from mvit_video.config import Predict
from mvit_video.config.nearest import did_you_mean
from mvit_video.data.loading.collation import collate
from mvit_video.data.loading.dataset import EvalDataset
from mvit_video.data.loading.samples import EvalSamples
from mvit_video.data.loading.window_dataset import WindowDataset
from mvit_video.engine.contact_sheet import denormalize_clips
from mvit_video.models.mvit.attribution import class_maps
from mvit_video.models.mvit.network import MViT
from mvit_video.prediction.explanation import ExplainedClip
from mvit_video.prediction.results import FilePrediction
from mvit_video.prediction.scoring import NamesClasses, check_is_mvit
from mvit_video.video.index import VideoDecodeError


def check_explainable(model: nn.Module) -> None:
    """Refuse a model that has no tokens to look at.

    Raises:
        ValueError: it is no MViT.
    """
    check_is_mvit(model, "explain=true shows what the tokens")


def explained_names(found: FilePrediction, name: str | None, class_names: Sequence[str]) -> list[str]:
    """The class that each moment of a file is explained for: the one given, or the best one.

    Raises:
        ValueError: there is no such class, or nothing was predicted.
    """
    if found.error is not None:
        raise ValueError(f"{found.path}: could not be read, so that there is nothing to explain: {found.error}")
    if name is not None and name not in class_names:
        raise ValueError(f"{name!r}: the model has no such class; {did_you_mean(name, class_names, kind='classes')}")
    best = [found.predictions] if found.windows is None else [window.predictions for window in found.windows]
    return [name or classes[0].name for classes in best]


def explained_clips(
    config: Predict,
    model: nn.Module,
    class_names: Sequence[str],
    *,
    dataset: EvalSamples,
    task: NamesClasses,
    device: torch.device,
    names: Sequence[str],
) -> Iterator[ExplainedClip]:
    """The clips of a file one by one, as the model sees them; of several crops of a moment the middle one.

    Args:
        config: the options.
        model: an MViT in eval mode.
        class_names: of its outputs.
        dataset: of the views or windows of this one file.
        task: makes the model's input of them, and probabilities of its outputs.
        device: of the model.
        names: the class of each window, or one for the whole file.

    Raises:
        DecodeError: the file cannot be read any more.
    """
    assert isinstance(model, MViT)
    normalization = build_normalization(config.data)
    for moment, (inputs, seconds) in enumerate(_moments(dataset, task, device)):
        wanted = names[min(moment, len(names) - 1)]
        place = class_names.index(wanted)
        maps, logits = class_maps(model, inputs, torch.tensor([place], device=device))
        pictures = denormalize_clips(
            inputs if inputs.dim() == 5 else inputs[:, :, None],
            mean=normalization.mean,
            std=normalization.std,
            channel_order=normalization.channel_order,
        )
        yield ExplainedClip(
            name=wanted,
            score=float(task.probabilities(logits)[0, place]),
            pictures=pictures[0],
            maps=maps[0].cpu().numpy(),
            seconds=seconds,
        )


def _moments(
    dataset: EvalSamples, task: NamesClasses, device: torch.device
) -> Iterator[tuple[torch.Tensor, tuple[float, ...]]]:
    """The model's input for each moment of the only file, and when its pictures are shown; () for an image."""
    for key in range(dataset.groups_of(0) if isinstance(dataset, WindowDataset) else 1):
        sample = dataset[key]
        if sample.failed:
            raise VideoDecodeError(*sample.failures[0])
        (inputs,) = task.eval_inputs(collate([sample]).to(device))
        times = _seconds(dataset, key) if isinstance(dataset, EvalDataset) else [()]
        crops = len(inputs) // len(times)
        for row, seconds in enumerate(times):
            middle = row * crops + crops // 2
            yield inputs[middle : middle + 1], seconds


def _seconds(dataset: EvalDataset, key: int) -> list[tuple[float, ...]]:
    """When the pictures of each clip of a key are shown, from the first picture of the video."""
    with dataset.decoding.open(dataset.manifest, key % len(dataset)) as video:
        clips, fps, times = dataset.frame_numbers(key, video), video.info.fps, video.times
    if times is None:
        return [tuple(frame / fps for frame in clip) for clip in clips]
    shown = (times.stamps - times.stamps[0]) * float(times.unit)
    return [tuple(shown[clip].tolist()) for clip in clips]
