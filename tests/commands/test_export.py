"""An exported file gives what its run gives, with nothing else than the file, and is not written where it does not."""

import json
import logging
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from omegaconf import OmegaConf
from safetensors import safe_open

from mvit_video import Predictor, evaluate, from_pretrained
from mvit_video.build.export import Export, _own_split
from mvit_video.build.export import export as write
from mvit_video.build.run_identity import DataRecord, RunIdentity
from mvit_video.config import Predict
from mvit_video.convert import main as convert
from mvit_video.data.datasets.extensions import VIDEOS
from mvit_video.data.embedded.motion import CLASS_NAMES
from mvit_video.data.embedded.shapes import ShapesSpec, generate_shapes
from mvit_video.engine.checkpoints import save_checkpoint
from mvit_video.export import main as export
from mvit_video.exporting import writing
from mvit_video.exporting.about import read_about
from mvit_video.exporting.model_card import model_card
from mvit_video.exporting.programs import load_program
from mvit_video.hub import HubError
from mvit_video.hub import push as push_files
from mvit_video.models import CheckpointError, create_model, from_checkpoint
from mvit_video.models.weights.loading import checkpoint_content
from mvit_video.predictor import prediction_options
from mvit_video.push import main as push
from mvit_video.runtime.files import write_text
from tests.conftest import SMALL_CLIPS, few_videos, options
from tests.hub_server import COMMIT, hub_server
from tests.paths import ROOT, SHARED_CLIPS
from tests.video_library import Library

CPU = torch.device("cpu")
# Two blocks: the first attends from all tokens, the last from the class token alone.
MODEL = {
    "_target_": "mvit_video.models.create_model", "name": "mvitv2_motion", "depth": 2, "stage_starts": [1],
    "embed_dim": 8, "num_classes": 8, "num_frames": 4, "crop_size": 32,
}  # fmt: skip
METRICS = {"video_top1": 25.0, "loss": 2.0, "num_videos": 8.0}
FILES = ("tiny.safetensors", "tiny.pt2", "tiny.onnx")  # the second in bf16
TOLERANCE = {"tiny.safetensors": 1e-6, "tiny.pt2": 0.02, "tiny.onnx": 1e-5}


@pytest.fixture(scope="module")
def place(motion_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs/tiny`, as a training leaves it, and its three exported files in `out`."""
    place = tmp_path_factory.mktemp("export")
    config = options(*few_videos(motion_root, place / "runs", *SMALL_CLIPS, "data.test_temporal_views=2", videos=8))
    config.model, config.data.num_classes = MODEL, len(CLASS_NAMES)
    torch.manual_seed(0)
    model = create_model("mvitv2_motion", **{key: MODEL[key] for key in MODEL if key not in ("_target_", "name")})
    record = DataRecord(source=str(place / "runs" / "few.csv"), items=8, fingerprint="0123456789abcdef")
    run = RunIdentity.of(class_names=CLASS_NAMES, items_per_step=8, data={"train": record, "val": record})
    text = OmegaConf.to_yaml(OmegaConf.structured(config))
    state = {
        "step": 1, "epoch": 0.5, "model": model.state_dict(), "optimizer": {}, "ema": None, "config": text,
        "metrics": METRICS, "class_names": list(CLASS_NAMES), "run": run.plain(),
    }  # fmt: skip
    save_checkpoint(place / "runs" / "tiny" / "checkpoints", state, step=1, best=True)
    write_text(place / "runs" / "tiny" / "config.yaml", text)
    previous = os.umask(0o022)
    try:
        for name in FILES:
            export([str(place / "runs" / "tiny"), str(place / "out" / name), *(["--dtype", "bf16"] * ("pt2" in name))])
    finally:
        os.umask(previous)
    return place


@pytest.fixture(scope="module")
def config(place: Path) -> Predict:
    """The options of a prediction with the run."""
    return prediction_options({"weights": str(place / "runs" / "tiny")})


@pytest.fixture(scope="module")
def videos(motion_root: Path) -> list[str]:
    """Two videos, one of them real where that is at hand."""
    first = (motion_root / "train.csv").read_text(encoding="utf-8").split()[0]
    return [str(path) for path in (motion_root / first, *sorted(SHARED_CLIPS.glob("kinetics*.mkv")))]


def scores(predictor: Predictor, video: str) -> dict[str, float]:
    return {one.name: one.score for one in predictor(video).predictions}


@pytest.fixture(scope="module")
def wanted(place: Path, videos: list[str]) -> dict[str, dict[str, float]]:
    """What the run says of each video."""
    run = Predictor(place / "runs" / "tiny", top_k=8)
    return {video: scores(run, video) for video in videos}


def shown_to(name: str, wanted: Any) -> list[tuple[str, dict[str, float]]]:
    """All videos, or the first for a program: the second takes long to decode, and is decoded alike for all."""
    return list(wanted.items())[: None if name == FILES[0] else 1]


@pytest.mark.parametrize("name", FILES)
def test_a_file_predicts_what_the_run_predicts(place: Path, wanted: Any, tmp_path: Path, name: str) -> None:
    alone = shutil.copy(place / "out" / name, tmp_path / name)  # the run is not beside it
    assert stat.S_IMODE((place / "out" / name).stat().st_mode) == 0o644
    predictor = Predictor(alone, top_k=8)
    assert predictor.class_names == CLASS_NAMES
    for video, expected in shown_to(name, wanted):
        assert scores(predictor, video) == pytest.approx(expected, abs=TOLERANCE[name])
    assert sorted(path.name for path in (place / "out").iterdir()) == sorted(FILES)


def test_a_file_is_evaluated(place: Path, wanted: Any, tmp_path: Path) -> None:
    found = evaluate(checkpoint=place / "out" / "tiny.onnx", options={"name": "elsewhere", "output_dir": tmp_path})
    video, expected = next(iter(wanted.items()))
    scored = next(line["top5"] for line in found.predictions if line["video"] == video)
    assert scored == pytest.approx({name: expected[name] for name in scored}, abs=1e-5)


def test_what_a_file_says_of_itself(place: Path) -> None:
    abouts = {name: read_about(place / "out" / name) for name in FILES}
    for name, about in abouts.items():
        assert about["class_names"] == list(CLASS_NAMES)
        values, views = about["preprocessing"]["input"], about["preprocessing"]["views"]
        assert (values["shape"], values["mean"], values["std"]) == (["batch", 3, 4, 32, 32], [0.45] * 3, [0.225] * 3)
        assert views["sampling"] == {"num_frames": 4, "sampling_rate": 3.0, "target_fps": 30.0, "mode": "span"}
        assert (views["short_side"], views["crop_size"], views["temporal_views"]) == (32, 32, 2)
        assert about["preprocessing"]["output"]["scores"] == "softmax"
        assert about["config"]["optim"]["lr"] == 1e-3 and "launcher" not in about["config"]
        assert {len(split["fingerprint"]) for split in about["run"]["data"].values()} == {16}
        assert about["results"]["validation"] == {"step": 1, **METRICS} and about["step"] == 1
        assert about["parity"]["largest_difference"] <= about["parity"]["bound"], name
    assert len({json.dumps(about["preprocessing"]) for about in abouts.values()}) == 1


@pytest.mark.parametrize("name", ["tiny.safetensors", "tiny.onnx"])
def test_the_reader_of_a_hundred_lines(place: Path, wanted: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from examples.read_export import classify

    assert len((ROOT / "examples" / "read_export.py").read_text(encoding="utf-8").splitlines()) <= 100
    for video, expected in shown_to(name, wanted):
        assert dict(classify(video, str(place / "out" / name))) == pytest.approx(expected, abs=5e-3)


def test_the_reader_turns_what_was_held_upright(place: Path, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from examples.read_export import classify

    file, video = place / "out" / "tiny.onnx", str(library.path("rotated.mp4"))
    assert read_about(file)["preprocessing"]["views"]["reading"] == {"orientation": "apply"}
    assert dict(classify(video, str(file))) == pytest.approx(scores(Predictor(file, top_k=8), video), abs=1e-3)


def test_programs_take_any_batch_of_their_size(place: Path) -> None:
    clips = torch.randn(5, 3, 4, 32, 32)
    model = from_checkpoint(place / "out" / "tiny.safetensors").eval()
    for name, tolerance in (("tiny.pt2", 0.05), ("tiny.onnx", 1e-4)):
        program = load_program(place / "out" / name, device=CPU)
        for count in (1, 3, 5):
            with torch.no_grad():
                torch.testing.assert_close(program(clips[:count]), model(clips[:count]), rtol=0, atol=tolerance)
        with pytest.raises(ValueError, match=r"exported for inputs of 3 x 4 x 32 x 32 and is given 3 x 8 x 32 x 32"):
            program(torch.zeros(1, 3, 8, 32, 32))
        with pytest.raises(ValueError, match=r"cannot be trained"):
            program.train()
        with pytest.raises(CheckpointError, match=r"is an exported program, whose weights are in its graph"):
            from_checkpoint(place / "out" / name)


def test_half_precision_says_what_it_costs(place: Path, tmp_path: Path) -> None:
    """Of an exported file: half the bytes. The cost is measured on the run's own videos, said and kept."""
    said = write(
        prediction_options({"weights": str(place / "out" / "tiny.safetensors")}),
        Export(output=tmp_path / "half", kind="safetensors", precision="fp16"),
    ).text()
    assert "half.safetensors: safetensors, fp16" in said and "what fp16 costs, on the run's own videos: " in said
    with safe_open(tmp_path / "half.safetensors", framework="pt") as file:
        assert file.get_tensor("head.projection.weight").dtype == torch.float16
    for path, precision in ((tmp_path / "half.safetensors", "fp16"), (place / "out" / "tiny.pt2", "bf16")):
        results = read_about(path)["results"]
        cost = results["precision_cost"]
        assert results["validation"] == {"step": 1, **METRICS}
        assert cost["fp32"]["num_videos"] == 8 and "video_top1" in cost[precision]


def test_a_program_is_not_exported_again(place: Path, config: Predict, tmp_path: Path) -> None:
    again = replace(config, checkpoint=str(place / "out" / "tiny.onnx"))
    with pytest.raises(ValueError, match=r"tiny\.onnx: is an exported program already"):
        write(again, Export(output=tmp_path / "again.onnx"))


def test_int8_products(place: Path, tmp_path: Path) -> None:
    shutil.copy(place / "out" / "tiny.onnx", tmp_path / "int8.onnx")
    writing.quantise(tmp_path / "int8.onnx")
    writing.describe_onnx(tmp_path / "int8.onnx", read_about(place / "out" / "tiny.onnx"))
    whole, int8 = (load_program(path, device=CPU) for path in (place / "out" / "tiny.onnx", tmp_path / "int8.onnx"))
    clips = torch.randn(4, 3, 4, 32, 32)
    difference = (int8(clips) - whole(clips)).abs().max() / whole(clips).abs().max()
    assert 0 < difference < 0.2
    assert whole.session.get_inputs()[0].shape == ["batch", 3, 4, 32, 32]
    assert (tmp_path / "int8.onnx").stat().st_size < (place / "out" / "tiny.onnx").stat().st_size


def test_an_image_model_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """Weights alone, on the options of an experiment and the embedded set; published ones go the same way."""
    monkeypatch.syspath_prepend(ROOT)
    from examples.read_export import classify

    model = create_model("mvitv2_shapes")
    torch.save(checkpoint_content(model, "pyslowfast"), tmp_path / "in.pyth")
    (tmp_path / "names.txt").write_text("disc\nsquare\nring\nstar\n", encoding="utf-8")
    words = [str(tmp_path / "in.pyth"), str(tmp_path / "out.safetensors"), "--experiment", "shapes_mvitv2"]
    export([*words, "--class-names", str(tmp_path / "names.txt"), "--set", "data.source.root=nowhere"])
    assert "inputs batch x 3 x 32 x 32, 4 classes" in capsys.readouterr().out
    root = generate_shapes(tmp_path / "shapes", ShapesSpec(train_images=4, test_images=4))
    image = str(next(root.rglob("*.jpg")))
    expected = scores(Predictor(tmp_path / "out.safetensors"), image)
    assert dict(classify(image, str(tmp_path / "out.safetensors"))) == pytest.approx(expected, abs=5e-3)


def test_weights_of_others_have_no_videos_of_their_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is missing, so nothing is warned of."""
    torch.save(checkpoint_content(create_model("mvitv2_motion"), "pyslowfast"), tmp_path / "in.pyth")
    given = {"weights": str(tmp_path / "in.pyth")}
    config = prediction_options(given, experiment="k400_mvitv2_s")
    caplog.clear()
    assert _own_split(config, cast(Any, None), VIDEOS) is None
    assert not caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out"], "its ending says no format; give --to {safetensors,torch_export,onnx}"),
        (["out.onnx", "--to", "safetensors"], "the ending is that of onnx, and --to is safetensors; give .safetensors"),
        (["out.pt2", "--dtype", "int8"], "--dtype int8 with --to torch_export: weights of 8 bits"),
        (["out.onnx", "--dtype", "bf16"], "ONNX Runtime has no convolutions in bf16 on the CPU"),
        (["out.safetensors", "--clips", "nowhere.mp4"], "nowhere.mp4"),
        (["out.safetensors", "--set", "data.crop_sise=3"], "data.crop_sise"),
    ],
)
def test_what_cannot_be_exported(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        export([str(place / "runs" / "tiny"), str(tmp_path / words[0]), *words[1:]])
    assert stop.value.code == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and message in said[0]
    assert not list(tmp_path.iterdir())


def test_a_file_that_computes_something_else_is_not_written(
    config: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = writing.write_safetensors

    def wrong(model: torch.nn.Module, *arguments: Any, **given: Any) -> None:
        changed = {name: value * 1.01 for name, value in model.state_dict().items()}
        monkeypatch.setattr(model, "state_dict", lambda: changed)
        honest(model, *arguments, **given)

    monkeypatch.setattr(writing, "write_safetensors", wrong)
    target = tmp_path / "out.safetensors"
    write_text(target, "the one before")
    with pytest.raises(ValueError, match=r"does not compute what the model computes, and is not written"):
        write(config, Export(output=target))
    assert target.read_text(encoding="utf-8") == "the one before" and len(list(tmp_path.iterdir())) == 1


def test_files_of_others_and_damaged_ones(place: Path, tmp_path: Path) -> None:
    convert([str(place / "out" / "tiny.safetensors"), str(tmp_path / "converted.safetensors")])
    with pytest.raises(CheckpointError, match=r"was not written by this version of `python -m mvit_video\.export`"):
        read_about(tmp_path / "converted.safetensors")
    for name in FILES:
        (tmp_path / name).write_bytes((place / "out" / name).read_bytes()[:500])
        with pytest.raises(CheckpointError, match=r"is no complete"):
            read_about(tmp_path / name)


def test_a_model_too_large_for_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        model = torch.nn.Linear(30_000, 20_000)
    with pytest.raises(
        ValueError, match=r"the weights have 2\.2 GiB, and one ONNX file holds 2 GiB: give --dtype fp16"
    ):
        writing.check_fits_onnx(model, "fp32")
    writing.check_fits_onnx(model, "fp16")


def test_an_onnxscript_too_old_for_this_pytorch_is_not_the_models_fault(monkeypatch: Any, tmp_path: Path) -> None:
    def missing(*arguments: object, **options: object) -> None:
        raise ModuleNotFoundError("No module named 'onnxscript._framework_apis.torch_2_11'")

    monkeypatch.setattr(torch.onnx, "export", missing)
    program: Any = None  # it is not come to
    with pytest.raises(
        ValueError, match=r"does not go with PyTorch 2\..*torch_2_11'\): pip install --upgrade onnx onnxsc"
    ):
        writing.write_onnx(program, torch.ones(2, 3), tmp_path / "a.onnx", input_name="x", precision="fp32")


# ---- hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A hub of its own for huggingface_hub, and an empty cache."""
    with hub_server() as server:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_made_up")
        yield server


def test_to_a_hub_and_from_there(
    place: Path, config: Predict, wanted: Any, hub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(place / "runs" / "tiny")
    push([run, "someone/birds", "--licence", "apache-2.0", "--private", "--revision", "new"])
    assert capsys.readouterr().out == f"{hub.url}/someone/birds/commit/{COMMIT}: model.safetensors, README.md\n"
    assert hub.private == {"someone/birds"} and hub.branches == ["new"] and "Bearer hf_made_up" in hub.tokens
    files = hub.repos["someone/birds"]
    assert set(files) == {"model.safetensors", "README.md"}
    assert str(place).encode() not in files["model.safetensors"]  # no path of this machine
    page = files["README.md"].decode()
    assert page.startswith("---\nlicense: apache-2.0\nlibrary_name: mvit_video\npipeline_tag: video-classification\n")
    for part in (
        'Predictor.from_pretrained("someone/birds")',
        "| `optim.lr` | 0.001 |",
        "`rotate_cw`",
        "| train | 8 | `",
    ):
        assert part in page
    model = from_pretrained("someone/birds")
    assert not model.training and model.config.depth == 2
    assert from_pretrained("someone/birds", num_classes=3).config.num_classes == 3
    video, expected = next(iter(wanted.items()))
    assert scores(Predictor.from_pretrained("someone/birds", top_k=8), video) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(RuntimeError, match=r"could not fetch model\.safetensors of someone/bees \(RepositoryNotFound"):
        from_pretrained("someone/bees")
    hub.refuse = 403
    with pytest.raises(HubError, match=r"could not push to someone/birds \("):
        push_files(config, "someone/birds")


def test_to_a_folder_and_from_there(
    config: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.WARNING):
        push_files(config, "./birds")
    assert "no licence is stated" in caplog.text
    assert "No licence was stated for these weights" in (tmp_path / "birds" / "README.md").read_text(encoding="utf-8")
    assert from_pretrained("./birds").config.embed_dim == 8
    assert from_pretrained("birds").config.embed_dim == 8
    with pytest.raises(ValueError, match=r"the folder holds no model\.safetensors"):
        from_pretrained(".")
    with pytest.raises(ValueError, match=r"birds: is neither OWNER/NAME of a repository nor a folder"):
        push_files(config, "birds")


def test_a_page_takes_names_as_they_are() -> None:
    """Markup in the names of classes and runs does nothing."""
    names = ["a|b", "<script>x</script>", "`c`", "plain"]
    about = {
        "config": {"model": {"name": "mvitv2_s_16x4"}},
        "preprocessing": {
            "kind": "image",
            "input": {
                "shape": ["batch", 3, 8, 8],
                "axes": list("bchw"),
                "values": "x",
                "mean": [0],
                "std": [1],
                "channels": "RGB",
            },
            "views": {},
            "output": {"scores": "softmax", "of_views": "mean of the scores"},
        },
        "class_names": names,
        "precision": "fp32",
        "mvit_video": "1",
        "origin": {"name": "k400", "publisher": "them", "source": "https://a.b", "licence": "CC BY-NC 4.0"},
    }
    page = model_card(about, title="<b>|x|", repo="a/b", files=["model.safetensors"], licence=None)
    assert "a\\|b" in page and "`<script>x</script>`" in page and "&lt;b&gt;\\|x\\|" in page and "<b>" not in page
    assert "whose licence is CC BY-NC 4.0" in page and "Nothing was measured" in page


def test_help_needs_no_torch() -> None:
    for module in ("export", "push"):
        code = (
            f"import sys, runpy\nsys.argv = ['{module}', '--help']\n"
            f"try: runpy.run_module('mvit_video.{module}', run_name='__main__')\n"
            "except SystemExit as stop: assert stop.code == 0\n"
            "assert 'torch' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
