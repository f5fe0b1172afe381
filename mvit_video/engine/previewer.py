"""What the model sees, for people: training clips and test views as contact sheets, with a page that lists them.

Clips are taken at the last point before the model, after decoding, augmentation, normalisation, erasing and mixing:
from the same loader, `prepare` and `model_input` that a training step uses.
"""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mvit_video.data.augmentation.mixing import MixDraw, Mixing
from mvit_video.data.loading.batch import Batch
from mvit_video.data.loading.dataset import DRAW_CLIP, EvalDataset, TrainDataset
from mvit_video.data.loading.loader import TrainLoader, collate
from mvit_video.data.sampling import view_of
from mvit_video.engine.contact_sheet import (
    Pictures,
    Row,
    Sheet,
    boxed_letters,
    columns_that_fit,
    denormalize_clips,
    enlarged,
    enlargement,
    frame_durations,
    printable,
    save_animation,
    save_picture,
    shorten,
    spread,
)
from mvit_video.engine.trainer import Prepare, model_input
from mvit_video.runtime.env import write_text
from mvit_video.video.reader import VideoDecodeError, VideoInfo, VideoReader

logger = logging.getLogger(__name__)

_CPU = torch.device("cpu")
ROWS_PER_SHEET = 8
NAME_LENGTH = 48  # characters of a class name in a caption; the index page has it whole
INDEX_TITLE = "# What the model sees:"
Kind = Literal["train", "test"]


@dataclass(frozen=True)
class Clip:
    """A clip as the model gets it, and what is known about it.

    Attributes:
        title: class and, for mixed clips, the shares; or class and view.
        target: what the model's answer is compared with (training), classes and values; else the class.
        path: file of the video.
        place: where in the run or the split the clip is.
        pictures: uint8 (T, H, W, 3); None if the video could not be read.
        frames: number in the file of each picture; empty if not known.
        fps: of the video; 0 if not known.
        total: frames of the video; 0 if not known.
        mixed_with: file that the rest of a mixed clip comes from.
        problem: why the video could not be read.
    """

    title: str
    target: str
    path: str
    place: str
    pictures: Pictures | None
    frames: tuple[int, ...] = ()
    fps: float = 0.0
    total: int = 0
    mixed_with: str = ""
    problem: str = ""

    @property
    def extent(self) -> str:
        """The stretch of the video that the clip covers, in words."""
        if not self.frames:
            return ""
        first, last = min(self.frames), max(self.frames)
        return f"frames {first} to {last} of {self.total}, {self.fps:.4g} frames/s"


@dataclass(frozen=True, kw_only=True)
class Look:
    """How clips become pictures.

    Attributes:
        mean, std, channel_order: of the normalisation that is undone; see transforms.normalize_clips.
        frames: pictures per row; None: as many as fit.
        scale: whole factor of enlargement; None: chosen for the size of the clips.
        animate: write each clip as an animated picture, too.
    """

    mean: Sequence[float]
    std: Sequence[float]
    channel_order: Literal["rgb", "bgr"] = "rgb"
    frames: int | None = None
    scale: int | None = None
    animate: bool = False

    def pictures(self, clips: torch.Tensor) -> Pictures:
        """Normalised clips (B, 3, T, H, W) as uint8 (B, T, H, W, 3)."""
        return denormalize_clips(clips, mean=self.mean, std=self.std, channel_order=self.channel_order)


@dataclass(frozen=True)
class Section:
    """Clips that are shown together.

    Attributes:
        kind: "train" or "test", the beginning of the files' names.
        heading: above each sheet.
        about: further lines there.
        clips: what is shown.
        failures: (path, reason) of videos that could not be read.
    """

    kind: Kind
    heading: str
    about: Sequence[str]
    clips: Sequence[Clip]
    failures: Sequence[tuple[str, str]] = ()


def training_clips(
    loader: TrainLoader, *, prepare: Prepare, mixing: Mixing, seed: int, step: int, count: int, look: Look
) -> tuple[list[Clip], list[tuple[str, str]]]:
    """The first `count` clips from optimizer step `step` on, and (path, reason) of the videos that were replaced.

    Raises:
        VideoDecodeError: a video and all its replacements are unreadable.
    """
    clips: list[Clip] = []
    failures: dict[str, str] = {}
    for number, made in enumerate(loader.batches(step)):
        failures.update(made.failures)
        batch = made.to(_CPU)
        inputs, targets, draw = model_input(batch, prepare=prepare, mixing=mixing, seed=seed)
        pictures = look.pictures(inputs)
        for row in range(min(len(pictures), count - len(clips))):
            at = step + number // loader.accumulate
            clips.append(_training_clip(loader, batch, row, at, draw, targets[row], pictures[row]))
        if len(clips) >= count:
            break
    return clips, list(failures.items())


def _training_clip(
    loader: TrainLoader,
    batch: Batch,
    row: int,
    step: int,
    draw: MixDraw,
    targets: torch.Tensor,
    pictures: Pictures,
) -> Clip:
    dataset = loader.dataset
    names = dataset.manifest.class_names
    own, partner = int(batch.labels[row]), len(batch.labels) - 1 - row
    title = class_text(names, own)
    if draw.mode != "none":
        other = class_text(names, int(batch.labels[partner]))
        title = f"{draw.mode}  {draw.lam:.2f} {title}  +  {1 - draw.lam:.2f} {other}"
    video, copy = int(batch.videos[row]), int(batch.views[row])
    position = batch.position + row // dataset.repeats
    copies = f", copy {copy + 1} of {dataset.repeats}" if dataset.repeats > 1 else ""
    info = _info(dataset, video)
    return Clip(
        title=title,
        target=target_text(names, targets),
        path=batch.paths[row],
        place=f"step {step}, epoch {batch.epoch}, place {position} in its order{copies}",
        pictures=pictures,
        frames=() if info is None else _training_frames(dataset, batch.epoch, video, info),
        fps=0.0 if info is None else info.fps,
        total=0 if info is None else info.num_frames,
        mixed_with="" if draw.mode == "none" else batch.paths[partner],
    )


def evaluation_views(
    dataset: EvalDataset, *, prepare: Prepare, count: int, look: Look
) -> tuple[list[Clip], list[tuple[str, str]]]:
    """All views of `count` videos spread evenly over the split, and (path, reason) of those that cannot be read."""
    clips: list[Clip] = []
    failures: list[tuple[str, str]] = []
    for video in spread(len(dataset), count):
        batch = collate([dataset[video]]).to(_CPU)
        failures += batch.failures
        if bool(batch.failed.any()):
            clips.append(_failed_clip(dataset, batch, video))
            continue
        clips += _views_of_video(dataset, batch, video, look.pictures(prepare(batch)))
    return clips, failures


def _failed_clip(dataset: EvalDataset, batch: Batch, video: int) -> Clip:
    name = class_text(dataset.manifest.class_names, int(batch.labels[0]))
    place = f"video {video} of the split"
    reason = "; ".join(reason for _, reason in batch.failures)
    return Clip(title=name, target=name, path=batch.paths[0], place=place, pictures=None, problem=reason)


def _views_of_video(dataset: EvalDataset, batch: Batch, video: int, pictures: Pictures) -> Iterator[Clip]:
    name = class_text(dataset.manifest.class_names, int(batch.labels[0]))
    info = _info(dataset, video)
    for number, view in enumerate(pictures):
        temporal, spatial = view_of(number, dataset.spatial_views)
        crop = _crop_name(spatial, dataset.spatial_views, info)
        yield Clip(
            title=f"{name}  ·  view {number + 1} of {dataset.num_views}: clip {temporal + 1}, {crop} crop",
            target=name,
            path=batch.paths[number],
            place=f"video {video} of the split",
            pictures=view,
            frames=() if info is None else _view_frames(dataset, video, temporal, info),
            fps=0.0 if info is None else info.fps,
            total=0 if info is None else info.num_frames,
        )


def _training_frames(dataset: TrainDataset, epoch: int, video: int, info: VideoInfo) -> tuple[int, ...]:
    """Frames that the data set drew for a clip: the draw depends on this key alone."""
    rng = np.random.default_rng([dataset.seed, epoch, video, DRAW_CLIP])
    shown = _shown(dataset, video, info)
    return tuple(shown[place] for place in dataset.sampler.train(len(shown), info.fps, rng))


def _view_frames(dataset: EvalDataset, video: int, temporal: int, info: VideoInfo) -> tuple[int, ...]:
    shown = _shown(dataset, video, info)
    return tuple(shown[place] for place in dataset.sampler.test(len(shown), info.fps, temporal, dataset.temporal_views))


def _shown(dataset: TrainDataset | EvalDataset, video: int, info: VideoInfo) -> range:
    """The frames of the file that an entry of the manifest is."""
    segment = dataset.manifest.segment(video)
    if segment.whole:
        return range(info.num_frames)
    with VideoReader(dataset.manifest.media(video), backend=dataset.backend) as reader:
        return dataset.decoding.frames(reader, segment)


def _crop_name(spatial: int, num_spatial: int, info: VideoInfo | None) -> str:
    if num_spatial == 1:
        return "centre"
    portrait = info is not None and info.height > info.width
    return ("top", "middle", "bottom")[spatial] if portrait else ("left", "centre", "right")[spatial]


def _info(dataset: TrainDataset | EvalDataset, video: int) -> VideoInfo | None:
    """Facts about a video that was read already; None if it can no longer be."""
    try:
        with VideoReader(dataset.manifest.media(video), backend=dataset.backend) as reader:
            return reader.info
    except VideoDecodeError as error:
        logger.warning("the frame numbers of %s stay unknown: %s", error.path, error.reason)
        return None


def class_text(names: Sequence[str], label: int) -> str:
    """A class by name and number."""
    return f"{shorten(names[label], NAME_LENGTH)} ({label})"


def target_text(names: Sequence[str], targets: torch.Tensor) -> str:
    """The largest two of a row of targets that stand out, largest first, and what every other class has."""
    values, labels = targets.float().sort(descending=True, stable=True)
    floor = float(values[-1])
    shown = [i for i in range(min(2, len(values))) if float(values[i]) > floor] or [0]
    text = " + ".join(f"{float(values[i]):.4g} {names[int(labels[i])]} ({int(labels[i])})" for i in shown)
    return f"{text}, {floor:.3g} each of the others" if floor > 0 and len(shown) < len(values) else text


def write_preview(folder: Path, sections: Sequence[Section], *, title: str, options: str, look: Look) -> list[Path]:
    """Write sheets, animations and index.md, each beside its place and renamed; the files, the index last.

    Sheets and animations that an earlier index in the folder lists and this one does not are removed.

    Args:
        folder: made if it is not there.
        sections: what to show.
        title: of the index.
        options: YAML text for the index.
        look: how to show it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _warn_of_boxes(sections)
    earlier = _files_of(folder / "index.md")
    lines = [f"{INDEX_TITLE} {_escaped(title)}", ""]
    written: list[Path] = []
    for section in sections:
        files, text = _write_section(folder, section, look)
        written += files
        lines += text
    lines += ["## Options", "", "```yaml", options.rstrip("\n"), "```", ""]
    write_text(folder / "index.md", "\n".join(lines))
    for name in earlier - {path.name for path in written}:
        (folder / name).unlink(missing_ok=True)
    return [*written, folder / "index.md"]


def _warn_of_boxes(sections: Sequence[Section]) -> None:
    boxed = boxed_letters(text for section in sections for clip in section.clips for text in (clip.title, clip.path))
    if boxed:
        logger.warning(
            "no installed font has %s: the sheets show boxes for these letters, index.md has them. A font that covers "
            "many languages, such as Noto Sans CJK, is found once it is installed",
            shorten(boxed, 20),
        )


def _files_of(index: Path) -> set[str]:
    """Names of the sheets and animations that an index of ours lists."""
    if not index.is_file():
        return set()
    text = index.read_text(encoding="utf-8", errors="replace")
    if not text.startswith(INDEX_TITLE):
        return set()
    return set(re.findall(r"\]\(((?:train|test)_(?:clip_)?\d+\.(?:png|webp))\)", text))


def _write_section(folder: Path, section: Section, look: Look) -> tuple[list[Path], list[str]]:
    """Write a section's files; they, and its lines of the index."""
    lines = [f"## {_escaped(section.heading)}", "", *(f"{_escaped(line)}  " for line in section.about), ""]
    written: list[Path] = []
    pages = paginate(section.clips, ROWS_PER_SHEET)
    number = 0
    for page, clips in enumerate(pages, start=1):
        path = folder / f"{section.kind}_{page:02d}.png"
        heading = section.heading if len(pages) == 1 else f"{section.heading}  ·  sheet {page} of {len(pages)}"
        notes = failure_notes(section) if page == len(pages) else []
        save_picture(make_sheet(clips, heading=heading, about=section.about, notes=notes, look=look).draw(), path)
        written.append(path)
        lines += [f"![{section.heading}, sheet {page}]({path.name})", "", *_TABLE_HEAD]
        for row, clip in enumerate(clips, start=1):
            number += 1
            animation = None
            if look.animate and clip.pictures is not None:
                animation = folder / f"{section.kind}_clip_{number:02d}.webp"
                _animate(clip, animation, look)
                written.append(animation)
            lines.append(_table_row(row, clip, animation))
        lines.append("")
    if section.failures:
        lines += ["Could not be read:", ""]
        lines += [f"- {_code(path)}: {_escaped(reason)}" for path, reason in section.failures] + [""]
    return written, lines


def paginate(clips: Sequence[Clip], rows: int) -> list[list[Clip]]:
    """Clips in sheets of `rows` at most; the views of one video stay together where a sheet holds them all."""
    groups: list[list[Clip]] = []
    for clip in clips:
        if groups and clip.problem == "" and groups[-1][-1].path == clip.path:
            groups[-1].append(clip)
        else:
            groups.append([clip])
    pages: list[list[Clip]] = []
    for group in groups:
        if pages and len(pages[-1]) + len(group) <= rows:
            pages[-1] += group
        else:
            pages += [group[start : start + rows] for start in range(0, len(group), rows)]
    return pages


def failure_notes(section: Section) -> list[str]:
    """Lines at the foot of a section's last sheet. Test videos that failed have rows of their own."""
    if section.kind == "test" or not section.failures:
        return []
    shown = [f"{shorten(path, 80)}: could not be read: {reason}" for path, reason in section.failures[:10]]
    more = len(section.failures) - len(shown)
    ending = [f"... and {more} more, see index.md"] if more else []
    return ["Replaced by other videos of the split, as in training:", *shown, *ending]


def make_sheet(clips: Sequence[Clip], *, heading: str, about: Sequence[str], notes: Sequence[str], look: Look) -> Sheet:
    """The sheet of a page of clips, all of the same size."""
    shape = next((clip.pictures.shape for clip in clips if clip.pictures is not None), (1, 1, 1, 3))
    enlarge = look.scale or enlargement(min(shape[1:3]))
    columns = min(shape[0], look.frames or columns_that_fit(shape[2] * enlarge))
    return Sheet(
        heading=heading,
        about=about,
        rows=[_row(clip, spread(shape[0], columns)) for clip in clips],
        notes=notes,
        columns=columns,
        enlarge=enlarge,
    )


def _row(clip: Clip, columns: Sequence[int]) -> Row:
    source = shorten(clip.path, 110)
    if clip.mixed_with:
        source += f"  ·  mixed with {shorten(os.path.basename(clip.mixed_with), 60)}"
    facts = "  ·  ".join(part for part in (clip.extent, clip.place) if part)
    marks = [str(clip.frames[column]) for column in columns] if clip.frames else []
    pictures = None if clip.pictures is None else clip.pictures[np.array(columns)]
    return Row((clip.title, source, facts), pictures, marks, clip.problem)


def _animate(clip: Clip, path: Path, look: Look) -> None:
    assert clip.pictures is not None
    factor = look.scale or enlargement(min(clip.pictures.shape[1:3]))
    big = np.stack([enlarged(picture, factor) for picture in clip.pictures])
    pace = frame_durations(clip.frames, clip.fps) if clip.frames else [100] * len(big)
    save_animation(big, path, milliseconds=pace)


_TABLE_HEAD = [
    "| row | class | target | file | frames | where |",
    "|---|---|---|---|---|---|",
]


def _table_row(row: int, clip: Clip, animation: Path | None) -> str:
    number = str(row) if animation is None else f"[{row}]({animation.name})"
    file = _code(clip.path)
    if clip.mixed_with:
        file += f", mixed with {_code(clip.mixed_with)}"
    title = _escaped(clip.title) if clip.pictures is not None else f"{_escaped(clip.title)}: **could not be read**"
    frames = f"{clip.extent}: {', '.join(map(str, clip.frames))}" if clip.frames else ""
    return f"| {number} | {title} | {_escaped(clip.target)} | {file} | {frames} | {_escaped(clip.place)} |"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, in a table too."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", printable(text))


def _code(text: str) -> str:
    """A path as code; a backquote or a bar in it would end the code or the cell."""
    return "`" + printable(text).replace("`", "'").replace("|", r"\|") + "`"
