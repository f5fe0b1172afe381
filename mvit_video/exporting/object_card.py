"""What the page of a detector says in its own way: see model_card.py."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mvit_video.exporting.markdown import plain, text

# Of COCO's numbers those that most tables show, with their heads.
_COLUMNS = {
    "box_ap": "box AP",
    "box_ap50": "at .50",
    "box_ap75": "at .75",
    "mask_ap": "mask AP",
    "mask_ap50": "at .50",
    "mask_ap75": "at .75",
    "num_images": "images",
}
_FURTHER = ("step", "split", "measured_by")


class ObjectCard:
    """A `Card` of model_card.py.

    Args:
        about: what the file says of itself.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        self.about = about
        self.preprocessing: Mapping[str, Any] = about["preprocessing"]
        self.masks = self.preprocessing["output"]["masks"] is not None

    @property
    def tags(self) -> tuple[str, ...]:
        """See Card."""
        return ("object-detection", "instance-segmentation") if self.masks else ("object-detection",)

    def summary(self) -> str:
        """See Card."""
        what = "boxes and masks" if self.masks else "boxes"
        return f"finds {what} of objects of {len(self.about['class_names'])} classes in images of any size"

    def use(self, repo: str) -> Sequence[str]:
        """See Card."""
        return (
            f"predictor = Predictor.from_pretrained({json.dumps(repo)})",
            'for one in predictor("image.jpg").predictions:',
            f"    print(one.name, one.score, one.box{', one.mask' if self.masks else ''})",
        )

    def inputs(self) -> Mapping[str, object]:
        """See Card."""
        values, output = self.preprocessing["input"], self.preprocessing["output"]
        return {
            "values": f"{values['values']}, mean {values['mean']}, std {values['std']}, {values['channels']}",
            **self.preprocessing["views"],
            **{key: value for key, value in output.items() if value is not None},
        }

    def results(self, results: Mapping[str, Any]) -> Iterator[str]:
        """See Card: COCO's average precisions, per cent."""
        rows = {name: numbers for name, numbers in results.items() if name != "precision_cost"}
        cost = results.get("precision_cost") or {}
        rows |= {f"{name}, on {cost['on']}": numbers for name, numbers in cost.items() if name != "on"}
        scored = {name: numbers for name, numbers in rows.items() if not _COLUMNS.keys().isdisjoint(numbers)}
        if scored:
            columns = [key for key in _COLUMNS if any(key in numbers for numbers in scored.values())]
            yield "Average precision as COCO computes it, per cent.\n"
            yield f"| | {' | '.join(_COLUMNS[key] for key in columns)} |\n|---|{'---|' * len(columns)}"
            for name, numbers in scored.items():
                yield f"| {plain(_title(name, numbers))} | {' | '.join(_cell(numbers.get(key)) for key in columns)} |"
        for name in (name for name in rows if name not in scored):
            yield f"\n**{plain(name)}**: {', '.join(f'{plain(k)} {text(v)}' for k, v in rows[name].items())}"


def _title(name: str, numbers: Mapping[str, Any]) -> str:
    """What was measured, with what else is said of it."""
    more = ", ".join(f"{key.replace('_', ' ')} {numbers[key]}" for key in _FURTHER if key in numbers)
    return f"{name} ({more})" if more else name


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else plain(value)
