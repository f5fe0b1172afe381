"""python -m mvit_video.plan, as a user runs it."""

import re
import subprocess
from pathlib import Path

import pytest

from mvit_video.build.plan import (
    Words,
    _amount,
    build_machine,
    build_workload,
    measure,
    print_plan,
    training_files,
)
from mvit_video.config import Plan
from mvit_video.planning.costs import forecast
from tests import interpreters
from tests.conftest import TWO_BLOCKS, options

MOTION = ("+experiment=motion_mvitv2", "machine=cpu")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return interpreters.run("-m", "mvit_video.plan", *arguments)


def plan_options(*overrides: str) -> Plan:
    result = options(*overrides, config_name="plan")
    assert isinstance(result, Plan)
    return result


def small(*overrides: str, **model: object) -> Plan:
    """The plan of a smaller model."""
    config = plan_options(*MOTION, *overrides)
    config.model = {**TWO_BLOCKS, **model}
    return config


def rows(text: str) -> dict[str, str]:
    """First two columns of the tables, by the first."""
    cells = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("|")]
    return {line[1]: line[2] for line in cells}


def test_s_on_eight_nodes() -> None:
    done = command("+experiment=k400_mvitv2_s", "nodes=8")
    assert done.returncode == 0, done.stderr
    assert "k400_mvitv2_s on 64 x h200 (ddp)" in done.stdout
    found = rows(done.stdout)
    assert found["parameters"] == "34.54 M"
    assert found["forward pass"] == "128.4 GFLOP per clip"
    assert found["memory: state"] == "0.55 GB per GPU"
    assert found["step of one GPU"] == "4 videos, 8 clips"
    assert found["step of all"] == "256 videos, 512 clips"  # the recipe's, by accumulation
    assert found["sent"] == "272.0 MB per GPU"  # 2 * 63/64 * 4 * 34.54 M
    assert found["steps"] == "187,800"
    assert found["checkpoint"] == "0.41 GB"
    assert re.fullmatch(r"[\d.]+ cores per GPU, [\d,]+ in all", found["decoding"])
    assert re.fullmatch(r"[\d.]+ MB/s per GPU, [\d.]+ GB/s in all", found["storage"])
    assert {"1", "8", "64", "1,024"} <= found.keys()
    assert "trainer.batch_size=2 augment.repeats=2 trainer.accumulate=2" in done.stdout
    lines = [[cell.strip() for cell in line.split("|")] for line in done.stdout.splitlines()]
    cut = {line[1]: (line[2], line[3]) for line in lines if len(line) > 5}
    assert cut["1"] == ("128", "256") and cut["128"] == ("1", "256") and cut["1,024"] == ("1", "2,048")
    assert "A prediction" in done.stdout
    assert "do not fit" not in done.stderr


def test_one_is_no_plural() -> None:
    assert _amount(1, 1, Words(item="image", sample="image")) == "1 image"
    assert _amount(1, 2, Words(item="video", sample="clip")) == "1 video, 2 clips"
    assert _amount(2, 4, Words(item="image", sample="image")) == "2 images, 4 augmented"


def test_a_model_divided_among_the_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    config = small("trainer.strategy=fsdp", "trainer.accumulate=1", "machine=a100")
    print_plan(config)
    shown = capsys.readouterr().out
    assert "motion_mvitv2 on 8 x a100 (fsdp)" in shown
    measured, model = measure(config)
    work = build_workload(config, model, measured, videos=2400)
    plan = forecast(work, build_machine(config), ranks=8, strategy="fsdp")
    rest = work.parameters - sum(work.blocks)
    assert work.parameters == 165_416 and len(work.blocks) == 2 and work.gathers_bf16
    assert plan.sent_bytes == 7 / 8 * (8 * work.parameters - 2 * rest)  # stem and head are gathered once
    assert plan.state_bytes == 2 * work.parameters + 2 * rest + 10 * max(work.blocks)
    assert rows(shown)["sent"] == f"{plan.sent_bytes / 1e6:.1f} MB per GPU"


def test_l_that_does_not_fit(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    large = ("+experiment=k400_mvitv2_l", "model.activation_checkpointing=false", "trainer.batch_size=16")
    print_plan(plan_options(*large))
    found = rows(capsys.readouterr().out)
    assert found["parameters"] == "213.39 M"
    assert found["sent"] == "1493.7 MB per GPU"
    said = caplog.text
    assert re.search(r"148\.0 GB per GPU do not fit into 90 % of the 141 GB of h200 \(another: machine=\.\.\.", said)
    assert "one of a100, cpu, h100, h100_ethernet, h200)" in said
    assert re.search(r"model\.activation_budget_gb=123\.4 \(recomputes \d+ of 48 blocks, \d+% of the forward", said)
    assert re.search(r"trainer\.batch_size=8(?! trainer\.accumulate)", said)  # accumulation makes up for it
    assert "trainer.strategy=fsdp" not in said  # its saving would not be enough


def test_fsdp_is_a_way_out_where_the_state_is_what_does_not_fit(caplog: pytest.LogCaptureFixture) -> None:
    many = ("machine.ranks_per_node=64", "machine.memory_gb=0.005", "trainer.batch_size=1")
    print_plan(small(*many))
    assert "trainer.strategy=fsdp (0.0 GB)" in caplog.text
    caplog.clear()
    print_plan(small(*many, "trainer.strategy=fsdp"))
    assert "do not fit" not in caplog.text


def test_nothing_alone_is_enough(caplog: pytest.LogCaptureFixture) -> None:
    print_plan(small("machine.memory_gb=0.001"))
    assert "none of activation checkpointing, a smaller batch and trainer.strategy=fsdp is enough alone" in caplog.text


def test_a_way_out_is_one(caplog: pytest.LogCaptureFixture) -> None:
    words = ("trainer.global_batch=null", "machine.memory_gb=0.23")
    print_plan(small(*words, "trainer.batch_size=100"))
    budget = re.search(r"model\.activation_budget_gb=([\d.]+)", caplog.text)
    batch = re.search(r"(trainer\.batch_size=\d+) (trainer\.accumulate=\d+)", caplog.text)
    assert batch is not None and budget is not None, caplog.text
    for way in (
        small(*words, *batch.groups()),
        small(*words, "trainer.batch_size=100", activation_budget_gb=float(budget[1])),
    ):
        caplog.clear()
        print_plan(way)
        assert "do not fit" not in caplog.text


def test_the_activation_budget_is_planned_for_the_batch(capsys: pytest.CaptureFixture[str]) -> None:
    many = "trainer.batch_size=100"
    free, _ = measure(small(many))
    kept = sum(cost.saved for cost in free.costs)
    config = small(many, activation_budget_gb=0.8 * kept / 1e9)
    bounded, _ = measure(config)
    assert free.recomputed == () and bounded.recomputed and 0 < bounded.share < 1
    print_plan(config)
    found = rows(capsys.readouterr().out)
    assert found["done twice"] == f"{bounded.share:.0%} of that"
    assert float(found["memory: activations"].split()[0]) <= 0.8 * kept / 1e9


def test_an_impossible_budget() -> None:
    with pytest.raises(ValueError, match=r"activation_budget_gb=1e-06 is too small"):
        measure(small(activation_budget_gb=1e-6))


def test_processes_on_cpus(capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(small("trainer.batch_size=8"))
    text = capsys.readouterr().out
    assert "motion_mvitv2 on 2 x cpu (ddp)" in text and "GPU" not in text
    assert rows(text)["steps"] == "1,800"  # 12 epochs of 2400 videos, 16 a step
    assert "256" in rows(text) and "512" not in rows(text)  # 2048 videos a step are the most there are


def test_sgd_keeps_one_moment(capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(small("optim=sgd", "optim.lr=0.1", "optim.reference_batch=16"))
    text = capsys.readouterr().out
    assert "weights, gradients, 1 x optimizer" in text


@pytest.mark.parametrize(
    ("experiment", "videos"),
    [
        ("k400_mvitv2_s", 240_436),
        ("k600_mvitv2_b", 383_393),
        ("k700_mvitv2_b", 542_357),
        ("ssv2_mvitv2_s", 168_913),
        ("motion_mvitv2", 2400),
        ("shapes_mvitv2", 3000),
    ],
)
def test_published_sizes(experiment: str, videos: int) -> None:
    assert training_files(plan_options(f"+experiment={experiment}")).count == videos
    assert training_files(plan_options(f"+experiment={experiment}", "num_videos=7")).count == 7


def test_videos_of_ones_own_are_counted(tmp_path: Path) -> None:
    folder = ("+experiment=finetune_folder", f"data.source.train={tmp_path}")
    for name in ("a/1.mp4", "a/2.mp4", "b/3.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert training_files(plan_options(*folder)).count == 3
    assert training_files(plan_options(*folder, "num_videos=7")).count == 7
    with pytest.raises(
        ValueError, match=r"training files is not known: give num_videos=\.\.\., or data\.source\.train"
    ):
        training_files(plan_options("+experiment=finetune_folder"))


def test_sizes_and_rates_are_those_of_the_files(tmp_path: Path) -> None:
    for number, size in enumerate((1000, 3000)):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "a.jpg").write_bytes(bytes(size))
    own = plan_options("+experiment=finetune_images", f"data.source.train={tmp_path}")
    found = training_files(own)
    assert (found.count, found.kb, found.kb_from) == (2, 2.0, "the mean of the training files")
    assert (found.per_core_s, found.per_core_from) == (200, "an assumption")
    own.video_kb, own.videos_per_core_s = 7.5, 33.0
    found = training_files(own)
    assert (found.kb, found.kb_from, found.per_core_s, found.per_core_from) == (7.5, "as given", 33, "as given")
    own.num_videos, own.video_kb = 9, None  # nothing is listed
    assert (training_files(own).kb, training_files(own).kb_from) == (110, "an assumption")
    published = training_files(plan_options("+experiment=ssv2_mvitv2_s"))
    assert (published.kb, published.kb_from, published.per_core_s) == (88, "of the data set as published", 20)


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match="model=slow_r50: plans are made for MViT models and detectors only"):
        measure(plan_options(*MOTION, "model=slow_r50", "optim.no_decay=[]"))
    own = plan_options(*MOTION, "optim.no_decay=[]")
    own.model = {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}
    with pytest.raises(ValueError, match="model=Linear: plans are made for MViT models and detectors only"):
        measure(own)


def test_an_unknown_machine_is_refused_with_those_that_are_known() -> None:
    done = command("+experiment=k400_mvitv2_s", "machine=h20")
    assert done.returncode == 1
    assert "machine=h20: unknown; did you mean 'h200'? The choices for machine are: a100, cpu, " in done.stderr
    assert "Traceback" not in done.stderr


def test_more_nodes_than_videos() -> None:
    with pytest.raises(ValueError, match=r"a step on 400 ranks takes 6400 videos, and there are 2400"):
        print_plan(small("nodes=200"))
    images = plan_options("+experiment=shapes_mvitv2", "nodes=50")
    images.model = {**TWO_BLOCKS, "name": "mvitv2_shapes", "num_classes": 4}
    with pytest.raises(ValueError, match=r"a step on 400 ranks takes 12800 images, and there are 3000"):
        print_plan(images)
