"""Export a model to one file: `python -m mvit_video.export RUN_OR_WEIGHTS OUT --to safetensors|torch_export|onnx`.

The file holds all that a clip or image must become before it means something, and the names of the classes; `predict`,
`evaluate` and `Predictor` take it as their weights. It is compared with the model before it gets its name.
"""

import argparse
import ast
import sys
from collections.abc import Sequence
from pathlib import Path

# As in exporting/about.py; written out, so that --help needs no PyTorch.
TARGETS = ("safetensors", "torch_export", "onnx")
DTYPES = ("fp32", "bf16", "fp16", "int8")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, with `set` as a dict of options."""
    parser = argparse.ArgumentParser(
        prog="python -m mvit_video.export",
        description="Export a classifier of videos or images, or a detector, trained here or published, to one file "
        "that needs nothing else. The file is run on clips or images and compared with the model; one that differs is "
        "not written.",
    )
    parser.add_argument("input", help="run by name or folder, name of published weights, URL, or file of weights")
    parser.add_argument(
        "output", type=Path, help="file to write, replaced if it exists; without an ending it gets that of the format"
    )
    parser.add_argument(
        "--to",
        choices=TARGETS,
        help="format; the ending says it, too: .safetensors are weights for this project's model; .pt2 (torch_export) "
        "runs with PyTorch alone, .onnx with ONNX Runtime, both for classifiers",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="fp32",
        help="precision of the weights, and of what programs compute with; int8 is dynamic quantisation (onnx). What "
        "it costs is measured and said",
    )
    parser.add_argument(
        "--clips",
        nargs="+",
        default=[],
        metavar="FILE",
        help="files or folders to compare on, and to measure the cost of --dtype on; the default is the run's "
        "validation split, else the embedded set",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=option_value,
        metavar="OPTION=VALUE",
        help="an option of docs/options.md in place of the run's, such as data.crop_size=312 (may be repeated)",
    )
    parser.add_argument("--experiment", help="whose options count for weights that hold none, such as k400_mvitv2_s")
    parser.add_argument("--class-names", metavar="FILE", help="one class name a line, for weights that hold none")
    parser.add_argument("--output-dir", metavar="FOLDER", help="folder of all runs (default: runs)")
    parsed = parser.parse_args(arguments)
    parsed.set = dict(parsed.set)
    return parsed


def option_value(text: str) -> tuple[str, object]:
    """A word OPTION=VALUE of a command line.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise argparse.ArgumentTypeError(f"{text!r} must be OPTION=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a bare word is itself
        return name, {"true": True, "false": False, "null": None}.get(value, value)


def export(arguments: argparse.Namespace) -> str:
    """Write the file and compare it with the model; what was done, in a few lines.

    Raises:
        ValueError: there is no such model, it has no such form, or the file computes something else.
        CheckpointError: the weights cannot be fetched or read, or a package is missing.
        OSError: the file cannot be written.
    """
    from mvit_video.api import with_arguments
    from mvit_video.build.export import Export
    from mvit_video.build.export import export as write
    from mvit_video.exporting.writing import file_and_kind
    from mvit_video.predictor import prediction_options

    file_and_kind(arguments.output, arguments.to, arguments.dtype)  # before anything is fetched or read

    given = with_arguments(
        arguments.set, weights=arguments.input, class_names=arguments.class_names, output_dir=arguments.output_dir
    )
    config = prediction_options(given, experiment=arguments.experiment)
    wanted = Export(output=arguments.output, kind=arguments.to, precision=arguments.dtype, clips=tuple(arguments.clips))
    return write(config, wanted).text()


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command; an error is one line, and exit status 1."""
    parsed = parse_arguments(arguments)
    try:
        print(export(parsed))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
