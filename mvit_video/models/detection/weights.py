"""Weights that fit a detector: which names are a detector's, and how tensors come into one."""

from collections.abc import Mapping

from torch import Tensor, nn

from mvit_video.models.mvit.network import MViT
from mvit_video.models.weights.conversion import STEM, LoadReport, Rules, fit_state_dict
from mvit_video.models.weights.files import WeightsFile, without_wrapper
from mvit_video.models.weights.formats import KNOWN_FORMATS, recognise, to_our_names

BODY = "backbone.bottom_up."
CASCADE = "roi_heads.box_head.0.fc1.weight"
PLAIN = "roi_heads.box_head.fc1.weight"
"""The first linear layer of the box heads: of the first of three, or of the only one."""
# What detectron2 may keep in a file and derives from its configuration.
_DERIVED = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.")
_COUNTER = "*.num_batches_tracked"
_OF_CLASSES = ("roi_heads.box_predictor.*", "roi_heads.mask_head.predictor.*")
_CLASSIFIER = ("norm.", "head.", "cls_token", "pos_embed")


def holds_detector(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a detector of detectron2 or of this project, wrapped or not."""
    return is_detector(without_wrapper(tensors, is_detector)[0])


def is_detector(names: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a detector, without anything before them."""
    return BODY + STEM in names and (CASCADE in names or PLAIN in names)


def load_into(detector: nn.Module, body: MViT, file: WeightsFile, rules: Rules) -> LoadReport:
    """Put a file's weights into a detector: those of a detector name by name, those of a classifier into its backbone.

    Args:
        detector: receives the weights in place.
        body: its MViT.
        rules: with new_head, predictors for another number of classes are left as initialised. A classifier's file
            needs no rule: heads, pyramid and norms of the stages are new, and the report names them.

    Raises:
        ValueError: names or shapes do not fit; the message lists them.
    """
    state, removed = without_wrapper(file.tensors, is_detector)
    if is_detector(state):
        report = _by_name(detector, state, rules)
    else:
        report = _into_backbone(detector, body, file.tensors, rules)
        removed = []
    report.averaged = file.averaged
    report.notes += file.notes + [f"the names without {''.join(removed)!r} in front"] * bool(removed)
    return report


def _by_name(detector: nn.Module, state: Mapping[str, Tensor], rules: Rules) -> LoadReport:
    derived = [name for name in state if name.startswith(_DERIVED)]
    kept = {name: tensor for name, tensor in state.items() if name not in derived}
    allow = [*rules.allow, _COUNTER, *(_OF_CLASSES if rules.new_head else ())]
    origin = {name: name for name in kept}
    fitted, report = fit_state_dict(detector, kept, origin=origin, rules=Rules(allow=allow))
    detector.load_state_dict(fitted)
    report.left_out += derived
    counters = [name for name in report.new if name.endswith(".num_batches_tracked")]
    if counters:
        report.new = [name for name in report.new if name not in counters]
        report.notes.append(f"{len(counters)} counters of batches (num_batches_tracked) begin at zero")
    report.format = "detectron2"
    return report


def _into_backbone(detector: nn.Module, body: MViT, tensors: Mapping[str, Tensor], rules: Rules) -> LoadReport:
    """An image classifier (or a bare backbone) into the backbone of a detector."""
    state, removed = without_wrapper(tensors, lambda names: recognise(names) is not None)
    written_by = recognise(state)
    if written_by is None:
        raise ValueError(
            f"the names are of no known format (they begin {', '.join(list(state)[:4])}); known are {KNOWN_FORMATS}."
        )
    norms = {name: tensor for name, tensor in state.items() if name.removeprefix(BODY).startswith("scale")}
    renamed = to_our_names({n: t for n, t in state.items() if n not in norms}, written_by)
    _check_widening(renamed.tensors)
    left_out = [renamed.origin[name] for name in renamed.tensors if name.startswith(_CLASSIFIER)]
    kept = {name: t for name, t in renamed.tensors.items() if not name.startswith(_CLASSIFIER)}
    kept |= {name.removeprefix(BODY): tensor for name, tensor in norms.items()}
    origin = {**renamed.origin, **{name.removeprefix(BODY): name for name in norms}}
    allow = [*rules.allow, *(f"{name}_norm.*" for name in body.feature_names())]
    fitted, report = fit_state_dict(body, kept, origin=origin, rules=Rules(allow=allow))
    body.load_state_dict(fitted)
    for names in (report.loaded, report.interpolated, report.new):
        names[:] = [BODY + name for name in names]
    report.converted = {theirs: BODY + ours for theirs, ours in report.converted.items()}
    report.new += [name for name in detector.state_dict() if not name.startswith(BODY)]
    report.left_out += [*left_out, *renamed.left_out]
    report.format = written_by
    report.notes += [f"the names without {''.join(removed)!r} in front"] * bool(removed)
    return report


def _check_widening(state: Mapping[str, Tensor]) -> None:
    """Raise ValueError for a classifier that widens in the MLP."""
    for name, tensor in state.items():
        if name.endswith(".attn.qkv.weight"):
            out = state.get(name.replace(".attn.qkv.", ".mlp.fc2."))
            if out is not None and out.shape[0] != tensor.shape[0] // 3:
                raise ValueError(
                    f"the file's model widens in the MLP ({name.split('.attn')[0]}), as the published ImageNet-1k file "
                    "of L does; detectors widen in the attention: take the ImageNet-21k file of L, or another size."
                )
