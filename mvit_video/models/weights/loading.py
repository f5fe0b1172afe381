"""Published weights into models: from a file or a state dict, into a given model or into the one that it describes."""

import dataclasses
import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import nn

from mvit_video.models.config import MViTConfig
from mvit_video.models.mvit.network import MViT
from mvit_video.models.mvit.presets import get_config
from mvit_video.models.weights.conversion import ImageToVideo, LoadReport, Rules, fit_state_dict, is_image_state
from mvit_video.models.weights.files import (
    WeightsFile,
    check_finite,
    check_plain,
    read_weights_file,
    weights_in,
    without_wrapper,
)
from mvit_video.models.weights.formats import (
    KNOWN_FORMATS,
    Renamed,
    SourceFormat,
    TargetFormat,
    adds_query_to_cls,
    pool_norm_eps,
    recognise,
    save_as,
    to_our_names,
)
from mvit_video.models.weights.infer import infer_config, stored_fields
from mvit_video.models.weights.zoo import resolve, zoo

logger = logging.getLogger(__name__)

Source = str | os.PathLike[str] | Mapping[str, Any] | WeightsFile
"""A file of weights (a string: a published name, a URL or a path; a path; or read), a state dict, or a dictionary with
one as training codes save it."""

_SIZES = ("num_frames", "crop_size")


@runtime_checkable
class TakesWeights(Protocol):
    """A model that knows itself how published weights come into it, as detectors do."""

    def take_weights(self, file: WeightsFile, rules: Rules) -> LoadReport:
        """Put the weights into the model.

        Raises:
            ValueError: names or shapes do not fit; the message lists them.
        """


def load_weights(
    model: nn.Module,
    source: Source,
    *,
    new_head: bool = False,
    allow: Sequence[str] = (),
    image_to_video: ImageToVideo | None = None,
    use_ema: bool = True,
    allow_nonfinite: bool = False,
) -> LoadReport:
    """Put published weights, or our own, into a model.

    Recognised by the names of the tensors: PySlowFast and facebookresearch/mvit (image models with or without a time
    axis in their pooling weights), torchvision, PyTorchVideo, timm, MMAction2, detectron2 backbones, and this
    project; also within a wrapper ("module.", "model.", "backbone." before the names) that leaves them unknown.
    Relative tables and position embeddings of another frame count or crop are interpolated (relative and temporal ones
    linearly, spatial ones bicubically, as PySlowFast does); everything else must fit, name by name, shape by shape.

    Args:
        model: receives the weights in place. Detectors take those of a detector, or of an image classifier for their
            backbone; other models besides MViT take a state dict of their own names.
        source: the name of published weights or a URL, fetched if need be (:func:`mvit_video.models.weights.resolve`);
            a file (see :func:`mvit_video.models.weights.files.read_weights_file`), a state dict, or a dictionary with
            one, as such a file holds it.
        new_head: keep the initialised class head where the file has none or one of another number of classes.
        allow: patterns (as in fnmatch) of names, the file's or the model's, that need not fit: in the file alone they
            are left out, in the model they stay as initialised.
        image_to_video: the rule for an image model's weights in a video model. "published": repeated over time as
            PySlowFast's CHECKPOINT_IN_INIT does. "corrected": repeated and divided by the frames of the kernel. What an
            image model lacks (rel_pos_t, class token) stays as initialised.
        use_ema: take the averaged weights where a file has both (ours, timm's, MMEngine's, MAE-style ones).
        allow_nonfinite: take weights that hold NaN or infinity.

    Returns:
        What was loaded, converted, interpolated, inflated, left out and left as initialised; and which weights.

    Raises:
        ValueError: names or shapes do not fit, nobody known wrote them, or they hold NaN or infinity; the message lists
            them. Or there are no published weights of that name, or the model lies on the meta device.
        CheckpointError: the file cannot be fetched or read, or names a function that runs code.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(
            f"the {type(model).__name__} lies on the meta device, which holds no values: call "
            "model.to_empty(device='cpu') before, and model.init_weights() where a part stays as initialised."
        )
    rules = Rules(new_head=new_head, allow=allow, image_to_video=image_to_video)
    file = read_source(source, use_ema=use_ema, allow_nonfinite=allow_nonfinite)
    if isinstance(model, TakesWeights):
        return model.take_weights(file, rules)
    written_by, renamed = _under_our_names(file, model)
    return _load(model, file, renamed, written_by, rules)


def create_model(name: str, *, pretrained: str | os.PathLike[str] | None = None, **overrides: object) -> MViT:
    """A model of a published size, freshly initialised or with published weights.

    Args:
        name: see :func:`list_models`.
        pretrained: weights to start from: a published name such as "k400_mvitv2_s", a URL or a path. With num_classes
            among the overrides the class head may be another one and stays as initialised. An image model's weights
            become a video model's by :func:`load_weights` with image_to_video, not here.
        **overrides: fields of MViTConfig.

    Raises:
        ValueError: no such model, no such field, an impossible value, or weights of another model.
        CheckpointError: the weights cannot be fetched or read.
    """
    config = get_config(name, **overrides)
    if isinstance(pretrained, bool):
        fitting = [entry.name for entry in zoo().values() if entry.model == name]
        raise ValueError(
            f"pretrained={pretrained}: name the weights, or leave it out for none. Published for {name} are: "
            f"{', '.join(fitting) or 'none'}"
        )
    model = MViT(config)
    if pretrained is not None:
        report = load_weights(model, pretrained, new_head="num_classes" in overrides)
        logger.info("%s with weights from %s: %s", name, pretrained, report)
    return model


def from_checkpoint(
    source: Source,
    *,
    allow: Sequence[str] = (),
    use_ema: bool = True,
    allow_nonfinite: bool = False,
    **overrides: object,
) -> MViT:
    """The model that a file or a state dict describes, with its weights.

    Read off the tensors: depth, widths, heads, stages and where they widen, pooling kernel, class token, positions,
    frames, crop, classes, image or video. What tensors cannot tell comes from `overrides`, else from the configuration
    stored in the file (PySlowFast's and ours), else it is taken to be as published:

    - patch_stride is half the patch kernel, rounded up; frames and crop are the grid of the tables times that stride
      (a crop of 312 and one of 315 have the same tables).
    - kv_stride is the power of two that explains the lengths of relative tables, else (1, 8, 8), for images (1, 4, 4).
    - residual_pooling goes with relative positions.
    - head_pooling is "cls" with a class token, "norm_mean" without, and "mean_norm" in PySlowFast's models with a class
      token, relative positions and expansion in the MLP (the MaskFeat fine-tunes).
    - a joint position embedding of a video model needs num_frames.
    - pool_norm_eps is 1e-5 in PyTorchVideo's names, else 1e-6.
    - residual_with_cls is True in timm's names with a class token, else False.
    - rates of dropout are those of the preset that is this model, else MViTConfig's.

    A detectron2 backbone becomes the image model without head (num_classes=0), without window attention.

    Args:
        source, allow, use_ema, allow_nonfinite: as in :func:`load_weights`.
        **overrides: fields of MViTConfig. Another num_classes gives a new head, another num_frames or crop_size
            interpolates.

    Raises:
        ValueError: nobody known wrote it, the tensors are no complete MViT or hold NaN or infinity, no such field, or
            no published weights of that name.
        CheckpointError: the file cannot be fetched or read, or names a function that runs code.
    """
    return load_checkpoint_model(
        source, allow=allow, use_ema=use_ema, allow_nonfinite=allow_nonfinite, overrides=overrides
    )[0]


def load_checkpoint_model(
    source: Source,
    *,
    allow: Sequence[str] = (),
    use_ema: bool = True,
    allow_nonfinite: bool = False,
    overrides: Mapping[str, object],
) -> tuple[MViT, LoadReport]:
    """:func:`from_checkpoint` with its report."""
    file = read_source(source, use_ema=use_ema, allow_nonfinite=allow_nonfinite)
    written_by, renamed = _under_our_names(file, None)
    assert written_by is not None  # without a model, unknown names are refused
    if "num_classes" not in overrides:
        _check_head(renamed, Rules(allow=allow))
    config = infer_config(
        renamed.tensors,
        stored={
            "pool_norm_eps": pool_norm_eps(written_by),
            "residual_with_cls": adds_query_to_cls(written_by),
            **stored_fields(file.config),
        },
        overrides=overrides,
        mean_of_tokens=written_by == "pyslowfast",
    )
    model = MViT(config)
    report = _load(model, file, renamed, written_by, Rules(new_head="num_classes" in overrides, allow=allow))
    if report.interpolated and not any(name in overrides for name in _SIZES):
        raise ValueError(
            f"the tables of the file do not have the sizes of {_described(config)} ({report.interpolated[0]}, ...): "
            "pass the kv_stride, patch_stride, num_frames or crop_size it was trained with."
        )
    return model, report


def _check_head(renamed: Renamed, rules: Rules) -> None:
    """Raise ValueError for a class head of another structure: it would be left out, and the model have no classes."""
    heads = [name for name in renamed.tensors if name.startswith("head.")]
    unknown = [name for name in heads if not rules.allows(name, renamed.origin[name])]
    if unknown and "head.projection.weight" not in renamed.tensors:
        raise ValueError(
            f"the file's class head is none that is known ({', '.join(renamed.origin[name] for name in unknown[:4])}): "
            "one linear layer is; num_classes=0 takes the model without it (--set num_classes=0 in convert), another "
            "num_classes begins with a new head"
        )


def holds_image_model(file: WeightsFile) -> bool:
    """Whether the weights are those of an image MViT, whoever wrote them; False where nobody known did."""
    state, _ = without_wrapper(file.tensors, lambda names: recognise(names) is not None)
    written_by = recognise(state)
    return written_by is not None and is_image_state(to_our_names(state, written_by).tensors)


def checkpoint_content(model: MViT, format: TargetFormat) -> dict[str, object]:
    """What a file in that format holds, for torch.save: a container, for torchvision and timm the bare state dict.

    Raises:
        ValueError: as :func:`save_as`.
    """
    state = save_as(model, format)
    if format in ("pyslowfast", "pytorchvideo"):
        return {"model_state": state}
    if format in ("torchvision", "timm"):
        return dict(state)
    fields = {"_target_": "mvit_video.models.MViTConfig", **dataclasses.asdict(model.config)}
    return {"model": state, "config": json.dumps({"model": fields})}


def read_source(source: Source, *, use_ema: bool, allow_nonfinite: bool) -> WeightsFile:
    """What a file, a state dict or a dictionary with one holds.

    Raises:
        ValueError: there are no weights, or they hold NaN or infinity, or are sparse or quantised.
        CheckpointError: the file cannot be read.
    """
    if isinstance(source, WeightsFile):
        file = source
    elif isinstance(source, Mapping):
        file = weights_in(source, use_ema=use_ema)
    else:
        file = read_weights_file(resolve(source).path, use_ema=use_ema)
    check_plain(file.tensors)
    try:
        check_finite(file.tensors)
    except ValueError as error:
        if not allow_nonfinite:
            raise
        file.notes.append(str(error).partition(". ")[0])
    return file


def _under_our_names(file: WeightsFile, model: nn.Module | None) -> tuple[SourceFormat | None, Renamed]:
    """Who wrote the state dict, and its tensors under our names; as they are for models besides MViT."""
    if model is not None and not isinstance(model, MViT):
        own = model.state_dict().keys()
        state, removed = without_wrapper(file.tensors, lambda names: not own.isdisjoint(names))
        written_by: SourceFormat | None = None
    else:
        state, removed = without_wrapper(file.tensors, lambda names: recognise(names) is not None)
        written_by = recognise(state)
        if written_by is None:
            shown = ", ".join(list(state)[:4])
            raise ValueError(f"the names are of no known format (they begin {shown}); known are {KNOWN_FORMATS}.")
    if removed:
        file.notes.append(f"the names without {''.join(removed)!r} in front")
    return written_by, to_our_names(state, written_by or "pyslowfast")


def _load(
    model: nn.Module, file: WeightsFile, renamed: Renamed, written_by: SourceFormat | None, rules: Rules
) -> LoadReport:
    fitted, report = fit_state_dict(model, renamed.tensors, origin=renamed.origin, rules=rules)
    model.load_state_dict(fitted)
    report.format, report.averaged = written_by, file.averaged
    report.left_out += renamed.left_out
    report.notes += file.notes
    if (
        isinstance(model, MViT)
        and written_by == "pytorchvideo"
        and model.config.pool_norm_eps != pool_norm_eps(written_by)
    ):
        report.notes.append(
            f"the file's model divides pooled tokens with eps {pool_norm_eps(written_by):g}, this one with "
            f"{model.config.pool_norm_eps:g}: logits differ slightly; build it with "
            f"pool_norm_eps={pool_norm_eps(written_by):g} for the same"
        )
    configured = file.config is not None and file.config.kind == "mvit_video"
    if isinstance(model, MViT) and written_by is not None and "cls_token" in renamed.tensors and not configured:
        report.notes += _residual_note(model.config, written_by)
    return report


def _residual_note(config: MViTConfig, written_by: SourceFormat) -> list[str]:
    """What to know where residual pooling treats the class token otherwise than the file's program does."""
    theirs = adds_query_to_cls(written_by)
    if not (config.cls_token and config.residual_pooling) or config.residual_with_cls == theirs:
        return []
    does, does_not = ("adds", "does not") if theirs else ("does not add", "does")
    return [
        f"{written_by} {does} the class token's query in residual pooling, this model {does_not}: logits differ; build "
        f"it with residual_with_cls={theirs} for the same"
    ]


def _described(config: MViTConfig) -> str:
    return f"a {config.num_frames} x {config.crop_size} model with kv_stride={config.kv_stride}"
