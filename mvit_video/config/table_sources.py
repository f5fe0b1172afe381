"""The schemas of `data/source` for tables and for the official files of data sets; see config/__init__.py."""

from dataclasses import dataclass

from omegaconf import MISSING, SI


@dataclass
class TableSource:
    """Tables (CSV, TSV, JSON lines) with a row per video or segment."""

    _target_: str = "mvit_video.data.datasets.table.TableSource"
    table: str | None = None  # one table with a column split, or whose rows are all for training
    train: str | None = None  # or a table per split
    val: str | None = None
    test: str | None = None
    root: str | None = None  # joined before relative paths
    separator: str | None = None  # null: by the extension and the header
    path_column: str | None = None  # null: one of the usual names; of the others too, where "none" reads none
    label_column: str | None = None
    split_column: str | None = None
    start_column: str | None = None
    end_column: str | None = None
    group_column: str | None = None
    weight_column: str | None = None
    labels: str = "auto"  # auto: labels that are all whole numbers are numbers | names
    label_separator: str | None = None  # between several labels of a row: multi-label
    class_names_file: str | None = None
    num_classes: int | None = SI("${data.num_classes}")
    missing: str = "error"  # error | skip
    beyond: str = "error"  # segments beyond the end of their video: error | cut
    frame_rate: float | None = None  # of videos that are folders of pictures


@dataclass
class Ucf101Source:
    """UCF101: classInd.txt, trainlist0N.txt, testlist0N.txt over the videos."""

    _target_: str = "mvit_video.data.datasets.official.Ucf101Source"
    root: str = MISSING  # folder of the videos, which may lie anywhere below it
    annotations: str = MISSING  # folder of the official files
    missing: str = "error"  # error | skip
    split: int = 1  # 1 | 2 | 3


@dataclass
class Hmdb51Source:
    """HMDB51: CLASS_test_splitN.txt over the videos."""

    _target_: str = "mvit_video.data.datasets.official.Hmdb51Source"
    root: str = MISSING  # folder of the videos, which may lie anywhere below it
    annotations: str = MISSING  # folder of the official files
    missing: str = "error"  # error | skip
    split: int = 1  # 1 | 2 | 3


@dataclass
class Diving48Source:
    """Diving48 V2: Diving48_V2_{train,test}.json and Diving48_vocab.json over the videos."""

    _target_: str = "mvit_video.data.datasets.official.Diving48Source"
    root: str = MISSING  # folder of the videos, which may lie anywhere below it
    annotations: str = MISSING  # folder of the official files
    missing: str = "error"  # error | skip


@dataclass
class CharadesSource:
    """Charades: Charades_v1_{train,test}.csv and Charades_v1_classes.txt over the videos."""

    _target_: str = "mvit_video.data.datasets.official.CharadesSource"
    root: str = MISSING  # folder of the videos, which may lie anywhere below it
    annotations: str = MISSING  # folder of the official files
    missing: str = "error"  # error | skip
    entries: str = "videos"  # videos: each with all its actions (multi-label) | segments: an entry per action


@dataclass
class EpicKitchensSource:
    """EPIC-Kitchens-100: segments of EPIC_100_{train,validation}.csv over the long videos."""

    _target_: str = "mvit_video.data.datasets.official.EpicKitchensSource"
    root: str = MISSING  # folder of the videos, which may lie anywhere below it
    annotations: str = MISSING  # folder of the official files
    missing: str = "error"  # error | skip
    label: str = "verb"  # verb | noun | action


@dataclass
class JesterSource:
    """Jester: jester-v1-{train,validation,labels}.csv over folders of frames."""

    _target_: str = "mvit_video.data.datasets.official.JesterSource"
    root: str = MISSING  # folder of the videos, which may lie anywhere below it
    annotations: str = MISSING  # folder of the official files
    missing: str = "error"  # error | skip
    frame_rate: float = 12.0


SOURCES: dict[str, type] = {
    "table": TableSource,
    "ucf101": Ucf101Source,
    "hmdb51": Hmdb51Source,
    "diving48": Diving48Source,
    "charades": CharadesSource,
    "epic_kitchens": EpicKitchensSource,
    "jester": JesterSource,
}
