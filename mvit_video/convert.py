"""Convert weights: `python -m mvit_video.convert IN OUT --to pyslowfast|torchvision|pytorchvideo|timm|mvit_video`.

IN may also be the name of published weights, a URL, or the directory of a run, of which the best checkpoint is taken,
or the newest where there was no validation. OUT with the ending .safetensors holds weights alone, with the model's
configuration and the names of the classes as text beside them.
"""

import argparse
import ast
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mvit_video.models import MViT
    from mvit_video.models.weights.files import WeightsFile
    from mvit_video.models.weights.formats import TargetFormat

SAFETENSORS = ".safetensors"
TARGETS = ("pyslowfast", "torchvision", "pytorchvideo", "timm", "mvit_video")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, with `set` as a dict of fields of MViTConfig."""
    parser = argparse.ArgumentParser(
        prog="python -m mvit_video.convert",
        description="Convert the weights of an MViT. The input may be a file of PySlowFast, facebookresearch/mvit, "
        "torchvision, PyTorchVideo, timm, MMAction2, detectron2 or mvit_video; who wrote it is seen from its tensors.",
    )
    parser.add_argument(
        "input",
        help="file of weights (.pyth, .pth, .pt, .pkl, .safetensors), sharded checkpoint (.shards), folder of a run, "
        "name of published weights, or URL",
    )
    parser.add_argument("output", type=Path, help="file to write; replaced if it exists")
    parser.add_argument(
        "--to",
        choices=TARGETS,
        help="whose names and container to write; for .safetensors, which is one container for all, mvit_video is the "
        "default",
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PATTERN",
        help="names in the file that may be left out, such as 'pred_head.*' (may be repeated)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_field,
        metavar="FIELD=VALUE",
        help="what the tensors do not tell, or another input size to interpolate to, such as num_frames=32, "
        "crop_size=312 or head_pooling=mean_norm (may be repeated)",
    )
    parser.add_argument(
        "--no-ema", action="store_true", help="take the plain weights where averaged ones are beside them"
    )
    parser.add_argument("--allow-nonfinite", action="store_true", help="take weights that hold NaN or infinity")
    parsed = parser.parse_args(arguments)
    parsed.set = dict(parsed.set)
    if parsed.to is None:
        if parsed.output.suffix != SAFETENSORS:
            parser.error(f"the following arguments are required: --to {{{','.join(TARGETS)}}}")
        parsed.to = "mvit_video"
    return parsed


def convert(arguments: argparse.Namespace) -> str:
    """Read, convert and write; what was done, in two lines.

    Raises:
        ValueError: the file is no MViT known here, or the target has no such model.
        CheckpointError: the file cannot be read.
        OSError: the output cannot be written.
    """
    from mvit_video.engine.checkpoints import find_checkpoint
    from mvit_video.engine.checkpoints.files import temporary
    from mvit_video.models.weights.files import read_weights_file
    from mvit_video.models.weights.loading import load_checkpoint_model
    from mvit_video.models.weights.zoo import resolve

    asked = resolve(arguments.input).path
    checkpoint = find_checkpoint(asked)
    with _readable(checkpoint, arguments.output) as path:
        file = read_weights_file(path, use_ema=not arguments.no_ema)
        model, report = load_checkpoint_model(
            file, allow=arguments.allow, allow_nonfinite=arguments.allow_nonfinite, overrides=arguments.set
        )
    beside = temporary(arguments.output)
    try:
        if arguments.output.suffix == SAFETENSORS:
            _write_safetensors(model, arguments.to, beside, about=_about(file))
        else:
            _write_torch(model, arguments.to, beside, training=file.training)
        os.replace(beside, arguments.output)
    finally:
        beside.unlink(missing_ok=True)
    config = model.config
    parameters = sum(parameter.numel() for parameter in model.parameters())
    names = file.training.get("class_names")
    kept = arguments.output.suffix == SAFETENSORS or arguments.to == "mvit_video"
    lost = "" if kept or not names else "; the names of the classes are left out: this container has no place for them"
    # The names of the tensors are PySlowFast's in files of this project, too.
    written_by = "mvit_video" if file.config is not None and file.config.kind == "mvit_video" else report.format
    return (
        f"{checkpoint}{_which(asked, checkpoint)}: {written_by}, {report}\n"
        f"{arguments.output}: {arguments.to}, {len(model.state_dict())} tensors, {parameters:,} parameters, "
        f"{config.depth} blocks, {config.num_frames} x {config.crop_size} pixels, {config.num_classes} classes{lost}"
    )


def _which(asked: Path, found: Path) -> str:
    """Which checkpoint of a run it is, in words for people; empty for a file that was named."""
    if asked == found:
        return ""
    return " (the best of the run)" if found.name == "best.pt" else " (the newest of the run, which has no validation)"


@contextmanager
def _readable(checkpoint: Path, output: Path) -> Iterator[Path]:
    """A verified file with the content of `checkpoint`: itself, or a temporary one beside `output` for shards."""
    from mvit_video.engine.checkpoints import is_folder_of_shards, load_checkpoint
    from mvit_video.engine.checkpoints.files import verify, write_torch

    if not is_folder_of_shards(checkpoint):
        if checkpoint.is_file() and checkpoint.suffix == ".pt":
            verify(checkpoint)
        yield checkpoint
        return
    state = load_checkpoint(checkpoint)
    gathered = output.with_name(f".{output.name}.{os.getpid()}.gathered.pt")
    try:
        write_torch(gathered, {key: value for key, value in state.items() if key != "optimizer"})
        yield gathered
    finally:
        gathered.unlink(missing_ok=True)


def _about(file: "WeightsFile") -> dict[str, str]:
    """What a training checkpoint says about its weights, as text; nothing for other files."""
    if "step" not in file.training:
        return {}
    about = {"step": str(file.training["step"]), "averaged": json.dumps(file.averaged)}
    if file.training.get("class_names"):
        about["class_names"] = json.dumps(file.training["class_names"], ensure_ascii=False)
    return about


def _write_torch(
    model: "MViT", target: "TargetFormat", path: Path, *, training: Mapping[str, object] | None = None
) -> None:
    from mvit_video.engine.checkpoints.files import write_torch
    from mvit_video.models.weights.loading import checkpoint_content

    content = checkpoint_content(model, target)
    if target == "mvit_video" and training:
        content |= {key: training[key] for key in ("step", "class_names") if key in training}
    write_torch(path, content)


def _write_safetensors(model: "MViT", target: "TargetFormat", path: Path, *, about: dict[str, str]) -> None:
    from safetensors.torch import save_file

    from mvit_video.models import save_as
    from mvit_video.models.weights.loading import checkpoint_content

    tensors = {name: tensor.contiguous() for name, tensor in save_as(model, target).items()}
    own = checkpoint_content(model, "mvit_video")
    with open(path, "wb") as file:
        mode = os.fstat(file.fileno()).st_mode
    save_file(tensors, path, metadata={"format": "pt", "config": str(own["config"]), "names": target, **about})
    os.chmod(path, mode)  # save_file makes files that nobody else may read
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _field(text: str) -> tuple[str, object]:
    name, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"{text!r} must be FIELD=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a bare word is itself
        return name, value


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command; an error is one line, and exit status 1."""
    parsed = parse_arguments(arguments)
    try:
        print(convert(parsed))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
