"""Options of the group `data/source` for tables, and for the official files of data sets."""

from collections.abc import Iterator
from dataclasses import dataclass

from omegaconf import MISSING, SI

from mvit_video.config.rules import option

_NONE = "null: one of the usual names; none: read none"


@dataclass
class TableOptions:
    """What tables of videos and of images have in common."""

    table: str | None = option(None, help="one table, with a column that says each row's split; without: for training")
    train: str | None = option(None, help="or a table per split: that of the training")
    val: str | None = option(None, help="the table of the validation")
    test: str | None = option(None, help="the table of the test; null: that of the validation")
    root: str | None = option(None, help="folder or URL that relative paths start from; null: the current folder")
    separator: str | None = option(None, help="what stands between values; null: by the extension and the header")
    path_column: str | None = option(None, help="column of the paths; null: one of the usual names")
    label_column: str | None = option(None, help="column of the labels; null: one of the usual names")
    split_column: str | None = option(None, help=f"column of the splits (train, val, test); {_NONE}")
    group_column: str | None = option(None, help=f"column of what must be in one split; {_NONE}")
    weight_column: str | None = option(None, help=f"column of weights, 0 or more; {_NONE}")
    labels: str = option(
        "auto", choices=("auto", "names"), help="auto: labels are numbers if all are whole numbers; names: never"
    )
    label_separator: str | None = option(None, help="what stands between several labels of a row; null: one each")
    class_names_file: str | None = option(None, help="file with one class name a line; numbers count its lines from 0")
    num_classes: int | None = option(
        SI("${data.num_classes}"), at_least=1, help="numbered labels run from 0 to this minus 1"
    )
    missing: str = option(
        "error",
        choices=("error", "skip"),
        help="what to do about rows whose files do not exist: stop, or train without them and say how many",
    )

    def problems(self) -> Iterator[str]:
        """Rules between two values."""
        for split in ("train", "val", "test"):
            if self.table is not None and getattr(self, split) is not None:
                yield (
                    f"data.source.{split}={getattr(self, split)}: not together with data.source.table={self.table}, "
                    "which holds every split; leave one of them out"
                )


@dataclass
class TableSource(TableOptions):
    """Tables (CSV, TSV, JSON lines) with a row per video or segment."""

    _target_: str = "mvit_video.data.datasets.table.TableSource"
    start_column: str | None = option(None, help=f"column of the start of segments, s or 00:01:02.5; {_NONE}")
    end_column: str | None = option(None, help=f"column of the end of segments; {_NONE}")
    beyond: str = option(
        "error",
        choices=("error", "cut"),
        help="what to do about segments that end more than 1 s beyond their video: stop, or cut them there",
    )
    frame_rate: float | None = option(
        None, above=0, help="frames per second of videos that are folders of numbered pictures; null: there are none"
    )


@dataclass
class OfficialSource:
    """What the official files of data sets have in common."""

    _target_: str = MISSING
    root: str = option(MISSING, help="folder of the videos, which may lie anywhere below it")
    annotations: str = option(MISSING, help="folder of the official files")
    missing: str = option(
        "error",
        choices=("error", "skip"),
        help="what to do about listed videos that do not exist: stop, or train without them and say how many",
    )


@dataclass
class Ucf101Source(OfficialSource):
    """UCF101: classInd.txt, trainlist0N.txt, testlist0N.txt over the videos."""

    _target_: str = "mvit_video.data.datasets.official.Ucf101Source"
    split: int = option(1, choices=(1, 2, 3), help="which of the three official splits")


@dataclass
class Hmdb51Source(OfficialSource):
    """HMDB51: CLASS_test_splitN.txt over the videos."""

    _target_: str = "mvit_video.data.datasets.official.Hmdb51Source"
    split: int = option(1, choices=(1, 2, 3), help="which of the three official splits")


@dataclass
class Diving48Source(OfficialSource):
    """Diving48 V2: Diving48_V2_{train,test}.json and Diving48_vocab.json over the videos."""

    _target_: str = "mvit_video.data.datasets.official.Diving48Source"


@dataclass
class CharadesSource(OfficialSource):
    """Charades: Charades_v1_{train,test}.csv and Charades_v1_classes.txt over the videos."""

    _target_: str = "mvit_video.data.datasets.official.CharadesSource"
    entries: str = option(
        "videos",
        choices=("videos", "segments"),
        help="videos: each with all its actions (several labels); segments: an entry per action",
    )


@dataclass
class EpicKitchensSource(OfficialSource):
    """EPIC-Kitchens-100: segments of EPIC_100_{train,validation}.csv over the long videos."""

    _target_: str = "mvit_video.data.datasets.official.EpicKitchensSource"
    label: str = option(
        "verb", choices=("verb", "noun", "action"), help="what the classes are; action: each pair of verb and noun"
    )


@dataclass
class JesterSource(OfficialSource):
    """Jester: jester-v1-{train,validation,labels}.csv over folders of frames."""

    _target_: str = "mvit_video.data.datasets.official.JesterSource"
    frame_rate: float = option(12.0, above=0, help="frames per second of the folders")
