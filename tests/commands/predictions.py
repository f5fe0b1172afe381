"""What `python -m mvit_video.predict` does, in the process of a test."""

from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from mvit_video import predict
from mvit_video.build.prediction_job import predict as predict_job
from mvit_video.config import Predict, config_dir, register
from mvit_video.config.check import to_object
from mvit_video.prediction.results import FilePrediction


def composed(command: str, words: Sequence[str]) -> Any:
    register()
    with initialize_config_dir(config_dir(), version_base="1.3"):
        return compose(command, overrides=list(words))


def predicted(*words: str) -> list[FilePrediction]:
    """What `python -m mvit_video.predict` does with these words, in this process."""
    given, sources = predict.split_words(words)
    config = composed("predict", [*predict.groups(given), *given])
    keys = [override.key_or_group for override in OverridesParser.create().parse_overrides(given)]
    predict.adapt(config, keys, sources=sources)
    checked = to_object(config)
    assert isinstance(checked, Predict)
    return list(predict_job(checked))
