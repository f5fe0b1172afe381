"""Put a model on a hub with its page: `python -m mvit_video.push RUN_OR_WEIGHTS OWNER/NAME`, or into a folder.

The file is that of `python -m mvit_video.export`, without paths of this machine. `mvit_video.from_pretrained` and
`Predictor.from_pretrained` take it from there.
"""

import argparse
import sys
from collections.abc import Sequence

from mvit_video.export import option_value


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, with `set` as a dict of options."""
    parser = argparse.ArgumentParser(
        prog="python -m mvit_video.push",
        description="Put a classifier or a detector on a hub (huggingface_hub) or into a folder, with a page written "
        "from the run.",
    )
    parser.add_argument("input", help="run by name or folder, name of published weights, URL, or file of weights")
    parser.add_argument("repo", help="OWNER/NAME, made if it is not there; a path that begins with . or / is a folder")
    parser.add_argument("--licence", help="of the weights, by the hub's short names, such as apache-2.0")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to commit to, made if it is not there")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32", help="precision of the weights")
    parser.add_argument(
        "--also", nargs="+", choices=("torch_export", "onnx"), default=[], help="further formats of classifiers"
    )
    parser.add_argument("--clips", nargs="+", default=[], metavar="FILE", help="see python -m mvit_video.export")
    parser.add_argument(
        "--set", action="append", default=[], type=option_value, metavar="OPTION=VALUE",
        help="an option in place of the run's (may be repeated)",
    )  # fmt: skip
    parser.add_argument("--experiment", help="whose options count for weights that hold none")
    parser.add_argument("--class-names", metavar="FILE", help="one class name a line, for weights that hold none")
    parser.add_argument("--output-dir", metavar="FOLDER", help="folder of all runs (default: runs)")
    parsed = parser.parse_args(arguments)
    parsed.set = dict(parsed.set)
    return parsed


def push(arguments: argparse.Namespace) -> str:
    """Export, write the page, and commit both; what was done, in a line.

    Raises:
        ValueError: there is no such model, or the name is neither a repository nor a folder.
        HubError: the hub refuses, or is out of reach.
    """
    from mvit_video.api import with_arguments
    from mvit_video.hub import push as push_files
    from mvit_video.predictor import prediction_options

    given = with_arguments(
        arguments.set, weights=arguments.input, class_names=arguments.class_names, output_dir=arguments.output_dir
    )
    pushed = push_files(
        prediction_options(given, experiment=arguments.experiment),
        arguments.repo,
        also=arguments.also,
        precision=arguments.dtype,
        clips=arguments.clips,
        licence=arguments.licence,
        private=arguments.private,
        revision=arguments.revision,
    )
    return f"{pushed.place}: {', '.join(pushed.files)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command; an error is one line, and exit status 1."""
    parsed = parse_arguments(arguments)
    try:
        print(push(parsed))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
