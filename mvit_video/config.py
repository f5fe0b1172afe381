"""The options of a run, with their types and defaults: the schema behind `conf/`.

Each dataclass is the schema of one config group. Hydra composes YAML files over these schemas, so a key that is not
here, or a value of another type, is refused while the command line is read; config_check refuses what types cannot
express.
The groups `model` and `data.source` carry a `_target_`, the function or class they configure; the fields beside it are
its arguments, so a user's own model or data source is a YAML file with another `_target_`.

This module imports neither torch nor the rest of the package, so that `--help` and `--cfg job` answer at once.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, SI


@dataclass
class MViT:
    """A preset of the MViT family. A field left at null keeps the preset's own value."""

    _target_: str = "mvit_video.models.create_model"
    name: str = MISSING
    num_classes: int | None = SI("${data.num_classes}")
    num_frames: int = SI("${data.num_frames}")
    crop_size: int = SI("${data.crop_size}")
    drop_path: float | None = None
    dropout: float | None = None
    rel_pos: str | None = None  # none | spatial | spatiotemporal
    pool_kernel: list[int] | None = None
    patch_kernel: list[int] | None = None
    head_pooling: str | None = None  # cls | norm_mean | mean_norm
    init: str | None = None  # pyslowfast | zero_bias | fan_in
    head_init_scale: float | None = None
    activation_checkpointing: bool = False


@dataclass
class Baseline:
    """A convolutional network of PyTorchVideo, trained and evaluated by the same pipeline."""

    _target_: str = "mvit_video.baselines.create_baseline"
    name: str = MISSING
    num_classes: int | None = SI("${data.num_classes}")
    num_frames: int = SI("${data.num_frames}")
    crop_size: int = SI("${data.crop_size}")
    dropout: float = 0.5


@dataclass
class ListSource:
    """PySlowFast lists: one `path label` a line."""

    _target_: str = "mvit_video.data.sources.ListSource"
    train: str | None = None
    val: str | None = None
    test: str | None = None  # null: the validation list
    root: str | None = None  # joined before relative paths
    separator: str = " "
    class_names_file: str | None = None
    num_classes: int | None = SI("${data.num_classes}")
    missing: str = "error"  # error | skip


@dataclass
class KineticsSource:
    """Kinetics annotation CSV files over folders of trimmed videos."""

    _target_: str = "mvit_video.data.sources.KineticsSource"
    train: str | None = None
    val: str | None = None
    test: str | None = None
    train_root: str | None = None
    val_root: str | None = None
    test_root: str | None = None
    class_names_file: str | None = None
    missing: str = "error"


@dataclass
class Ssv2Source:
    """Something-Something v2: the JSON annotations over one folder of webm files."""

    _target_: str = "mvit_video.data.sources.Ssv2Source"
    train: str | None = None
    val: str | None = None
    test: str | None = None
    labels: str = MISSING
    root: str = MISSING
    missing: str = "error"


@dataclass
class FolderSource:
    """One folder per class; the validation videos in folders of the same names."""

    _target_: str = "mvit_video.data.sources.FolderSource"
    train: str | None = None
    val: str | None = None
    test: str | None = None


@dataclass
class LabeledVideoPathsSource:
    """Labelled lists (or folders) as PyTorchVideo reads them."""

    _target_: str = "mvit_video.data.sources.LabeledVideoPathsSource"
    train: str | None = None
    val: str | None = None
    test: str | None = None
    root: str | None = None
    class_names_file: str | None = None
    num_classes: int | None = SI("${data.num_classes}")
    missing: str = "error"


@dataclass
class MotionSource:
    """The embedded set of time-reversed motions, generated on first use."""

    _target_: str = "mvit_video.data.sources.MotionSource"
    root: str = "data/motion"
    train_videos: int = 2400
    test_videos: int = 320
    seed: int = 0
    difficulty: float = 0.5
    workers: int | None = None  # null: one per core


@dataclass
class Data:
    """A data set, how clips are taken from its videos, and the views a test counts."""

    source: Any = MISSING
    num_classes: int | None = None  # null: as many as the training split has
    num_frames: int = MISSING
    sampling: str = "span"  # span: linspace over num_frames*sampling_rate at target_fps; segments: one frame a segment
    sampling_rate: float = 1.0
    target_fps: float = 30.0
    crop_size: int = 224
    mean: list[float] = field(default_factory=lambda: [0.45, 0.45, 0.45])
    std: list[float] = field(default_factory=lambda: [0.225, 0.225, 0.225])
    channel_order: str = "rgb"  # bgr: mean and std were applied to B, G, R (published SSv2-L)
    test_short_side: int = 256
    test_temporal_views: int = 1
    test_spatial_views: int = 1
    backend: str = "pyav"  # pyav | decord


@dataclass
class Augment:
    """Training augmentation: what is drawn per video and per batch."""

    crop: str = "resized"  # resized: random area and aspect; jitter: random short side, then a random crop
    scale: list[float] = field(default_factory=lambda: [0.08, 1.0])
    ratio: list[float] = field(default_factory=lambda: [0.75, 1.3333])
    jitter: list[int] = field(default_factory=lambda: [256, 320])
    inverse_uniform: bool = False
    decode_short_side: int | None = 256
    flip: float = 0.5
    randaugment: str | None = None
    erase_prob: float = 0.0
    repeats: int = 1  # augmented copies of each decoded clip
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    mix_prob: float = 1.0
    switch_prob: float = 0.5
    smoothing: float = 0.0


@dataclass
class Optim:
    """Optimizer. `lr` holds for `reference_batch` videos a step and scales with the real global batch."""

    name: str = "adamw"  # adamw | sgd
    lr: float = MISSING
    reference_batch: int = MISSING
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.05
    decay_1d: bool = False
    no_decay: list[str] = field(default_factory=list)
    layer_decay: float = 1.0
    clip_grad_norm: float | None = None


@dataclass
class Schedule:
    """Linear warm-up, then half a cosine; the learning rates are for `optim.reference_batch`, like `optim.lr`."""

    epochs: float = MISSING
    warmup_epochs: float = 0.0
    warmup_start_lr: float = 1e-8
    end_lr: float = 1e-6
    cosine_after_warmup: bool = False


@dataclass
class Trainer:
    """The loop: batch, precision, what is kept and how often."""

    batch_size: int = 2  # videos per process and forward pass
    accumulate: int = 1  # forward passes per optimizer step
    eval_batch_size: int = 8  # clips per process
    num_workers: int = 4  # loader processes per training process
    device: str = "auto"  # auto | cpu | cuda
    precision: str = "auto"  # auto: bf16 where the machine is fast at it
    threads: int | None = None  # CPU threads per process; null: cores / processes
    compile: bool = False
    ema_decay: float | None = None
    max_steps: int | None = None  # stop early, the schedule unchanged
    eval_every: int = 1  # epochs between validations; the last epoch is always validated
    checkpoint_every: int | None = None  # steps between checkpoints; null: every epoch
    keep_last: int = 2
    log_every: int = 10
    max_failed: float = 0.01  # share of unreadable training videos above which the run stops


@dataclass
class LocalLauncher:
    """Run on this machine: in this process, or in several that it starts."""

    name: str = "local"
    processes: int | None = None  # null: one per GPU, or one without GPUs


@dataclass
class SlurmLauncher:
    """Submit to SLURM through submitit."""

    name: str = "slurm"
    nodes: int = 1
    gpus_per_node: int = 8
    tasks_per_node: int | None = None  # null: gpus_per_node
    cpus_per_task: int = 8
    mem_gb: int | None = None
    time_min: int = 1440
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: list[str] = field(default_factory=list)  # shell lines run before Python starts
    sbatch: dict[str, str] = field(default_factory=dict)  # any other sbatch option
    dry_run: bool = False


@dataclass
class Train:
    """Everything a training run needs."""

    name: str = MISSING
    output_dir: str = "runs"
    seed: int = 0
    weights: str | None = None  # start from these weights; the class head may differ
    image_to_video: str | None = None  # published | corrected: how image weights become a video model's
    model: Any = MISSING
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    trainer: Trainer = field(default_factory=Trainer)
    launcher: Any = MISSING

    @property
    def run_dir(self) -> Path:
        """Folder of the run: `<output_dir>/<name>`."""
        return Path(self.output_dir) / self.name


@dataclass
class Evaluate(Train):
    """Everything an evaluation needs: the options of the training, the weights, the order of the frames."""

    checkpoint: str | None = None  # null: the run's best checkpoint
    use_ema: bool = True  # where the checkpoint holds averaged weights
    frame_order: str = "forward"  # forward | reversed | shuffled
    split: str = "test"  # test | val | train
    output: str | None = None  # null: <run>/evaluation, or <run>/evaluation_<frame_order>


def config_dir() -> str:
    """Folder of the YAML files: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    inside, beside = package / "conf", package.parent / "conf"
    if inside.is_dir():
        return str(inside)
    if beside.is_dir():
        return str(beside)
    raise FileNotFoundError(f"no configuration folder at {inside} or {beside}: reinstall mvit_video")


def register() -> None:
    """Make the schemas known to Hydra, under the names the YAML files use in their defaults lists."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=Train)
    store.store(name="evaluate_schema", node=Evaluate)
    for group, name, node in (
        ("model", "mvit_schema", MViT),
        ("model", "baseline_schema", Baseline),
        ("data", "data_schema", Data),
        ("augment", "augment_schema", Augment),
        ("optim", "optim_schema", Optim),
        ("schedule", "schedule_schema", Schedule),
        ("trainer", "trainer_schema", Trainer),
        ("launcher", "local_schema", LocalLauncher),
        ("launcher", "slurm_schema", SlurmLauncher),
        ("data/source", "list", ListSource),
        ("data/source", "kinetics", KineticsSource),
        ("data/source", "ssv2", Ssv2Source),
        ("data/source", "folder", FolderSource),
        ("data/source", "labeled_video_paths", LabeledVideoPathsSource),
        ("data/source", "motion", MotionSource),
    ):
        store.store(group=group, name=name, node=node)
