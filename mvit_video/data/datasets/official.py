"""The files of public data sets as they are distributed: UCF101, HMDB51, Diving48, Charades, EPIC-Kitchens-100, Jester.

Each source takes the folder of the annotations and the folder of the videos. Videos are found by name anywhere below
the latter, with any extension, so that re-encoded copies and other layouts work.

Sources of the formats: for EPIC-Kitchens-100 the README of its annotations; for the others the data sets' own pages and
readers in public repositories. None was compared with the whole official files. What is unsure is marked so beside it.
"""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mvit_video.data.datasets.class_names import checked_names
from mvit_video.data.datasets.extensions import VIDEO_EXTENSIONS
from mvit_video.data.datasets.left_out import LeftOut, LeftOutFiles
from mvit_video.data.datasets.listing import read_json, read_text, scan
from mvit_video.data.datasets.manifest import Manifest, Missing
from mvit_video.data.datasets.rows import Beyond, Row, manifest_of_rows
from mvit_video.data.datasets.segments import WHOLE, Segment, parse_seconds
from mvit_video.data.datasets.sources import Split, logged
from mvit_video.data.datasets.table_file import Table, TableRow, read_table

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Official:
    """What the sources share: a training and a validation (or test) split; the test split is the validation split.

    Attributes:
        root: folder of the videos.
        annotations: folder of the files that come with the data set.
        missing: whether a video without a file is an error, or is left out ("skip").
    """

    root: str
    annotations: str
    missing: Missing = "error"
    _found: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def prepare(self) -> None:
        """Nothing to make: the files are the user's."""

    def has(self, split: Split) -> bool:
        """See sources.Source: every split is there."""
        return True

    def manifest(self, split: Split) -> Manifest:
        """See sources.Source. Raises ValueError where a file is missing, or is not what it should be."""
        return logged(self._manifest("train" if split == "train" else "val"), split)

    def _manifest(self, split: Literal["train", "val"]) -> Manifest:
        raise TypeError(f"{type(self).__name__} does not say how a split is read")

    def _file(self, *names: str) -> str:
        """The first of the files that is there. ValueError with all names if none is."""
        for name in names:
            path = os.path.join(self.annotations, name)
            if os.path.isfile(path):
                return path
        raise ValueError(f"{self.annotations}: holds no {' or '.join(names)}; give the folder of the official files")

    def _video(self, name: str, folder: str = "") -> str:
        """Path of a video by its name without extension, in a folder of that name if there are several."""
        if not self._found:
            self._found = _videos_by_name(self.root)
        paths = self._found.get(name, [])
        inside = [path for path in paths if os.path.basename(os.path.dirname(path)) == folder]
        return (inside or paths or [os.path.join(self.root, folder, name)])[0]

    def _of_rows(
        self,
        rows: Sequence[Row],
        class_names: Sequence[str],
        source: str,
        *,
        beyond: Beyond = "cut",
        multi_label: bool = False,
        frame_rate: float | None = None,
        left_out: LeftOut | None = None,
    ) -> Manifest:
        if not rows:
            raise ValueError(f"{source}: lists no video; is it whole?")
        return manifest_of_rows(
            rows,
            class_names=checked_names(class_names, source),
            source=source,
            missing=self.missing,
            beyond=beyond,
            multi_label=multi_label,
            frame_rate=frame_rate,
            left_out=left_out,
            numbered=True,
        )


@dataclass(kw_only=True)
class Ucf101Source(_Official):
    """UCF101 (crcv.ucf.edu/data/UCF101.php): classInd.txt, trainlist0N.txt and testlist0N.txt of the recognition task.

    `classInd.txt` has `1 ApplyEyeMakeup`; a training list `ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`, numbered
    from 1; a test list the same without the number. Videos with equal g are takes of one scene: their group.

    Attributes:
        split: 1, 2 or 3; results are usually the mean over the three.
    """

    split: int = 1

    def __post_init__(self) -> None:
        _check_split(self.split)

    def _manifest(self, split: Literal["train", "val"]) -> Manifest:
        names = self._class_names()
        source = self._file(f"{'train' if split == 'train' else 'test'}list0{self.split}.txt")
        rows = []
        for number, line in _lines(source):
            match = re.fullmatch(r"([^/]+)/(.+?)\.\w+(?:\s+(\d+))?", line)
            if match is None or match[1] not in names:
                raise ValueError(f"{source}:{number}: {line!r} is no `Class/v_Class_gNN_cNN.avi` of a known class")
            if match[3] is not None and names.index(match[1]) != int(match[3]) - 1:
                known = names.index(match[1]) + 1
                raise ValueError(
                    f"{source}:{number}: class {match[1]!r} has the number {match[3]}, and {known} in classInd.txt; "
                    "the files do not belong together"
                )
            scene = re.search(r"_g(\d+)_c\d+$", match[2])
            rows.append(
                Row(
                    place=f"{source}:{number}",
                    path=self._video(match[2], match[1]),
                    labels=(match[1],),
                    group=f"{match[1]} g{scene[1]}" if scene else "",
                )
            )
        return self._of_rows(rows, names, source)

    def _class_names(self) -> list[str]:
        source = self._file("classInd.txt")
        names: list[str] = []
        for number, line in _lines(source):
            match = re.fullmatch(r"(\d+)\s+(\S+)", line)
            if match is None or int(match[1]) != len(names) + 1:
                raise ValueError(f"{source}:{number}: {line!r}; `{len(names) + 1} ClassName` is expected")
            names.append(match[2])
        return names


@dataclass(kw_only=True)
class Hmdb51Source(_Official):
    """HMDB51 (serre-lab.clps.brown.edu): 153 files CLASS_test_split{1,2,3}.txt of testTrainMulti_7030_splits.

    A line is `NAME.avi 1`: 1 for training (70 a class), 2 for testing (30), 0 for neither, which is counted as left
    out. The classes are those of the files, sorted. What stands before the class in a name is the film it was cut from;
    taken as the group (unsure: some films have several such names).

    Attributes:
        split: 1, 2 or 3; results are usually the mean over the three.
    """

    split: int = 1

    def __post_init__(self) -> None:
        _check_split(self.split)

    def _manifest(self, split: Literal["train", "val"]) -> Manifest:
        ending = f"_test_split{self.split}.txt"
        held = sorted(entry.name for entry in scan(self.annotations) if entry.name.endswith(ending))
        if not held:
            raise ValueError(f"{self.annotations}: holds no CLASS{ending}; give the folder of the official files")
        wanted = "1" if split == "train" else "2"
        left_out = LeftOutFiles()
        rows = []
        for name in held:
            label, source = name.removesuffix(ending), os.path.join(self.annotations, name)
            for number, line in _lines(source):
                match = re.fullmatch(r"(.+)\.\w+\s+([012])", line)
                if match is None:
                    raise ValueError(f"{source}:{number}: {line!r} is no `NAME.avi` with 0, 1 or 2")
                if match[2] == "0":
                    left_out.add(f"in neither part of split {self.split}", f"{label}/{match[1]}")
                if match[2] == wanted:
                    film, cut, _ = match[1].partition(f"_{label}_")
                    path = self._video(match[1], label)
                    rows.append(
                        Row(
                            place=f"{source}:{number}",
                            path=path,
                            labels=(label,),
                            group=f"{label} {film}" if cut else "",
                        )
                    )
        names = [name.removesuffix(ending) for name in held]
        return self._of_rows(rows, names, f"{self.annotations} (*{ending})", left_out=left_out.frozen())


@dataclass(kw_only=True)
class Diving48Source(_Official):
    """Diving48 V2 (svcl.ucsd.edu/projects/resound): Diving48_V2_{train,test}.json and Diving48_vocab.json.

    The vocabulary lists a [take-off, somersaults, twists, position] per class; an entry is {"vid_name", "label",
    "start_frame", "end_frame"}. The frame numbers are of the clip itself (unsure), so that the whole clip is taken. The
    first labels (V1) are known to be wrong and are not read. The part of a name before its last number, the
    competition, is the group.
    """

    def _manifest(self, split: Literal["train", "val"]) -> Manifest:
        vocabulary = self._file("Diving48_vocab.json")
        classes = read_json(vocabulary, "vocabulary")
        if not isinstance(classes, list) or not all(isinstance(parts, list) for parts in classes):
            raise ValueError(f"{vocabulary}: a JSON list with a list of parts for each class is expected")
        names = [" ".join(str(part) for part in parts) for parts in classes]
        source = self._file(f"Diving48_V2_{'train' if split == 'train' else 'test'}.json")
        entries = read_json(source, "annotation")
        rows = []
        for number, entry in enumerate(entries if isinstance(entries, list) else [entries], start=1):
            place = f"{source}: entry {number}"
            if not isinstance(entry, dict) or not isinstance(entry.get("label"), int) or "vid_name" not in entry:
                raise ValueError(f"{place} ({str(entry)[:80]}) lacks a vid_name or a whole number as label")
            name = str(entry["vid_name"])
            group = name.rpartition("_")[0]
            rows.append(Row(place=place, path=self._video(name), labels=(entry["label"],), group=group))
        return self._of_rows(rows, names, source)


@dataclass(kw_only=True)
class CharadesSource(_Official):
    """Charades (prior.allenai.org/projects/charades): Charades_v1_{train,test}.csv and Charades_v1_classes.txt.

    The column `actions` has `c092 11.90 21.20;c147 0.00 12.60`; the classes are `c000 Holding some clothes`. Videos
    without an action are counted as left out: the official score, mAP over 157 classes, puts them behind all others.

    Attributes:
        entries: "videos": each video with all its actions, multi-label. "segments": an entry per action, one label.
    """

    entries: Literal["videos", "segments"] = "videos"

    def __post_init__(self) -> None:
        if self.entries not in ("videos", "segments"):
            raise ValueError(f"entries={self.entries!r} must be 'videos' or 'segments'")

    def _manifest(self, split: Literal["train", "val"]) -> Manifest:
        classes = self._class_names()
        table = read_table(self._file(f"Charades_v1_{'train' if split == 'train' else 'test'}.csv"), separator=",")
        _check_columns(table, ("id", "actions"))
        left_out = LeftOutFiles()
        rows: list[Row] = []
        for row in table.rows:
            video = str(row.values["id"])
            actions = [
                self._action(row, text, classes) for text in str(row.values["actions"]).split(";") if text.strip()
            ]
            kept = [(name, segment) for name, segment in actions if segment.start < segment.end]
            for _ in range(len(actions) - len(kept)):
                left_out.add("action that does not end after its start", row.place)
            if not kept:
                left_out.add("without an action", video)
                continue
            group = str(row.values.get("subject", ""))
            path = self._video(video)
            if self.entries == "videos":
                rows.append(Row(place=row.place, path=path, labels=tuple(name for name, _ in kept), group=group))
            else:
                rows += [
                    Row(place=row.place, path=path, labels=(name,), segment=segment, group=group)
                    for name, segment in kept
                ]
        names, multi = list(classes.values()), self.entries == "videos"
        return self._of_rows(rows, names, table.source, multi_label=multi, left_out=left_out.frozen())

    def _class_names(self) -> dict[str, str]:
        """Names by code."""
        source = self._file("Charades_v1_classes.txt")
        names = {}
        for number, line in _lines(source):
            code, _, name = line.partition(" ")
            if not re.fullmatch(r"c\d+", code) or not name.strip():
                raise ValueError(f"{source}:{number}: {line!r}; `c000 Name of the class` is expected")
            names[code] = name.strip()
        return names

    def _action(self, row: TableRow, text: str, classes: Mapping[str, str]) -> tuple[str, Segment]:
        fields = text.split()
        if len(fields) != 3 or fields[0] not in classes:
            raise ValueError(f"{row.place}: action {text!r}; a known class, a start and an end in seconds are expected")
        try:
            return classes[fields[0]], Segment(parse_seconds(fields[1]), parse_seconds(fields[2]))
        except ValueError as error:
            raise ValueError(f"{row.place}: action {text!r}: {error}") from error


@dataclass(kw_only=True)
class EpicKitchensSource(_Official):
    """EPIC-Kitchens-100 (github.com/epic-kitchens/epic-kitchens-100-annotations): segments of long videos.

    EPIC_100_{train,validation}.csv are read by the names of their columns (video_id, start_timestamp and stop_timestamp
    `00:00:00.14`, verb_class, noun_class), the classes from EPIC_100_{verb,noun}_classes.csv (id, key). Segments that
    end beyond their video are cut there.

    Attributes:
        label: "verb" (97 classes), "noun" (300), or "action": a pair of both that either file has, one class each. The
            official models predict verb and noun with two heads at once, which this source does not give.
    """

    label: Literal["verb", "noun", "action"] = "verb"

    def __post_init__(self) -> None:
        if self.label not in ("verb", "noun", "action"):
            raise ValueError(f"label={self.label!r} must be 'verb', 'noun' or 'action'")

    def _manifest(self, split: Literal["train", "val"]) -> Manifest:
        verbs, nouns = self._keys("verb"), self._keys("noun")
        table = self._table(split)
        labelled = [(row, self._name(row, verbs, nouns)) for row in table.rows]
        rows = [
            Row(
                place=row.place,
                path=self._video(str(row.values["video_id"])),
                labels=(name,),
                segment=self._segment(row),
            )
            for row, name in labelled
        ]
        if self.label == "action":
            other = self._table("val" if split == "train" else "train")
            names = sorted({name for _, name in labelled} | {self._name(row, verbs, nouns) for row in other.rows})
        else:
            names = list((verbs if self.label == "verb" else nouns).values())
        return self._of_rows(rows, names, table.source)

    def _table(self, split: Literal["train", "val"]) -> Table:
        table = read_table(self._file(f"EPIC_100_{'train' if split == 'train' else 'validation'}.csv"), separator=",")
        _check_columns(table, ("video_id", "start_timestamp", "stop_timestamp", "verb_class", "noun_class"))
        return table

    def _keys(self, kind: str) -> dict[int, str]:
        """Names by number."""
        names = (f"EPIC_100_{kind}_classes.csv", f"EPIC_100_{kind}_classes_v2.csv")
        table = read_table(self._file(*names), separator=",")
        _check_columns(table, ("id", "key"))
        keys = {_whole(row, "id"): str(row.values["key"]) for row in table.rows}
        if sorted(keys) != list(range(len(table.rows))):
            raise ValueError(f"{table.source}: the ids must run from 0 to {len(table.rows) - 1}, each once")
        return {number: keys[number] for number in sorted(keys)}

    def _name(self, row: TableRow, verbs: Mapping[int, str], nouns: Mapping[int, str]) -> str:
        parts = []
        for kind, keys in (("verb", verbs), ("noun", nouns)):
            number = _whole(row, f"{kind}_class")
            if number not in keys:
                raise ValueError(f"{row.place}: {kind}_class {number}, and EPIC_100_{kind}_classes.csv has {len(keys)}")
            parts.append(keys[number])
        return {"verb": parts[0], "noun": parts[1], "action": " ".join(parts)}[self.label]

    def _segment(self, row: TableRow) -> Segment:
        try:
            segment = Segment(*(parse_seconds(row.values[key]) for key in ("start_timestamp", "stop_timestamp")))
        except ValueError as error:
            raise ValueError(f"{row.place}: {error}") from error
        if not segment.start < segment.end:
            raise ValueError(f"{row.place}: the segment {segment} does not end after its start")
        return segment


@dataclass(kw_only=True)
class JesterSource(_Official):
    """Jester (developer.qualcomm.com/software/ai-datasets/jester): folders of frames, at 12 frames per second.

    `jester-v1-{train,validation}.csv` have `34870;Drumming Fingers`, `jester-v1-labels.csv` a class per line (the names
    of the first package; unsure for later ones, where train.csv, validation.csv and labels.csv are tried, too).

    Attributes:
        frame_rate: frames per second of the folders.
    """

    frame_rate: float = 12.0

    def _manifest(self, split: Literal["train", "val"]) -> Manifest:
        names = [line for _, line in _lines(self._file("jester-v1-labels.csv", "labels.csv"))]
        part = "train" if split == "train" else "validation"
        source = self._file(f"jester-v1-{part}.csv", f"{part}.csv")
        rows = []
        for number, line in _lines(source):
            video, separator, label = line.partition(";")
            if not separator or label not in names:
                raise ValueError(f"{source}:{number}: {line!r}; `34870;Name of a known class` is expected")
            path = os.path.join(self.root, video)
            rows.append(Row(place=f"{source}:{number}", path=path, labels=(label,), segment=WHOLE))
        return self._of_rows(rows, names, source, frame_rate=self.frame_rate)


def _check_split(split: int) -> None:
    if split not in (1, 2, 3):
        raise ValueError(f"split={split}: there are the splits 1, 2 and 3")


def _lines(source: str) -> list[tuple[int, str]]:
    """(number, text) of every line that is not empty."""
    lines = read_text(source, "annotation").splitlines()
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def _check_columns(table: Table, names: Sequence[str]) -> None:
    absent = [name for name in names if name not in table.columns]
    if absent:
        columns = ", ".join(table.columns)
        raise ValueError(f"{table.source}: no column {absent[0]!r} among {columns}; give the official file")


def _whole(row: TableRow, column: str) -> int:
    text = str(row.values[column])
    if not re.fullmatch(r"\d{1,9}", text):
        raise ValueError(f"{row.place}: {column} {text!r} is no whole number")
    return int(text)


def _videos_by_name(root: str) -> dict[str, list[str]]:
    """Paths of all videos below a folder by their names without extension, the usual extensions first."""
    scan(root)  # says what is wrong with a folder that is not there
    ranks = {extension: rank for rank, extension in enumerate(VIDEO_EXTENSIONS)}
    found: dict[str, list[tuple[int, str]]] = {}
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            stem, extension = os.path.splitext(name)
            if extension.lower() in ranks and not name.startswith("."):
                found.setdefault(stem, []).append((ranks[extension.lower()], os.path.join(folder, name)))
    return {stem: [path for _, path in sorted(paths)] for stem, paths in found.items()}
