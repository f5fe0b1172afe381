"""What the tests share: options composed as the commands do, a tiny motion set, random states restored."""

import contextlib
import functools
import gc
import multiprocessing
import os
import random
import sys
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch.distributed.launcher.api

from mvit_video.config import Evaluate, Train
from mvit_video.config.check import to_object
from mvit_video.data.embedded.motion import MotionSpec, generate_motion
from mvit_video.engine import curves, tracking
from mvit_video.tasks import classification, confusion, image_classification
from mvit_video.video.backends import pyav_decoder
from tests import interpreters
from tests.composing import compose, read_once
from tests.null_gpu import null_gpu  # noqa: F401 - a fixture for all tests
from tests.paths import ROOT
from tests.video_library import Library

# How long an example takes says nothing on a busy machine.
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")
# What tests compile is small: each process of the compiler would take longer to start than to compile its share.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
sys.path.insert(0, str(ROOT / "scripts"))  # benchmarks and fuzzing are tested, too
read_once()


def _undrawn(*arguments: object, **options: object) -> None:
    """An empty file in the place of a picture: drawing takes longer than the trainings and evaluations of the tests."""
    path = next(argument for argument in arguments if isinstance(argument, Path))
    path.write_bytes(b"")


# What draws, with the modules that call it; patched also in processes that are forked by tests/interpreters.py.
_DRAWING = (
    (tracking, "plot_curves", curves.plot_curves),
    (classification, "plot_confusion", confusion.plot_confusion),
    (image_classification, "plot_confusion", confusion.plot_confusion),
)
for _module, _name, _ in _DRAWING:
    setattr(_module, _name, _undrawn)


@contextlib.contextmanager
def drawn_pictures() -> Iterator[None]:
    """The curves of trainings and the confusion matrices of evaluations in this process are drawn."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, function in _DRAWING:
            patch.setattr(module, name, function)
        yield


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, SLURM's before all: several processes then end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: ("slurm" not in item.path.parts, item.path not in slow))


def pytest_collection_finish() -> None:
    """Fewer and shorter rounds of the garbage collector, which took a seventh of the suite's time.

    What was imported and collected stays: two million objects, 0.7 s a round. The rest is looked through less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def pytest_configure(config: pytest.Config) -> None:
    """The processes of pytest-xdist share one server of interpreters."""
    if config.getoption("numprocesses", None):
        interpreters.share()


def pytest_unconfigure() -> None:
    """What was shared ends. At its end an interpreter looks at everything again; else some libraries report leaks."""
    interpreters.stop()
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test printed about a name that is no UTF-8 must not end the process that hands the report on."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


# A training in this process takes all cores from then on, and small models spend most of their time between threads.
_THREADS = torch.get_num_threads()


@pytest.fixture(autouse=True)
def _restore_global_state() -> Iterator[None]:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - restoring the global state
    torch.set_num_threads(_THREADS)  # a fixture for several tests may have trained, too
    yield
    torch.set_num_threads(_THREADS)
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])


def options(*overrides: str, config_name: str = "config") -> Train:
    """The checked options of a command line."""
    return to_object(compose(config_name, overrides))


def evaluate_options(*overrides: str) -> Evaluate:
    """The checked options of an evaluation's command line."""
    result = options(*overrides, config_name="evaluate")
    assert isinstance(result, Evaluate)
    return result


@pytest.fixture(scope="session")
def motion_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A motion set of 32 training and 16 test videos."""
    root = tmp_path_factory.mktemp("motion")
    generate_motion(root, MotionSpec(train_videos=32, test_videos=16), workers=1, progress=False)
    return root


def motion_overrides(root: Path, output: Path, *more: str) -> Sequence[str]:
    """Overrides for seconds-long runs on the tiny motion set."""
    return [
        "+experiment=motion_mvitv2",
        f"data.source.root={root}",
        "data.source.train_videos=32",
        "data.source.test_videos=16",
        f"output_dir={output}",
        "name=tiny",
        "schedule.epochs=2",
        "schedule.warmup_epochs=1",
        "trainer.batch_size=8",
        "trainer.global_batch=null",  # each test says itself how many videos a step takes
        "trainer.num_workers=0",
        "trainer.threads=1",
        "trainer.precision=fp32",
        "trainer.device=cpu",
        "trainer.log_every=1",
        "trainer.eval_every=1",
        *more,
    ]


def few_videos(root: Path, output: Path, *more: str, videos: int = 4) -> Sequence[str]:
    """Overrides for runs on the first videos of the tiny motion set alone, all of them in each step."""
    listing = output / "few.csv"
    listing.parent.mkdir(parents=True, exist_ok=True)
    lines = (root / "train.csv").read_text().splitlines()[:videos]
    listing.write_text("\n".join(lines) + "\n")
    plain = [o for o in motion_overrides(root, output) if not o.startswith("data.source.")]
    return [
        *plain,
        "data/source=list",
        f"data.source.train={listing}",
        f"data.source.val={listing}",
        f"data.source.root={root}",
        f"data.source.class_names_file={root / 'classes.txt'}",
        f"trainer.batch_size={videos}",
        *more,
    ]


# The small model with half its blocks, each of which takes a while to measure; it has no options by name.
TWO_BLOCKS = {
    "_target_": "mvit_video.models.create_model", "name": "mvitv2_motion", "depth": 2, "stage_starts": [1],
    "num_classes": 8,
}  # fmt: skip
# Sixteen times fewer pixels, for runs whose clips may be of any size.
SMALL_CLIPS = ("data.num_frames=4", "data.crop_size=32", "data.test_short_side=32", "augment.jitter=[32,40]")


def small_overrides(root: Path, output: Path, *more: str) -> Sequence[str]:
    """Overrides for still shorter runs, on small clips."""
    return motion_overrides(root, output, *SMALL_CLIPS, *more)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Videos of every kind, each generated when it is first asked for."""
    return Library(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def quick_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that this process launches are forked by a server that has imported torch, instead of importing it anew."""
    multiprocessing.set_forkserver_preload(["tests.preload"])
    config = functools.partial(torch.distributed.launcher.api.LaunchConfig, start_method="forkserver")
    monkeypatch.setattr("torch.distributed.launcher.api.LaunchConfig", config)
    spawn = functools.partial(torch.multiprocessing.start_processes, start_method="forkserver")
    monkeypatch.setattr("torch.multiprocessing.spawn", spawn)


@pytest.fixture
def fresh_cache() -> Iterator[None]:
    """No index is remembered from another test."""
    pyav_decoder.clear_cache()
    yield
    pyav_decoder.clear_cache()
