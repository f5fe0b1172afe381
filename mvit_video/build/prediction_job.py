"""What `python -m mvit_video.predict` does with its options: files to results, ranks together, or a stream."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mvit_video.build.common import process_group_of
from mvit_video.build.evaluation import free_folder
from mvit_video.build.live import predict_live, wants_live
from mvit_video.build.prediction import FilePredictor, build_predictor
from mvit_video.config import Predict
from mvit_video.data.datasets.extensions import FileKind
from mvit_video.distributed.process_group import barrier, from_main
from mvit_video.prediction.drawings import Drawings
from mvit_video.prediction.files import find_files
from mvit_video.prediction.folder import LINES, ResultsFolder
from mvit_video.prediction.results import FilePrediction, table_text
from mvit_video.prediction.timeline import timeline_names
from mvit_video.runtime.output import write_out

logger = logging.getLogger(__name__)

_SHOWN = 40  # files whose classes are printed


def predict(config: Predict) -> list[FilePrediction]:
    """Predict as configured, print a table and write the results; those of the given files (on rank 0, else none).

    A stream is looked at until it ends, and has no result that is kept; see build.live.

    Raises:
        ValueError: there is nothing to predict, or with; or none of the files could be read.
    """
    live = wants_live(config.sources, live=config.live)
    with process_group_of(config) as world:
        predictor = build_predictor(config, world)
        if live:
            predict_live(predictor)
            return []
        files = find_files(config.sources, predictor.kind)
        folder = _folder(config, predictor, files)
        found = _predict_rest(predictor, folder, files)
        if not world.is_main:
            return []
    _say(found, folder.folder, predictor.kind)
    return found


def _folder(config: Predict, predictor: FilePredictor, files: Sequence[str]) -> ResultsFolder:
    world = predictor.world
    about = predictor.protocol(files)
    place = None
    if world.is_main:
        place = Path(config.output) if config.output else free_folder(Path("predictions"), about)
        if config.output and free_folder(place, about) != place:
            raise ValueError(
                f"output={config.output}: holds results of other weights or options (see results.json there); give "
                "another folder, or remove that one"
            )
    folder = ResultsFolder(from_main(place, world), rank=world.rank, about=about)
    if world.is_main:
        folder.begin()
    return folder


def _predict_rest(predictor: FilePredictor, folder: ResultsFolder, files: Sequence[str]) -> list[FilePrediction]:
    """Predict the files that have no result yet; on rank 0 the results of all of them, else none."""
    world, kind = predictor.world, predictor.kind
    done = from_main(folder.done(files) if world.is_main else None, world)
    rest = [path for path in files if path not in done]
    if done and world.is_main:
        logger.info("%d of %d %s have their results already, in %s", len(done), len(files), kind.plural, folder.folder)
    drawings = Drawings(
        folder=folder.folder,
        kind=kind,
        names=timeline_names(files),
        threshold=predictor.config.threshold,
        several=predictor.several,
        annotate=predictor.config.annotate,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not world.is_main or len(rest) < 2) as progress:
        bar = progress.add_task("predicting", total=len(range(world.rank, len(rest), world.size)))
        for one in predictor.predict(rest):
            drawings.draw(one, predictor.explain if predictor.config.explain else None)
            folder.add(one)
            if one.error is not None:
                logger.warning("%s could not be read: %s", one.path, one.error)
            progress.advance(bar)
    barrier(world)
    if not world.is_main:
        return []
    by_path = {one.path: one for one in folder.finish(files)}
    return [by_path[path] for path in files]


def _say(found: Sequence[FilePrediction], folder: Path, kind: FileKind) -> None:
    """Print the classes of the first files and say where the rest is."""
    code = write_out(table_text(found[:_SHOWN], noun=kind.noun), sys.stdout)
    if code:
        sys.exit(code)
    more = f" ({len(found) - _SHOWN} more of them)" if len(found) > _SHOWN else ""
    failed = [one for one in found if one.error is not None]
    unread = f"; {len(failed)} of {len(found)} could not be read" if failed else ""
    logger.info("written to %s%s%s", folder / LINES, more, unread)
    if len(failed) == len(found):
        raise ValueError(
            f"none of the {len(found)} {kind.plural} could be read, the first {failed[0].path}: {failed[0].error}"
        )
