"""What is known of weights besides their tensors: where they come from, and which accuracies were measured."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvit_video.build.stored_options import options_of
from mvit_video.config import Predict
from mvit_video.engine.checkpoints.files import read_manifest, sha256_of
from mvit_video.exporting.about import SUFFIXES, read_about
from mvit_video.models.weights.files import CheckpointError
from mvit_video.models.weights.zoo import zoo

_EVALUATED = ("frame_order", "temporal_views", "spatial_views", "split")


def origin_of(config: Predict) -> dict[str, Any]:
    """Where the weights come from: name and sha256 of their file; of published ones source and licence."""
    assert config.checkpoint is not None
    checkpoint = Path(config.checkpoint)
    found: dict[str, Any] = {
        "run": config.name,
        "file": checkpoint.name,
        "sha256": sha256_of(checkpoint) if checkpoint.is_file() else None,
    }
    started_from = (options_of(checkpoint, None) or {}).get("weights")
    if started_from is not None:
        found["started_from"] = started_from
    before = _said_before(checkpoint).get("origin")
    if before is not None:
        found["exported_from"] = before
    entry = zoo().get(config.weights or "")
    if entry is not None:
        found |= {"name": entry.name, "publisher": entry.publisher, "source": entry.source, "licence": entry.licence}
    return found


def without_paths(about: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of itself without absolute paths of this machine; those of the data are then to be given."""
    options, run = dict(about["config"]), about.get("run")
    for key, value in options.items():
        options[key] = _without_paths(value, "???" if key == "data" else None)
    found = {**about, "config": options, "origin": _without_paths(about["origin"], None)}
    if run is not None:
        splits = {
            name: {**split, "source": Path(str(split["source"])).name}
            for name, split in (run.get("data") or {}).items()
        }
        found["run"] = {**run, "data": splits}
    return found


def _without_paths(value: Any, instead: str | None) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_paths(item, instead) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item, instead) for item in value]
    if isinstance(value, str) and (os.path.isabs(value) or value.startswith("~")):
        return instead
    return value


def measured_results(config: Predict) -> dict[str, Any]:
    """Accuracies that were measured with these weights: of the last validation, of evaluations, or as published."""
    assert config.checkpoint is not None
    checkpoint = Path(config.checkpoint)
    found: dict[str, Any] = dict(_said_before(checkpoint).get("results") or {})
    found.pop("precision_cost", None)
    entry = zoo().get(config.weights or "")
    if entry is not None and entry.accuracy:
        found["published"] = dict(entry.accuracy)
    manifest = read_manifest(checkpoint)
    if manifest is not None:
        found["validation"] = {"step": manifest.step, **_numbers(manifest.metrics)}
    run_dir = checkpoint.parent.parent
    if checkpoint.is_file() and (run_dir / "config.yaml").is_file():
        digest = sha256_of(checkpoint)
        for path in sorted(run_dir.glob("evaluation*/results.json")):
            results = json.loads(path.read_text(encoding="utf-8"))
            if results.get("weights_sha256") == digest:
                found[path.parent.name] = _numbers(results) | {
                    key: results[key] for key in _EVALUATED if key in results
                }
    return found


def _said_before(checkpoint: Path) -> dict[str, Any]:
    """What an exported file says of itself that is exported again; nothing for other files."""
    if checkpoint.suffix != SUFFIXES["safetensors"]:
        return {}
    try:
        return read_about(checkpoint)
    except CheckpointError:  # of convert, or of others
        return {}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The scores and counts among values: accuracies in per cent. NaN, of what there was none to find, is left out."""
    return {
        name: value
        for name, value in values.items()
        if name.startswith(("num_", "number_")) or (isinstance(value, float) and not math.isnan(value))
    }
