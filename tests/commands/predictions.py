"""What `python -m mvit_video.predict` does, in the process of a test."""

from hydra.core.override_parser.overrides_parser import OverridesParser

from mvit_video import predict
from mvit_video.build.prediction_job import predict as predict_job
from mvit_video.config import Predict
from mvit_video.config.check import to_object
from mvit_video.prediction.results import FilePrediction
from tests.composing import compose


def predicted(*words: str) -> list[FilePrediction]:
    """What `python -m mvit_video.predict` does with these words, in this process."""
    given, sources = predict.split_words(words)
    config = compose("predict", [*predict.groups(given), *given])
    keys = [override.key_or_group for override in OverridesParser.create().parse_overrides(given)]
    predict.adapt(config, keys, sources=sources)
    checked = to_object(config)
    assert isinstance(checked, Predict)
    return list(predict_job(checked))
