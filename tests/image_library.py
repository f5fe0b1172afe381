"""A miniature ImageNet, and the forms in which ImageNet is stored: folders, a list, tar shards, Parquet."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mvit_video.data.datasets.shards import ShardWriter

WNIDS = ("n01440764", "n01443537", "n02099601")
NAMES = ("n01440764 tench", "n01443537 goldfish", "n02099601 golden retriever")
Images = Mapping[str, tuple[bytes, int]]  # "n01440764_0" -> its file, its class


def jpeg(seed: int, *, side: int = 40) -> bytes:
    """A small JPEG whose pixels are drawn from a seed."""
    coarse = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((side + 8, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
    return file.getvalue()


def images(per_class: int, *, first: int = 0, classes: int = len(WNIDS)) -> Images:
    """So many images of each class, in the sorted order of class and name."""
    return {
        f"{WNIDS[label]}_{number}": (jpeg(1000 * label + first + number), label)
        for label in range(classes)
        for number in range(per_class)
    }


def write_folders(folder: Path, content: Images, *, names: Sequence[str] = WNIDS) -> Path:
    """A folder per class."""
    for name, (data, label) in content.items():
        (folder / names[label]).mkdir(parents=True, exist_ok=True)
        (folder / names[label] / f"{name}.JPEG").write_bytes(data)
    return folder


def write_flat(folder: Path, content: Images) -> Path:
    """All images in one folder."""
    folder.mkdir(parents=True)
    for name, (data, _) in content.items():
        (folder / f"{name}.JPEG").write_bytes(data)
    return folder


def write_list(path: Path, content: Images) -> Path:
    """The images in a folder beside a list of `path label`."""
    write_flat(path.with_suffix(""), content)
    path.write_text("".join(f"{path.stem}/{name}.JPEG {label}\n" for name, (_, label) in content.items()))
    return path


def write_shards(
    folder: Path, content: Images, *, prefix: str = "train", per_shard: int = 5, json_labels: bool = False
) -> Path:
    """Tar shards in the WebDataset convention, two or three members an image."""
    with ShardWriter(folder, prefix=prefix, max_videos=2 * per_shard) as writer:
        for name, (data, label) in content.items():
            writer.add(f"{name}.jpg", data)
            if json_labels:
                writer.add(f"{name}.json", json.dumps({"label": label, "filename": name}).encode())
            else:
                writer.add(f"{name}.cls", f"{label}\n".encode())
    return folder


def write_parquet(
    folder: Path, content: Images, *, prefix: str = "train", rows: int = 4, names: Sequence[str] | None = WNIDS
) -> Path:
    """Two Parquet files as the Hub has them: structs of bytes and path, class names in the metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    feature = {"_type": "ClassLabel"} if names is None else {"_type": "ClassLabel", "names": list(names)}
    features = {"image": {"_type": "Image"}, "label": feature}
    schema = pa.schema(
        [("image", image), ("label", pa.int64())],
        metadata={} if names is None else {"huggingface": json.dumps({"info": {"features": features}})},
    )
    items = list(content.items())
    half = (len(items) + 1) // 2
    for number, part in enumerate((items[:half], items[half:])):
        table = pa.table(
            {
                "image": [{"bytes": data, "path": f"{name}.JPEG"} for name, (data, _) in part],
                "label": [label for _, (_, label) in part],
            },
            schema=schema,
        )
        pq.write_table(table, folder / f"{prefix}-{number:05d}-of-00002.parquet", row_group_size=rows)
    return folder
