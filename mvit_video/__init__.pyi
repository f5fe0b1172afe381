# What type checkers and editors see: the names that __init__.py imports when they are first asked for.
from mvit_video.api import EvaluationResult as EvaluationResult
from mvit_video.api import TrainedRun as TrainedRun
from mvit_video.api import evaluate as evaluate
from mvit_video.api import train as train
from mvit_video.hub import from_pretrained as from_pretrained
from mvit_video.predictor import Predictor as Predictor

__version__: str
