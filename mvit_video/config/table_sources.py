"""The schemas of `data/source` for tables and for the official files of data sets; see config/__init__.py."""

from dataclasses import dataclass

from omegaconf import SI


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


SOURCES: dict[str, type] = {"table": TableSource}
