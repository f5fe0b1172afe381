"""The page of a model on a hub, written of what its file says: classes, input, data, recipe, results, licence."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import yaml  # type: ignore[import-untyped]

from mvit_video.exporting.class_card import ClassCard
from mvit_video.exporting.markdown import code, plain, text
from mvit_video.exporting.object_card import ObjectCard

_SHOWN_CLASSES = 30
# Options that say most of a recipe; all of them are in the file.
_RECIPE = (
    "model.name", "schedule.epochs", "optim.name", "optim.lr", "optim.reference_batch", "optim.weight_decay",
    "optim.layer_decay", "optim.frozen", "trainer.global_batch", "trainer.precision", "trainer.ema_decay",
    "augment.view", "augment.randaugment", "augment.mixup_alpha", "augment.cutmix_alpha", "augment.repeats",
    "data.sampling_weights", "seed",
)  # fmt: skip


class Card(Protocol):
    """What pages say in different ways.

    Attributes:
        tags: of the hub; the first is the kind of task.
    """

    @property
    def tags(self) -> tuple[str, ...]: ...

    def summary(self) -> str:
        """What the model does and takes, after its name."""
        ...

    def use(self, repo: str) -> Sequence[str]:
        """Lines of Python, after the import of Predictor."""
        ...

    def inputs(self) -> Mapping[str, object]:
        """What an input is, by its name."""
        ...

    def results(self, results: Mapping[str, Any]) -> Iterator[str]:
        """What was measured, in Markdown."""
        ...


# By what the file says of its task; classifiers of earlier versions say nothing.
_CARDS: Mapping[str, Callable[[Mapping[str, Any]], Card]] = {"classification": ClassCard, "detection": ObjectCard}


def model_card(about: Mapping[str, Any], *, title: str, repo: str, files: Sequence[str], licence: str | None) -> str:
    """Markdown with its YAML header.

    Args:
        about: what the file says of itself, see about.py.
        title: of the page.
        repo: name on the hub, for the lines to copy.
        files: names of the files beside the page.
        licence: of the weights, by the hub's short names, such as "apache-2.0"; None: not stated.
    """
    card = _CARDS[about["preprocessing"].get("task", "classification")](about)
    header = {
        **({} if licence is None else {"license": licence}),
        "library_name": "mvit_video",
        "pipeline_tag": card.tags[0],
        "tags": ["mvit", "mvitv2", *card.tags],
    }
    results = about.get("results") or {}
    sections = [
        f"# {plain(title)}",
        _summary(about, card),
        "## Use\n\n" + _use(card, repo, files),
        "## Input\n\n" + _table({key.replace("_", " "): value for key, value in card.inputs().items()}),
        "## Classes\n\n" + _classes(about["class_names"]),
        "## Data\n\n" + "\n".join(_data(about)),
        "## Recipe\n\n" + "\n".join(_recipe(about["config"])),
        "## Results\n\n" + ("\n".join(card.results(results)) if results else _UNMEASURED),
        "## Licence\n\n" + _licence(about, licence),
    ]
    return f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n" + "\n\n".join(sections) + "\n"


_UNMEASURED = "Nothing was measured with these weights, or it is not on record."


def _summary(about: Mapping[str, Any], card: Card) -> str:
    name = (about["config"].get("model") or {}).get("name") or "a network"
    return (
        f"{code(name)}, which {card.summary()}, weights {about['precision']}. Written by mvit_video "
        f"{about['mvit_video']}."
    )


def _use(card: Card, repo: str, files: Sequence[str]) -> str:
    lines = [
        "```python",
        "from mvit_video import Predictor",
        "",
        *card.use(repo),
        "```",
        "",
        f"`mvit_video.from_pretrained({json.dumps(repo)})` is the network alone. "
        f"Files: {', '.join(map(code, files))}. Each holds preprocessing, class names and recipe in its metadata.",
    ]
    return "\n".join(lines)


def _table(rows: Mapping[str, object]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {plain(k)} | {plain(text(v))} |" for k, v in rows.items())])


def _classes(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_CLASSES} more, all in the file" if len(names) > _SHOWN_CLASSES else ""
    return ", ".join(code(name) for name in names[:_SHOWN_CLASSES]) + more


def _data(about: Mapping[str, Any]) -> Iterator[str]:
    splits = (about.get("run") or {}).get("data") or {}
    if not splits:
        yield "The file says nothing of the data that the weights were trained on."
        return
    yield "| split | items | fingerprint of names and labels |\n|---|---|---|"
    for name, split in splits.items():
        yield f"| {plain(name)} | {split['items']} | {code(split['fingerprint'])} |"


def _recipe(config: Mapping[str, Any]) -> Iterator[str]:
    yield "| option | value |\n|---|---|"
    for key in _RECIPE:
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            yield f"| {code(key)} | {plain(text(value))} |"


def _licence(about: Mapping[str, Any], licence: str | None) -> str:
    origin = about.get("origin") or {}
    parts = [f"The weights: {plain(licence)}." if licence else "No licence was stated for these weights: ask first."]
    if origin.get("licence"):
        parts.append(
            f"They are {code(origin['name'])} of {plain(origin['publisher'])} ({origin['source']}), whose licence is "
            f"{plain(origin['licence'])}."
        )
    if origin.get("started_from"):
        parts.append(
            f"The training started from {code(origin['started_from'])}, whose licence holds for what was made of it."
        )
    return " ".join(parts)
