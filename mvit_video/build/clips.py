"""From options to the clips of videos: data sets, loaders, views."""

from mvit_video.build.common import pair
from mvit_video.build.samples import build_loader, build_loading, build_normalization
from mvit_video.config import Predict, Train, VideoAugment, VideoData
from mvit_video.data.augmentation.transforms import TrainTransform
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.segments import SlidingWindows
from mvit_video.data.loading.batch import FrameOrder
from mvit_video.data.loading.dataset import DecodeOptions, EvalDataset, TrainDataset
from mvit_video.data.loading.loader import TrainLoader
from mvit_video.data.loading.window_dataset import WindowDataset
from mvit_video.data.sampling import ClipSampler
from mvit_video.distributed.process_group import World
from mvit_video.tasks.classification import ViewEvaluation


def video_data(config: Train) -> VideoData:
    """The options of the group `data`.

    Raises:
        ValueError: they are those of images.
    """
    if not isinstance(config.data, VideoData):
        raise ValueError("the task is for videos, and data=... is a data set of images: give task=image_classification")
    return config.data


def video_augment(config: Train) -> VideoAugment:
    """The options of the group `augment`.

    Raises:
        ValueError: they are those of images.
    """
    if not isinstance(config.augment, VideoAugment):
        raise ValueError("the task is for videos, and augment=... is for images: give augment=kinetics, or another one")
    return config.augment


def build_sampler(data: VideoData) -> ClipSampler:
    """How clips are taken from videos."""
    return ClipSampler(
        num_frames=data.num_frames,
        sampling_rate=data.sampling_rate,
        target_fps=data.target_fps,
        mode=data.sampling,  # type: ignore[arg-type]
    )


def build_train_loader(config: Train, manifest: Manifest, world: World) -> TrainLoader:
    """Endless training batches of this rank."""
    augment, data = video_augment(config), video_data(config)
    transform = TrainTransform(
        crop_size=data.crop_size,
        crop=augment.crop,  # type: ignore[arg-type]
        scale=pair(augment.scale),
        ratio=pair(augment.ratio),
        jitter=(augment.jitter[0], augment.jitter[1]),
        inverse_uniform=augment.inverse_uniform,
        flip=augment.flip,
        randaugment=augment.randaugment,
        erase_prob=augment.erase_prob,
        decode_short_side=augment.decode_short_side,
        channel_order=augment.channel_order,  # type: ignore[arg-type]
    )
    dataset = TrainDataset(
        manifest,
        sampler=build_sampler(data),
        transform=transform,
        repeats=augment.repeats,
        seed=config.seed,
        decoding=build_decoding(config),
    )
    return build_loader(config, dataset, world)


def build_decoding(config: Train) -> DecodeOptions:
    """How files are read, and where clips are made of their frames."""
    data = video_data(config)
    return DecodeOptions(
        backend=data.backend,  # type: ignore[arg-type]
        layout=data.layout,  # type: ignore[arg-type]
        device=video_augment(config).device,  # type: ignore[arg-type]
        time_limit_s=data.video_time_limit_s,
    )


def build_eval_dataset(
    config: Train,
    manifest: Manifest,
    *,
    temporal_views: int,
    spatial_views: int,
    frame_order: FrameOrder = "forward",
) -> EvalDataset:
    """The views of a split."""
    data = video_data(config)
    return EvalDataset(
        manifest,
        sampler=build_sampler(data),
        temporal_views=temporal_views,
        spatial_views=spatial_views,
        short_side=data.test_short_side,
        crop_size=data.crop_size,
        decode_short_side=video_augment(config).decode_short_side,
        frame_order=frame_order,
        seed=config.seed,
        decoding=build_decoding(config),
    )


def build_evaluation(
    config: Train,
    manifest: Manifest,
    world: World,
    *,
    temporal_views: int,
    spatial_views: int,
    frame_order: FrameOrder = "forward",
) -> ViewEvaluation:
    """The views of a split, scored once each."""
    dataset = build_eval_dataset(
        config, manifest, temporal_views=temporal_views, spatial_views=spatial_views, frame_order=frame_order
    )
    return ViewEvaluation(
        dataset,
        normalization=build_normalization(config.data),
        clips_per_batch=config.trainer.eval_batch_size,
        loading=build_loading(config, world),
    )


def build_window_dataset(config: Predict, manifest: Manifest) -> WindowDataset:
    """The windows of videos, of which one sample has as many as a batch of an evaluation has clips.

    Raises:
        ValueError: the length of a window is not known.
    """
    data, sampler = video_data(config), build_sampler(config.data)  # type: ignore[arg-type]
    length = config.window_s
    if length is None:
        frames = sampler.span(sampler.target_fps)
        if frames is None:
            raise ValueError(
                "windows=true with data.sampling=segments: a clip of such a model has the length of the whole video, "
                "whatever that is; give window_s=SECONDS, about the length of the videos it was trained on"
            )
        length = frames / sampler.target_fps
    return WindowDataset(
        manifest,
        windows=SlidingWindows(length_s=length, stride_s=length * (1 - config.overlap)),
        group=max(1, config.trainer.eval_batch_size // data.test_spatial_views),
        sampler=sampler,
        spatial_views=data.test_spatial_views,
        short_side=data.test_short_side,
        crop_size=data.crop_size,
        decode_short_side=video_augment(config).decode_short_side,
        decoding=build_decoding(config),
    )
