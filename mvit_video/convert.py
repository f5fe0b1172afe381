"""Convert published weights: `python -m mvit_video.convert IN OUT --to pyslowfast|torchvision|mvit_video`."""

import argparse
import ast
import os
import sys
from collections.abc import Sequence
from pathlib import Path

TARGETS = ("pyslowfast", "torchvision", "mvit_video")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, with `set` as a dict of fields of MViTConfig."""
    parser = argparse.ArgumentParser(
        prog="python -m mvit_video.convert",
        description="Convert the weights of an MViT. The input may be a file of PySlowFast, facebookresearch/mvit, "
        "torchvision, MMAction2, detectron2 or mvit_video; who wrote it is seen from its tensors.",
    )
    parser.add_argument("input", type=Path, help="file of weights (.pyth, .pth, .pt, .pkl, .safetensors)")
    parser.add_argument("output", type=Path, help="file to write; replaced if it exists")
    parser.add_argument("--to", choices=TARGETS, required=True, help="whose names and container to write")
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
    parser.add_argument("--no-ema", action="store_true", help="take the plain weights of a checkpoint of ours")
    parsed = parser.parse_args(arguments)
    parsed.set = dict(parsed.set)
    return parsed


def convert(arguments: argparse.Namespace) -> str:
    """Read, convert and write; what was done, in two lines.

    Raises:
        ValueError: the file is no MViT known here, or the target has no such model.
        CheckpointError: the file cannot be read.
        OSError: the output cannot be written.
    """
    import torch

    from mvit_video.models.weights import checkpoint_content, load_checkpoint_model

    model, report = load_checkpoint_model(
        arguments.input, allow=arguments.allow, use_ema=not arguments.no_ema, overrides=arguments.set
    )
    content = checkpoint_content(model, arguments.to)
    beside = arguments.output.with_name(f".{arguments.output.name}.{os.getpid()}.tmp")
    try:
        torch.save(content, beside)
        os.replace(beside, arguments.output)
    finally:
        beside.unlink(missing_ok=True)
    config = model.config
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"{arguments.input}: {report.format}, {report}\n"
        f"{arguments.output}: {arguments.to}, {len(model.state_dict())} tensors, {parameters:,} parameters, "
        f"{config.depth} blocks, {config.num_frames} x {config.crop_size} pixels, {config.num_classes} classes"
    )


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
