"""The page of a model on a hub, written of what its file says: classes, input, data, recipe, results, licence."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]

_SHOWN_CLASSES = 30
# Options that say most of a recipe; all of them are in the file.
_RECIPE = (
    "model.name", "schedule.epochs", "optim.name", "optim.lr", "optim.reference_batch", "optim.weight_decay",
    "optim.layer_decay", "optim.frozen", "trainer.global_batch", "trainer.precision", "trainer.ema_decay",
    "augment.randaugment", "augment.mixup_alpha", "augment.cutmix_alpha", "augment.repeats", "data.sampling_weights",
    "seed",
)  # fmt: skip


def model_card(about: Mapping[str, Any], *, title: str, repo: str, files: Sequence[str], licence: str | None) -> str:
    """Markdown with its YAML header.

    Args:
        about: what the file says of itself, see about.py.
        title: of the page.
        repo: name on the hub, for the lines to copy.
        files: names of the files beside the page.
        licence: of the weights, by the hub's short names, such as "apache-2.0"; None: not stated.
    """
    kind = about["preprocessing"]["kind"]
    header = {
        **({} if licence is None else {"license": licence}),
        "library_name": "mvit_video",
        "pipeline_tag": f"{kind}-classification",
        "tags": ["mvit", "mvitv2", f"{kind}-classification"],
    }
    sections = [
        f"# {_plain(title)}",
        _summary(about),
        "## Use\n\n" + _use(about, repo, files),
        "## Input\n\n" + _input(about["preprocessing"]),
        "## Classes\n\n" + _classes(about["class_names"]),
        "## Data\n\n" + "\n".join(_data(about)),
        "## Recipe\n\n" + "\n".join(_recipe(about["config"])),
        "## Results\n\n" + "\n".join(_results(about.get("results") or {})),
        "## Licence\n\n" + _licence(about, licence),
    ]
    return f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n" + "\n\n".join(sections) + "\n"


def _summary(about: Mapping[str, Any]) -> str:
    shape = about["preprocessing"]["input"]["shape"]
    several = about["preprocessing"]["output"]["scores"] == "sigmoid"
    name = (about["config"].get("model") or {}).get("name") or "a network"
    return (
        f"{_code(name)}, which names {'any' if several else 'one'} of {len(about['class_names'])} classes of "
        f"{'a video' if about['preprocessing']['kind'] == 'video' else 'an image'}. Inputs are "
        f"{' x '.join(map(str, shape))} ({', '.join(about['preprocessing']['input']['axes'])}), weights "
        f"{about['precision']}. Written by mvit_video {about['mvit_video']}."
    )


def _use(about: Mapping[str, Any], repo: str, files: Sequence[str]) -> str:
    kind = about["preprocessing"]["kind"]
    example = "video.mp4" if kind == "video" else "image.jpg"
    lines = [
        "```python",
        "from mvit_video import Predictor",
        "",
        f"predictor = Predictor.from_pretrained({json.dumps(repo)})",
        f'for one in predictor("{example}").predictions:',
        "    print(one.name, one.score)",
        "```",
        "",
        f"`mvit_video.from_pretrained({json.dumps(repo)})` is the network alone. "
        f"Files: {', '.join(map(_code, files))}. Each holds preprocessing, class names and recipe in its metadata.",
    ]
    return "\n".join(lines)


def _input(preprocessing: Mapping[str, Any]) -> str:
    values, views = preprocessing["input"], preprocessing["views"]
    rows = {"values": f"{values['values']}, mean {values['mean']}, std {values['std']}, {values['channels']}"}
    rows |= {key.replace("_", " "): value for key, value in views.items() if key != "frame_order"}
    rows["scores"] = f"{preprocessing['output']['scores']} of the outputs, {preprocessing['output']['of_views']}"
    return "\n".join(["| | |", "|---|---|", *(f"| {_plain(k)} | {_plain(_text(v))} |" for k, v in rows.items())])


def _classes(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_CLASSES} more, all in the file" if len(names) > _SHOWN_CLASSES else ""
    return ", ".join(_code(name) for name in names[:_SHOWN_CLASSES]) + more


def _data(about: Mapping[str, Any]) -> Iterator[str]:
    splits = (about.get("run") or {}).get("data") or {}
    if not splits:
        yield "The file says nothing of the data that the weights were trained on."
        return
    yield "| split | items | fingerprint of names and labels |\n|---|---|---|"
    for name, split in splits.items():
        yield f"| {_plain(name)} | {split['items']} | {_code(split['fingerprint'])} |"


def _recipe(config: Mapping[str, Any]) -> Iterator[str]:
    yield "| option | value |\n|---|---|"
    for key in _RECIPE:
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            yield f"| {_code(key)} | {_plain(_text(value))} |"


def _results(results: Mapping[str, Any]) -> Iterator[str]:
    if not results:
        yield "Nothing was measured with these weights, or it is not on record."
        return
    for name, numbers in results.items():
        if name == "precision_cost":
            continue
        shown = ", ".join(f"{_plain(key)} {_text(value)}" for key, value in numbers.items())
        yield f"- **{_plain(name)}**: {shown}"
    cost = results.get("precision_cost")
    if cost is not None:
        yield f"- **cost of the precision**, on {_plain(cost['on'])}: {_plain(_text(cost))}"


def _licence(about: Mapping[str, Any], licence: str | None) -> str:
    origin = about.get("origin") or {}
    parts = [f"The weights: {_plain(licence)}." if licence else "No licence was stated for these weights: ask first."]
    if origin.get("licence"):
        parts.append(
            f"They are {_code(origin['name'])} of {_plain(origin['publisher'])} ({origin['source']}), whose licence is "
            f"{_plain(origin['licence'])}."
        )
    if origin.get("started_from"):
        parts.append(
            f"The training started from {_code(origin['started_from'])}, whose licence holds for what was made of it."
        )
    return " ".join(parts)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _plain(text: object) -> str:
    """Text without what Markdown and HTML take for markup."""
    found = " ".join(str(text).split())
    for sign in "\\`*_|[]":
        found = found.replace(sign, f"\\{sign}")
    return found.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(text: object) -> str:
    """Text as code; where that is not possible, plain."""
    found = " ".join(str(text).split())
    return _plain(found) if "`" in found or "|" in found else f"`{found}`"
