"""What the page of a model that names classes says in its own way: see model_card.py."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mvit_video.exporting.markdown import plain, text


class ClassCard:
    """A `Card` of model_card.py.

    Args:
        about: what the file says of itself.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        self.about = about
        self.preprocessing: Mapping[str, Any] = about["preprocessing"]
        self.noun: str = self.preprocessing["kind"]

    @property
    def tags(self) -> tuple[str, ...]:
        """See Card."""
        return (f"{self.noun}-classification",)

    def summary(self) -> str:
        """See Card."""
        values = self.preprocessing["input"]
        several = self.preprocessing["output"]["scores"] == "sigmoid"
        return (
            f"names {'any' if several else 'one'} of {len(self.about['class_names'])} classes of "
            f"{'a video' if self.noun == 'video' else 'an image'}. Inputs are {' x '.join(map(str, values['shape']))} "
            f"({', '.join(values['axes'])})"
        )

    def use(self, repo: str) -> Sequence[str]:
        """See Card."""
        example = "video.mp4" if self.noun == "video" else "image.jpg"
        return (
            f"predictor = Predictor.from_pretrained({json.dumps(repo)})",
            f'for one in predictor("{example}").predictions:',
            "    print(one.name, one.score)",
        )

    def inputs(self) -> Mapping[str, object]:
        """See Card."""
        values, output = self.preprocessing["input"], self.preprocessing["output"]
        views = {key: value for key, value in self.preprocessing["views"].items() if key != "frame_order"}
        return {
            "values": f"{values['values']}, mean {values['mean']}, std {values['std']}, {values['channels']}",
            **views,
            "scores": f"{output['scores']} of the outputs, {output['of_views']}",
        }

    def results(self, results: Mapping[str, Any]) -> Iterator[str]:
        """See Card."""
        for name, numbers in results.items():
            if name == "precision_cost":
                continue
            shown = ", ".join(f"{plain(key)} {text(value)}" for key, value in numbers.items())
            yield f"- **{plain(name)}**: {shown}"
        cost = results.get("precision_cost")
        if cost is not None:
            yield f"- **cost of the precision**, on {plain(cost['on'])}: {plain(text(cost))}"
