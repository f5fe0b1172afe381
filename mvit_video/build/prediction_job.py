"""What `python -m mvit_video.predict` does with its options: files to results, ranks together, or a stream."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mvit_video.build.common import build_task_builder, process_group_of
from mvit_video.build.evaluation import free_folder
from mvit_video.build.file_predictor import FilePredictor, predicting
from mvit_video.build.live import predict_live, wants_live
from mvit_video.build.prediction import build_predictor
from mvit_video.config import Predict
from mvit_video.distributed.process_group import barrier, from_main
from mvit_video.prediction.drawings import ANNOTATED, EXPLAINED, FEATURES, TIMELINES
from mvit_video.prediction.file_list import shared_file_list, write_file_list
from mvit_video.prediction.files import find_files
from mvit_video.prediction.folder import LINES, RESULTS, TABLE, Part, ResultsFolder
from mvit_video.prediction.lines import file_state, writing
from mvit_video.prediction.results import FilePrediction
from mvit_video.prediction.timeline import timeline_names
from mvit_video.runtime.formatting import count_text
from mvit_video.runtime.interruption import stop_if_asked
from mvit_video.runtime.output import write_out

logger = logging.getLogger(__name__)

_SHOWN = 40  # files whose classes are printed


def predict(config: Predict) -> Sequence[FilePrediction]:
    """Predict as configured, print a table and write the results; those of the given files (on rank 0, else none).

    A stream is looked at until it ends, and has no result that is kept; see build.live. One of several jobs has none
    either: the one that ends last puts them together.

    Raises:
        ValueError: there is nothing to predict, or with; or none of the files could be read.
        Interrupted: the process was asked to stop; the same command goes on.
    """
    live = wants_live(config.sources, live=config.live)
    part = _part(config)
    with process_group_of(config) as world:
        predictor = build_predictor(config, world)
        if live:
            predict_live(predictor)
            return []
        files = _files(config, predictor, part)
        folder = _folder(config, predictor, files, part)
        found = _predict_rest(predictor, folder, files)
        if not world.is_main or part is not None:
            return []
    _say(found, folder.folder, predictor)
    return found


def split_into_parts(config: Predict) -> list[Predict]:
    """The options of each of the jobs that share the files out; the files are listed here, once.

    Raises:
        ValueError: there is no folder that all of them write to, or nothing to predict.
    """
    assert config.parts is not None
    _part(replace(config, part=0))
    if wants_live(config.sources, live=config.live):
        raise ValueError(f"parts={config.parts}: {config.sources[0]} is a stream, which cannot be shared out")
    asked = predicting(build_task_builder(config))
    asked.check_prediction(config)
    kind = asked.predicted
    files = find_files(config.sources, kind)
    if config.parts > len(files):
        raise ValueError(f"parts={config.parts} for {len(files)} {kind.plural}: give parts={len(files)} or fewer")
    assert config.output is not None
    write_file_list(Path(config.output), files)
    logger.info("%d %s for %d jobs, listed in %s", len(files), kind.plural, config.parts, config.output)
    return [replace(config, part=number) for number in range(config.parts)]


def _part(config: Predict) -> Part | None:
    """Which of several jobs this one is.

    Raises:
        ValueError: the options do not say it.
    """
    if config.parts is None:
        if config.part is not None:
            raise ValueError(f"part={config.part}: of how many? Give parts=N, too")
        return None
    if config.output is None:
        raise ValueError(f"parts={config.parts}: give output=FOLDER, which all jobs write to")
    if config.part is None:
        raise ValueError(
            f"parts={config.parts}: jobs that run beside each other. Give launcher=slurm, which submits them as one "
            f"array, or start each of them with part=0 to part={config.parts - 1}"
        )
    if config.part >= config.parts:
        raise ValueError(f"part={config.part}: they are numbered from 0 to {config.parts - 1}")
    return Part(config.part, config.parts)


def _files(config: Predict, predictor: FilePredictor, part: Part | None) -> list[str]:
    """The files of all jobs, as rank 0 finds them."""
    if part is None:  # of a folder that is being filled, ranks that look by themselves find other files
        return from_main(find_files(config.sources, predictor.kind), predictor.world)
    assert config.output is not None
    return shared_file_list(Path(config.output), lambda: find_files(config.sources, predictor.kind))


def _folder(config: Predict, predictor: FilePredictor, files: Sequence[str], part: Part | None) -> ResultsFolder:
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
        _check_own(place)
    folder = ResultsFolder(from_main(place, world), rank=world.rank, about=about, part=part, table=predictor.table)
    if world.is_main:
        with writing(folder.folder):
            folder.begin()
    barrier(world)
    return folder


def _check_own(place: Path) -> None:
    """Refuse a folder whose files would be written over, with a ValueError: a prediction writes results.json first."""
    others = [name for name in (LINES, TABLE) if (place / name).exists()]
    if others and not (place / RESULTS).exists():
        raise ValueError(
            f"{place}: holds a {others[0]} that no prediction of this program wrote (there is no {RESULTS} beside it); "
            "give output=FOLDER elsewhere, or move that file"
        )


def _predict_rest(predictor: FilePredictor, folder: ResultsFolder, files: Sequence[str]) -> Sequence[FilePrediction]:
    """Predict the files of this job that have no result yet; on rank 0 the results of all files, else none."""
    world, part = predictor.world, folder.part
    own = files if part is None else part.share(files)
    done = from_main(folder.done(own) if world.is_main else None, world)
    rest = [path for path in own if path not in done]
    if done and world.is_main:
        logger.info("%d of %s: results are in %s already", len(done), count_text(len(own), "file"), folder.folder)
    drawn = from_main(folder.drawn() if world.is_main else None, world)
    drawings = predictor.drawings(folder.folder, timeline_names(files, drawn))
    states = {path: file_state(path) for path in rest[world.rank :: world.size]}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not world.is_main or len(rest) < 2) as progress:
        bar = progress.add_task("predicting", total=len(range(world.rank, len(rest), world.size)))
        for one in predictor.predict(rest, begun=folder.begun):
            with writing(folder.folder):
                name = drawings.draw(one)
                folder.add(one, state=states[one.path], drawn=name)
            if one.error is not None:
                logger.warning("%s could not be read: %s", one.path, one.error)
            progress.advance(bar)
            stop_if_asked()
    barrier(world)
    if not world.is_main:
        return []
    return _put_together(predictor, folder, files)


def _put_together(predictor: FilePredictor, folder: ResultsFolder, files: Sequence[str]) -> Sequence[FilePrediction]:
    """The results of all files; none while other jobs are not through with theirs."""
    if folder.part is not None:
        waiting = folder.end_part()
        if waiting:
            logger.info(
                "part %d is done; %d of %d parts are not: the last one puts the results together",
                folder.part.number,
                len(waiting),
                folder.part.of,
            )
            return []
    with writing(folder.folder):
        found = folder.finish(files)
        predictor.write_more(folder.folder, found)
    if folder.part is not None:
        logger.info("all %d parts are done: %d results in %s", folder.part.of, len(found), folder.folder / LINES)
    return found


def _say(found: Sequence[FilePrediction], folder: Path, predictor: FilePredictor) -> None:
    """Print what is in the first files and say where the rest is."""
    kind = predictor.kind
    code = write_out(predictor.table.text(found[:_SHOWN], noun=kind.noun), sys.stdout)
    if code:
        sys.exit(code)
    more = f" ({len(found) - _SHOWN} more of them)" if len(found) > _SHOWN else ""
    failed = sum(one.error is not None for one in found)
    unread = f"; {failed} of {len(found)} could not be read" if failed else ""
    drawn = [str(folder / name) for name in (TIMELINES, ANNOTATED, EXPLAINED) if (folder / name).is_dir()]
    drawings = f"; drawings in {', '.join(drawn)}" if drawn else ""
    features = f"; features in {folder / FEATURES}" if (folder / FEATURES).is_dir() else ""
    logger.info("written to %s%s%s%s%s", folder / LINES, more, drawings, features, unread)
    if failed == len(found):
        raise ValueError(
            f"none of the {len(found)} {kind.plural} could be read, the first {found[0].path}: {found[0].error}"
        )
