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

from mvit_video.config.table_sources import SOURCES


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
    activation_checkpointing: Any = False  # recomputed blocks: false | true | the first n | a list of indices
    activation_budget_gb: float | None = None  # or: the fewest of them that keep activations under so many 10^9 bytes


@dataclass
class Baseline:
    """A convolutional network of PyTorchVideo, trained and evaluated by the same pipeline."""

    _target_: str = "mvit_video.interop.baselines.create_baseline"
    name: str = MISSING
    num_classes: int | None = SI("${data.num_classes}")
    num_frames: int = SI("${data.num_frames}")
    crop_size: int = SI("${data.crop_size}")
    dropout: float = 0.5


@dataclass
class ListSource:
    """PySlowFast lists: one `path label` a line."""

    _target_: str = "mvit_video.data.datasets.sources.ListSource"
    train: str | None = None
    val: str | None = None
    test: str | None = None  # null: the validation list
    root: str | None = None  # joined before relative paths
    separator: str = " "
    class_names_file: str | None = None
    num_classes: int | None = SI("${data.num_classes}")
    missing: str = "error"  # error | skip
    frame_rate: float | None = None  # of entries that are folders of pictures


@dataclass
class KineticsSource:
    """Kinetics annotation CSV files over folders of trimmed videos."""

    _target_: str = "mvit_video.data.datasets.sources.KineticsSource"
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

    _target_: str = "mvit_video.data.datasets.sources.Ssv2Source"
    train: str | None = None
    val: str | None = None
    test: str | None = None
    labels: str = MISSING
    root: str = MISSING
    missing: str = "error"
    frame_rate: float | None = None  # null: webm files; else the videos are folders of extracted frames


@dataclass
class FolderSource:
    """One folder per class; the validation videos in folders of the same names."""

    _target_: str = "mvit_video.data.datasets.sources.FolderSource"
    train: str | None = None
    val: str | None = None
    test: str | None = None
    frame_rate: float | None = None  # of videos that are folders of pictures


@dataclass
class LabeledVideoPathsSource:
    """Labelled lists (or folders) as PyTorchVideo reads them."""

    _target_: str = "mvit_video.data.datasets.sources.LabeledVideoPathsSource"
    train: str | None = None
    val: str | None = None
    test: str | None = None
    root: str | None = None
    class_names_file: str | None = None
    num_classes: int | None = SI("${data.num_classes}")
    missing: str = "error"


@dataclass
class IndexSource:
    """Prepared splits: the index files that mvit_video.prepare writes."""

    _target_: str = "mvit_video.data.datasets.sources.IndexSource"
    train: str | None = None
    val: str | None = None
    test: str | None = None
    root: str | None = None  # where the videos or shards are now, if they were moved


@dataclass
class MotionSource:
    """The embedded set of time-reversed motions, generated on first use."""

    _target_: str = "mvit_video.data.datasets.sources.MotionSource"
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
    holdout: float | None = None  # share of the training split to validate on, where there is no validation split
    folds: int | None = None  # or: so many folds of the training split, one of which is validated on
    fold: int | None = None  # which: 0 .. folds - 1
    split_seed: int = 0  # of holdout and folds; the run's own seed has no part in them
    group_pattern: str | None = None  # regular expression that finds in a path what must not be split, such as _g(\d+)_
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
    backend: str = "pyav"  # pyav (exact) | decord | torchcodec (docs/data.md says where these are not)
    layout: str = "rgb"  # yuv420: frames travel as the decoder makes them, half the bytes (backend pyav)
    video_time_limit_s: float | None = 120.0  # a video that takes longer counts as broken (backend pyav); null: none
    prefetch: int = 2  # batches each loader process works ahead
    worker_timeout_s: float = 300.0  # without a batch for so long the run ends, naming the files being read; 0: never
    shard_window: int = 16  # tar shards read at a time


@dataclass
class Augment:
    """Training augmentation: what is drawn per video and per batch."""

    crop: str = "resized"  # resized: random area and aspect; jitter: random short side, then a random crop
    scale: list[float] = field(default_factory=lambda: [0.08, 1.0])
    ratio: list[float] = field(default_factory=lambda: [0.75, 1.3333])
    jitter: list[int] = field(default_factory=lambda: [256, 320])
    inverse_uniform: bool = False
    decode_short_side: int | None = 256
    device: str = "worker"  # where clips and test views are made: worker (loader processes) | model (its device)
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
    strategy: str = "ddp"  # several processes: ddp, the model whole in each; fsdp, divided among them (for L and H)
    compile: bool = False
    ema_decay: float | None = None
    max_steps: int | None = None  # stop early, the schedule unchanged
    eval_every: int = 1  # epochs between validations; the last epoch is always validated
    checkpoint_every: int | None = None  # steps between checkpoints; null: every epoch
    checkpoint_async: bool = True  # write checkpoints while training goes on
    keep_last: int = 2
    log_every: int = 10
    stall_timeout_s: float = 1800.0  # a process in which no step (or validation batch) ends for so long exits; 0: never
    collective_timeout_s: float = 600.0  # ranks wait so long for one another
    max_failed: float = 0.01  # share of unreadable training videos above which the run stops


@dataclass
class LocalLauncher:
    """Run on this machine: in this process, or in several that it starts."""

    name: str = "local"
    processes: int | None = None  # null: one per GPU, or one without GPUs
    max_restarts: int = 0  # start all ranks again, from the last checkpoint, when one fails


@dataclass
class TorchrunLauncher:
    """Several machines without a scheduler: the same command on each of them. One machine: like local."""

    name: str = "torchrun"
    nodes: int = 1
    processes: int | None = None  # per machine; null: one per GPU
    rendezvous: str = "localhost:29400"  # host:port on one of the machines, where all meet
    max_restarts: int = 3


@dataclass
class SubmititLocalLauncher:
    """In the background on this machine, through submitit: as a cluster job would run."""

    name: str = "submitit_local"
    processes: int = 1
    time_min: int = 1440


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
    array_parallelism: int = 16  # jobs of a sweep (--multirun) that run at a time
    warning_s: int = 120  # seconds before the time limit at which the job is told to save
    max_failures: int = 3  # after a rank failed the job starts again from its checkpoint, this many times
    max_restarts: int = 100  # in all, preemptions and time limits counted too
    chain: int = 1  # jobs queued one behind the other, each going on where the one before it ran out of time
    snapshot: bool = True  # run the code as it is now, whatever happens to the checkout before the job starts
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

    @property
    def job_dir(self) -> Path:
        """Where a cluster job leaves its notes, logs and journal: the folder of the run."""
        return self.run_dir


@dataclass
class Evaluate(Train):
    """Everything an evaluation needs: the options of the training, the weights, the order of the frames."""

    checkpoint: str | None = None  # null: the run's best checkpoint
    use_ema: bool = True  # where the checkpoint holds averaged weights
    frame_order: str = "forward"  # forward | reversed | shuffled
    split: str = "test"  # test | val | train
    output: str | None = None  # null: <run>/evaluation, or <run>/evaluation_<frame_order>

    @property
    def job_dir(self) -> Path:
        """Apart from the training's own: an evaluation is no further start of the run."""
        return self.run_dir / "evaluation_job"


@dataclass
class Preview(Train):
    """Everything a preview needs: the options of the training, what to show, and how."""

    out: str | None = None  # null: <run>/preview
    clips: int = 16  # training clips; 0: none
    step: int = 0  # optimizer step whose batches are shown
    processes: int = 1  # of the training run: they share out each step's videos
    rank: int = 0  # whose batches are shown
    videos: int = 4  # videos whose test views are shown, spread evenly over the split; 0: none
    split: str = "test"  # test (val where there is none) | val | train
    frames: int | None = None  # pictures per row, spread evenly over the clip; null: as many as fit
    scale: int | None = None  # pixels of a sheet per pixel of a clip; null: more than 1 for small clips only
    animate: bool = False  # each clip as an animated WebP picture, too


@dataclass
class ReencodeOptions:
    """Writing videos again for quick reading, on the same time line: H.264 without sound."""

    enabled: bool = False
    folder: str | None = None  # null: <out>/videos
    short_side: int = 256  # smaller videos are not enlarged
    gop: int = 16  # most frames from one key frame to the next
    crf: int = 23  # x264's quality, 0 to 51; lower is better and larger
    preset: str = "medium"  # x264's trade of time for size, ultrafast to veryslow
    fastdecode: bool = True  # no CABAC, deblocking and B pictures: quicker to read, somewhat larger
    time_limit_s: float = 600.0  # per file; 0: none


@dataclass
class ShardOptions:
    """Packing videos into tar shards, for file systems that cannot serve many small files."""

    enabled: bool = False
    folder: str | None = None  # a folder or fsspec URL; null: <out>/shards
    max_gb: float = 1.0  # of a shard, in 10^9 bytes


@dataclass
class Prepare(Train):
    """Everything the preparation of a data set needs: the options of the training, where to write, how far to go."""

    name: str = "prepare"
    out: str = MISSING  # folder of the indexes, the report and what makes the run resumable
    splits: list[str] | None = None  # null: every split that is configured
    verify: str = "decode"  # decode: every frame of every video; index: read the packets only
    workers: int | None = None  # processes; null: one per core
    time_limit_s: float = 60.0  # per file; 0: none
    limit: int | None = None  # take so many videos of each split, spread over it
    keep_partial: bool = False  # index files that can be read up to a damage, with the frames before it
    retry_broken: bool = False  # try files again that earlier runs found broken
    strict: bool = False  # exit with status 1 if any video is missing or broken
    dry_run: bool = False  # say what it would cost, and stop
    ask: bool = True  # before a run of more than ten minutes, on a terminal
    reencode: ReencodeOptions = field(default_factory=ReencodeOptions)
    shards: ShardOptions = field(default_factory=ShardOptions)


@dataclass
class Machine:
    """A kind of node, from its data sheets; what is not on one is an assumption until it is measured."""

    name: str = MISSING
    device: str = "cuda"  # cuda | cpu
    ranks_per_node: int = 8  # GPUs, or processes
    matrix_tflops: float = MISSING  # dense, per GPU or process, in the training's arithmetic (bf16 on a GPU)
    utilisation: float = 0.15  # share of it that a training step as a whole reaches; docs/scaling.md says why
    launch_us: float = 5.0  # for the host to start one kernel
    memory_gb: float = MISSING  # per GPU or process
    link_gb_s: float = MISSING  # between the GPUs of a node, per GPU, one direction
    network_gbit_s: float = MISSING  # between nodes, all ports of a node together, one direction
    link_latency_us: float = 2.0  # of a message within a node
    latency_us: float = 6.0  # of a message between nodes
    host_latency_us: float = 30.0  # of a message between the hosts' processes, over TCP
    to_host_gb_s: float = 25.0
    disk_gb_s: float = 1.0


@dataclass
class Plan(Train):
    """Everything a plan needs: the options of the training, the machine, and what is known of the videos."""

    machine: Machine = field(default_factory=Machine)
    nodes: int = 1
    num_videos: int | None = None  # training videos; null: those of data.source.train if that is given, or as published
    published_videos: int | None = None  # set by conf/data_facts
    videos_per_core_s: float = 20.0  # decoded and augmented per core; scripts/bench_data.py measures it
    video_kb: float = 500.0  # average size of a file


def config_dir() -> str:
    """Folder of the YAML files: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
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
    store.store(name="preview_schema", node=Preview)
    store.store(name="plan_schema", node=Plan)
    store.store(name="prepare_schema", node=Prepare)
    for group, name, node in (
        ("model", "mvit_schema", MViT),
        ("model", "baseline_schema", Baseline),
        ("data", "data_schema", Data),
        ("augment", "augment_schema", Augment),
        ("optim", "optim_schema", Optim),
        ("schedule", "schedule_schema", Schedule),
        ("trainer", "trainer_schema", Trainer),
        ("launcher", "local_schema", LocalLauncher),
        ("launcher", "torchrun_schema", TorchrunLauncher),
        ("launcher", "submitit_local_schema", SubmititLocalLauncher),
        ("launcher", "slurm_schema", SlurmLauncher),
        ("machine", "machine_schema", Machine),
        ("data/source", "list", ListSource),
        ("data/source", "kinetics", KineticsSource),
        ("data/source", "ssv2", Ssv2Source),
        ("data/source", "folder", FolderSource),
        ("data/source", "labeled_video_paths", LabeledVideoPathsSource),
        ("data/source", "index", IndexSource),
        ("data/source", "motion", MotionSource),
        *(("data/source", name, node) for name, node in SOURCES.items()),
    ):
        store.store(group=group, name=name, node=node)
