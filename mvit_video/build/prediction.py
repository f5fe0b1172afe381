"""A prediction, from its options to the model that makes it."""

import logging
from collections.abc import Sequence
from pathlib import Path

from mvit_video.build.class_prediction import ClassPredictor
from mvit_video.build.common import build_task_builder, load_model
from mvit_video.build.evaluation import training_state_of
from mvit_video.build.explanation import check_explainable
from mvit_video.build.file_predictor import FilePredictor, LoadedModel, predicting
from mvit_video.config import Predict
from mvit_video.data.datasets.class_names import numbered_names, read_class_names
from mvit_video.data.datasets.published_names import published_class_names
from mvit_video.distributed.process_group import World
from mvit_video.engine.checkpoints.files import sha256_of
from mvit_video.models.weights.zoo import zoo
from mvit_video.prediction.scoring import check_is_mvit

logger = logging.getLogger(__name__)
_NAMES_OPTION = "class_names=FILE (export and push: --class-names FILE)"


def build_predictor(config: Predict, world: World) -> FilePredictor:
    """The model of the options with its weights and its classes, ready to be asked about files.

    Raises:
        ValueError: the task cannot be asked about files, an option does not go with it, or the class names do not fit
            the weights.
    """
    assert config.checkpoint is not None  # taken from the run or given
    builder = build_task_builder(config)
    asked = predicting(builder)
    asked.check_prediction(config)
    checkpoint = Path(config.checkpoint)
    training = training_state_of(checkpoint)
    names = _class_names(config, checkpoint, training.get("class_names"))
    config.data.num_classes = len(names)
    model_options = config.model
    if isinstance(model_options, dict):
        if "num_classes" in model_options:
            model_options["num_classes"] = len(names)
    elif hasattr(model_options, "num_classes"):
        model_options.num_classes = len(names)
    model = load_model(config, world)
    if config.explain:
        check_explainable(model)
    if config.features:
        check_is_mvit(model, "features=true takes what enters the head")
    about = {"weights": config.checkpoint, "weights_sha256": sha256_of(checkpoint) if checkpoint.is_file() else None}
    loaded = LoadedModel(
        config=config,
        builder=builder,
        class_names=names,
        model=model,
        world=world,
        about={**about, "use_ema": config.use_ema},
        training=training,
    )
    return asked.predictor(loaded)


def naming_classes(predictor: FilePredictor, *, refused: str) -> ClassPredictor:
    """A predictor as one that names classes.

    Args:
        predictor: of any task.
        refused: what to say where it does something else.

    Raises:
        ValueError: it does something else.
    """
    if not isinstance(predictor, ClassPredictor):
        raise ValueError(refused)
    return predictor


def _class_names(config: Predict, checkpoint: Path, held: Sequence[object] | None) -> tuple[str, ...]:
    """The names of the model's classes: those given, or those that the checkpoint holds.

    Raises:
        ValueError: two of them do not fit together.
    """
    entry = zoo().get(config.weights or "")
    published = published_class_names(entry.classes) if entry is not None and entry.classes is not None else None
    known = tuple(str(name) for name in held) if held else published
    if config.class_names is None:
        if known is not None:
            return known
        count = config.data.num_classes
        if count is None:
            raise ValueError(
                f"{checkpoint} holds no class names, and data.num_classes is not set: give {_NAMES_OPTION} with one "
                "name a line, in the order of the model's outputs"
            )
        logger.warning(
            "%s holds no class names: its %d classes are called by their numbers, class 0 and so on; %s with one name "
            "a line gives them words",
            checkpoint,
            count,
            _NAMES_OPTION,
        )
        return numbered_names(count)
    given = read_class_names(config.class_names)
    expected = len(known) if known is not None else config.data.num_classes
    if expected is not None and len(given) != expected:
        raise ValueError(
            f"class_names={config.class_names}: has {len(given)} names, and the model of {checkpoint} {expected} "
            "classes; give one name a line for each, in the order of the model's outputs"
        )
    return given
