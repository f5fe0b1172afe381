"""A prediction takes everything from the run, says what evaluate says, and goes on where it was killed."""

import csv
import dataclasses
import json
import resource
import shutil
import signal
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import mvit_video
from mvit_video import Predictor, predict
from mvit_video.build.class_prediction import ClassPredictor
from mvit_video.build.prediction import _class_names as class_names_of
from mvit_video.build.prediction import build_predictor
from mvit_video.build.prediction_job import predict as predict_job
from mvit_video.build.prediction_job import split_into_parts
from mvit_video.build.prediction_options import take_weights_options
from mvit_video.config import LocalLauncher, Predict
from mvit_video.config.check import to_object
from mvit_video.distributed.process_group import World
from mvit_video.prediction.begun import BegunVideos, same_times
from mvit_video.prediction.file_list import shared_file_list
from mvit_video.prediction.folder import Part, ResultsFolder
from mvit_video.prediction.results import ClassScore, FilePrediction, Window
from mvit_video.runtime import interruption
from mvit_video.runtime.interruption import Interrupted
from mvit_video.video import VideoReader
from tests.commands.predictions import predicted
from tests.composing import compose
from tests.conftest import SMALL_CLIPS


def test_predictions_are_those_of_evaluate(runs: Path, motion_root: Path, tmp_path: Path) -> None:
    lines = (runs / "tiny" / "evaluation" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    evaluated = {line["video"]: line["top5"] for line in map(json.loads, lines)}
    words = [f"weights={runs / 'tiny'}", f"output={tmp_path / 'out'}", "trainer.num_workers=2"]
    found = predicted(*evaluated, *words)
    assert [one.path for one in found] == list(evaluated)
    for one in found:
        assert {best.name: best.score for best in one.predictions} == pytest.approx(evaluated[one.path], abs=2e-6)
    assert (tmp_path / "out" / "results.json").exists()


def test_files_of_results(runs: Path, videos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "videos" / "broken.mp4"
    broken.write_bytes(b"\0no video")
    out = tmp_path / "out"
    words = [str(tmp_path / "videos"), "weights=tiny", f"output_dir={runs}", f"output={out}", "top_k=2"]
    found = predicted(*words)
    assert [Path(one.path).name for one in found] == ["a.mp4", "b.mp4", "broken.mp4", "c.mp4"]
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["path"]: len(line["predictions"]) for line in lines} == {
        one.path: 0 if one.error else 2 for one in found
    }
    assert set(lines[0]["predictions"][0]) == {"class", "score"}
    assert [line["path"] for line in lines if "error" in line] == [str(broken)]
    rows = list(csv.DictReader((out / "predictions.csv").open(encoding="utf-8")))
    assert [row["rank"] for row in rows if row["path"] == str(videos[0])] == ["1", "2"]
    assert [row["error"] != "" for row in rows if row["path"] == str(broken)] == [True]
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert (results["complete"], results["num_files"], results["num_failed"]) == (True, 4, 1)
    assert results["temporal_views"] == 2 and results["crop_size"] == 32 and len(results["class_names"]) == 8
    table = capsys.readouterr().out
    assert table.splitlines()[0].split() == ["video", "score", "class"] and "could not be read" in table


def test_a_killed_prediction_goes_on(
    runs: Path, videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three files were done, the third line was cut short; one of the two has changed since."""
    out = tmp_path / "out"
    words = ["weights=tiny", f"output_dir={runs}", f"output={out}"]
    first = predicted(*map(str, videos), *words)
    whole = (out / "predictions.jsonl").read_text(encoding="utf-8")
    lines = whole.splitlines(keepends=True)
    (out / "predictions.jsonl").unlink()
    (out / "predictions.part0.jsonl").write_text(lines[0] + lines[1] + lines[2][:40], encoding="utf-8")
    shutil.copy(videos[2], videos[1])
    looked_at: list[str] = []
    add = ResultsFolder.add
    monkeypatch.setattr(
        "mvit_video.prediction.folder.ResultsFolder.add",
        lambda self, one, **more: (looked_at.append(one.path), add(self, one, **more)),
    )
    again = predicted(*map(str, videos), *words)
    assert looked_at == [str(videos[1]), str(videos[2])]
    assert [again[0], again[2]] == [first[0], first[2]] and again[1].predictions == first[2].predictions
    assert not list(out.glob("*part*")) and len((out / "predictions.jsonl").read_text().splitlines()) == 3
    with pytest.raises(ValueError, match="holds results of other weights or options"):
        predicted(str(videos[0]), *words, "data.test_temporal_views=1")


def test_a_file_that_grew_while_it_was_looked_at_is_looked_at_again(
    runs: Path, videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that was still on its way: what is known is that of its first part."""
    predict_files, looked_at = ClassPredictor.predict, []

    def growing(self: ClassPredictor, files: list[str], **more: Any) -> Iterator[FilePrediction]:
        for one in predict_files(self, files, **more):
            looked_at.append(one.path)
            if len(looked_at) == 1:
                with open(one.path, "ab") as file:
                    file.write(bytes(100))
            yield one

    monkeypatch.setattr(ClassPredictor, "predict", growing)
    words = [*map(str, videos), "weights=tiny", f"output_dir={runs}", f"output={tmp_path / 'out'}"]
    for _ in range(3):
        predicted(*words)
    assert looked_at == [*map(str, videos), str(videos[0])]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("predictions.jsonl", "mine", r"holds a predictions\.jsonl that no prediction of this program wrote"),
        ("predictions.csv", "mine", r"holds a predictions\.csv that no prediction of this program wrote"),
        ("results.json", "mine", "holds results of other weights or options"),
        ("results.json", "[]", "holds results of other weights or options"),
    ],
)
def test_files_of_others_are_not_written_over(
    runs: Path, videos: list[Path], tmp_path: Path, name: str, content: str, message: str
) -> None:
    place = tmp_path / "out" / name
    place.parent.mkdir()
    place.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        predicted(str(videos[0]), "weights=tiny", f"output_dir={runs}", f"output={place.parent}")
    assert place.read_text(encoding="utf-8") == content and list(place.parent.iterdir()) == [place]


def test_what_a_predictor_does_not_take(runs: Path) -> None:
    with pytest.raises(ValueError, match=r"explain: is for .*, and predictor\.explain\(PATH\) gives the maps"):
        Predictor("tiny", {"explain": True}, output_dir=runs)
    with pytest.raises(ValueError, match=r"annotate: is for `python -m mvit_video\.predict`"):
        Predictor("tiny", {"annotate": True}, output_dir=runs)
    predictor = Predictor("tiny", output_dir=runs)
    with pytest.raises(TypeError, match=r"is given a ndarray: predictor\.predict\(\[PATH, \.\.\.\]\) takes several"):
        predictor(np.zeros((8, 32, 32, 3), np.uint8))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a Predictor takes the path of a file, and is given a ndarray"):
        predictor.predict([np.zeros((8, 32, 32, 3), np.uint8)])  # type: ignore[list-item]


def test_drawings_of_later_files_replace_no_others(runs: Path, videos: list[Path], tmp_path: Path) -> None:
    """Files of one name in two folders, drawn by two commands into one folder of results."""
    other, out = tmp_path / "also" / videos[0].name, tmp_path / "out"
    other.parent.mkdir()
    shutil.copy(videos[1], other)
    words = ["weights=tiny", f"output_dir={runs}", f"output={out}", "annotate=true"]
    predicted(str(videos[0]), *words)
    first = (out / "annotated" / "a.mp4").read_bytes()
    predicted(str(other), str(videos[0]), *words)
    assert (out / "annotated" / "a.mp4").read_bytes() == first
    assert sorted(path.name for path in (out / "annotated").iterdir()) == ["a-2.mp4", "a.mp4"]
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert {line["path"]: line["drawn"] for line in lines} == {str(videos[0]): "a", str(other): "a-2"}


def test_scores_that_are_no_numbers_are_said(runs: Path, videos: list[Path], tmp_path: Path) -> None:
    state = torch.load(runs / "tiny" / "checkpoints" / "best.pt", weights_only=True)
    weight = state["model"]["head.projection.weight"]
    state["model"]["head.projection.weight"] = 3e38 * weight.sign()
    torch.save(state, tmp_path / "broken.pt")
    words = [str(videos[0]), f"weights={tmp_path / 'broken.pt'}", f"output={tmp_path / 'out'}"]
    for more in ([], ["windows=true"], ["explain=true"]):
        with pytest.raises(ValueError, match=r"a\.mp4: the model's scores for it are not finite: its weights, or the"):
            predicted(*words, *more)
        shutil.rmtree(tmp_path / "out")


def test_what_cannot_be_predicted(
    runs: Path, videos: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = [f"output_dir={runs}", f"output={tmp_path / 'out'}"]
    video = str(videos[0])
    with pytest.raises(ValueError, match=r"weights=tinny: neither .* did you mean 'tiny'\?"):
        predicted(video, "weights=tinny", *given)
    with pytest.raises(ValueError, match="nothing to predict with is given"):
        predicted(video, *given)
    with pytest.raises(ValueError, match="nothing to look at is given: name files"):
        predicted("weights=tiny", *given)
    with pytest.raises(ValueError, match="none of the 1 videos could be read"):
        broken = tmp_path / "broken.mp4"
        broken.write_bytes(b"\0")
        predicted(str(broken), "weights=tiny", *given)


def test_weights_without_class_names(
    runs: Path, videos: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = torch.load(runs / "tiny" / "checkpoints" / "best.pt", weights_only=True)["model"]
    torch.save(state, tmp_path / "plain.pth")
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"word {number}" for number in range(8)), encoding="utf-8")
    words = [str(videos[0]), f"weights={tmp_path / 'plain.pth'}", "+experiment=motion_mvitv2", "trainer.device=cpu"]
    words += [*SMALL_CLIPS, "trainer.threads=1", "trainer.precision=fp32"]
    found = predicted(*words, f"output={tmp_path / 'out'}")
    assert found[0].predictions[0].name.startswith("class ") and "--class-names FILE) with one" in caplog.text
    named = predicted(*words, f"output={tmp_path / 'out2'}", f"class_names={names}")
    assert [one.score for one in named[0].predictions] == [one.score for one in found[0].predictions]
    assert named[0].predictions[0].name.startswith("word ")
    names.write_text("one\ntwo\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"has 2 names, and the model of .* 8 classes"):
        predicted(*words, f"output={tmp_path / 'out3'}", f"class_names={names}")


def test_words_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.mp4").touch()
    words = ["a=b.mp4", "weights=x", "clips", "https://host/v?id=1", "+experiment=k400_mvitv2_s", "--help"]
    assert predict.split_words([*words, "--config-dir", "own"]) == (
        ["weights=x", "+experiment=k400_mvitv2_s", "--help", "--config-dir", "own"],
        ["a=b.mp4", "clips", "https://host/v?id=1"],
    )


@pytest.mark.parametrize(
    ("sources", "more", "processes"),
    [
        (["rtsp://camera.example/stream"], {}, 1),
        (["https://example.org/growing.ts"], {"live": True}, 1),
        (["a.MP4"], {}, 1),
        (["a.jpg"], {}, 1),
        (["a.mp4", "b.mp4"], {}, None),
        (["folder.mp4"], {}, None),
        (["list.csv"], {}, None),
        (["a.mp4"], {"launcher": LocalLauncher(processes=2)}, 2),
    ],
)
def test_one_file_and_one_stream_take_one_process_on_a_machine_with_several_gpus(
    sources: list[str], more: dict[str, Any], processes: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.mp4").mkdir()
    launched: list[Predict] = []
    monkeypatch.setattr("mvit_video.cluster.launch.launch", lambda job, config: launched.append(config))
    predict.run(dataclasses.replace(Predict(), **{"sources": sources, "launcher": LocalLauncher()} | more))
    assert isinstance(launched[0].launcher, LocalLauncher) and launched[0].launcher.processes == processes


def test_the_command_itself(
    runs: Path, videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(videos[0], tmp_path / "odd ${x}, [y]='z'.mp4")
    monkeypatch.setattr(sys, "argv", ["predict.py", "odd ${x}, [y]='z'.mp4", "weights=tiny", f"output_dir={runs}"])
    predict.main()
    assert "odd ${x}" in capfd.readouterr().out
    assert (tmp_path / "predictions" / "predictions.jsonl").exists()
    monkeypatch.setattr(sys, "argv", ["predict.py", "absent.mp4", "weights=tiny", f"output_dir={runs}"])
    with pytest.raises(SystemExit) as stop:
        predict.main()
    assert stop.value.code == 1 and "absent.mp4: there is no such file or folder" in capfd.readouterr().err


def test_a_long_video_in_windows(
    runs: Path, videos: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    words = ["weights=tiny", f"output_dir={runs}", f"output={out}", "windows=true", "window_s=0.5", "threshold=1"]
    words.append("annotate=true")
    caplog.set_level("INFO")
    found = predicted(str(videos[0]), str(videos[1]), *words)
    assert f"predictions.jsonl; drawings in {out}/timelines, {out}/annotated" in caplog.text
    windows = found[0].windows
    assert windows is not None and len(windows) > 2 and windows[1].start == pytest.approx(0.25)
    line = json.loads((out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert [set(window) for window in line["windows"]] == [{"start", "end", "predictions"}] * len(windows)
    timeline = json.loads((out / "timelines" / "a.json").read_text(encoding="utf-8"))
    (only,) = timeline["segments"]
    assert (only["start"], only["class"]) == (0.0, "other") and only["end"] == pytest.approx(windows[-1].end)
    assert sorted(path.name for path in (out / "timelines").iterdir()) == ["a.json", "a.png", "b.json", "b.png"]
    assert sorted(path.name for path in (out / "annotated").iterdir()) == ["a.mp4", "b.mp4"]
    rows = list(csv.DictReader((out / "predictions.csv").open(encoding="utf-8")))
    assert float(rows[5]["start"]) == pytest.approx(0.25) and len(rows) == 5 * sum(len(one.windows) for one in found)  # type: ignore[arg-type]


def test_a_video_shorter_than_a_clip_is_named(
    runs: Path, videos: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["weights=tiny", f"output_dir={runs}", f"output={tmp_path / 'out'}", "data.sampling_rate=20"]
    assert predicted(str(videos[0]), *words)[0].error is None
    assert "its last frame is repeated" in caplog.text


def test_from_python(runs: Path, videos: list[Path], tmp_path: Path) -> None:
    assert Predictor is mvit_video.Predictor
    predictor = Predictor("tiny", output_dir=runs, top_k=3)
    one = predictor(videos[0])
    assert len(one.predictions) == 3 and {best.name for best in one.predictions} <= set(predictor.class_names)
    every = list(predictor.predict(tmp_path / "videos"))
    assert [found.path for found in every] == list(map(str, videos))
    assert [best.score for best in every[0].predictions] == pytest.approx([b.score for b in one.predictions], abs=1e-6)
    command = predicted(str(videos[0]), f"weights={runs / 'tiny'}", f"output={tmp_path / 'out'}", "top_k=3")
    assert [best.score for best in one.predictions] == pytest.approx(
        [b.score for b in command[0].predictions], abs=1e-6
    )
    assert predictor(tmp_path / "absent.mp4").error
    with pytest.raises(ValueError, match=r"weights=tinny: .* did you mean 'tiny'\?"):
        Predictor("tinny", output_dir=runs)
    windows = Predictor("tiny", {"windows": True}, output_dir=runs)(videos[0]).windows
    assert windows is not None and len(windows) >= 1


def test_ranks_share_the_files(runs: Path, videos: list[Path], tmp_path: Path) -> None:
    """Two ranks, one after the other: each looks at its own files, and the results are in the order of the files."""
    config = compose("predict", ["weights=tiny", f"output_dir={runs}"])
    take_weights_options(config, ["weights", "output_dir"])
    device = torch.device("cpu")
    alone = build_predictor(to_object(config), World(rank=0, size=1, device=device))  # type: ignore[arg-type]
    files = [str(video) for video in videos]
    shares = []
    for rank in (1, 0):
        predictor = dataclasses.replace(alone, world=World(rank=rank, size=2, device=device))
        folder = ResultsFolder(tmp_path / "out", rank=rank, about={"top_k": 5})
        folder.begin()
        shares.append([one.path for one in predictor.predict(files)])
        for one in predictor.predict(files):
            folder.add(one, state=None)
    assert shares == [files[1:2], files[::2]]
    found = folder.finish(files)
    assert [one.path for one in found] == files
    for one, other in zip(found, alone.predict(files), strict=True):
        assert [best.name for best in one.predictions] == [best.name for best in other.predictions]


def test_published_weights_bring_experiment_preprocessing_and_words(
    videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With made-up weights in the place of the published file."""
    made_up = tmp_path / "made_up.pth"
    made_up.touch()
    monkeypatch.setattr("mvit_video.build.stored_options.fetched", lambda place: str(made_up))
    monkeypatch.setattr("mvit_video.build.stored_options.options_of", lambda checkpoint, run_dir: None)
    monkeypatch.setattr("mvit_video.build.prediction.training_state_of", lambda checkpoint: {})
    words = ["weights=k400_mvitv2_s", "data.test_temporal_views=1"]
    assert predict.groups(words) == ["+experiment=k400_mvitv2_s"]
    assert predict.groups([*words, "+experiment=own"]) == []
    config = compose("predict", [*predict.groups(words), *words, "data.mean=[0.1,0.1,0.1]", "data.crop_size=112"])
    predict.adapt(config, ["weights", "data.test_temporal_views", "data.crop_size"], sources=[str(videos[0])])
    checked = to_object(config)
    assert isinstance(checked, Predict) and checked.checkpoint == str(made_up)
    assert (checked.data.mean, checked.data.crop_size) == ([0.45] * 3, 112)  # the publishers'; the command line's
    assert checked.data.test_temporal_views == 1 and checked.name == "k400_mvitv2_s"  # type: ignore[attr-defined]
    names = class_names_of(checked, made_up, None)
    assert len(names) == 400 and names[0] == "abseiling"


def test_where_and_when_the_model_looks(runs: Path, videos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["weights=tiny", f"output_dir={runs}", f"output={out}", "explain=true", "windows=true", "window_s=0.5"]
    (found,) = predicted(str(videos[0]), *words)
    assert found.windows is not None
    written = json.loads((out / "explained" / "a.json").read_text(encoding="utf-8"))
    assert [clip["class"] for clip in written["clips"]] == [w.predictions[0].name for w in found.windows]
    scores = [clip["score"] for clip in written["clips"]]
    assert scores == pytest.approx([window.predictions[0].score for window in found.windows], abs=1e-3)
    for clip, window in zip(written["clips"], found.windows, strict=True):
        assert sum(frame["share"] for frame in clip["frames"]) == pytest.approx(1, abs=1e-3)
        seconds = [frame["second"] for frame in clip["frames"]]
        assert seconds == sorted(seconds) and window.start - 0.04 < seconds[0] <= seconds[-1] < window.end
    with VideoReader(out / "explained" / "a.mp4") as film:
        assert film.info.num_frames == 4 * len(found.windows) and film.info.width == 2 * film.info.height
    assert (out / "explained" / "a.png").stat().st_size > 5000


def test_explained_from_python(runs: Path, videos: list[Path]) -> None:
    predictor = Predictor("tiny", output_dir=runs)
    clips = list(predictor.explain(videos[0]))
    assert len(clips) == 2 and len({clip.name for clip in clips}) == 1
    other = next(name for name in predictor.class_names if name != clips[0].name)
    assert [clip.name for clip in predictor.explain(videos[0], name=other)] == [other] * 2
    first = clips[0]
    assert first.pictures.shape == (4, 32, 32, 3) == first.overlay().shape and first.maps.sum() == pytest.approx(1)
    weak = first.maps < 0.01 * first.maps.max()
    assert np.abs(first.overlay().astype(int) - first.pictures)[weak].max() <= 20
    with pytest.raises(ValueError, match="'move_lef': the model has no such class; did you mean 'move_left'"):
        predictor.explain(videos[0], name="move_lef")


def said_by_head(run: Path, features: np.ndarray) -> np.ndarray:
    """Probabilities (rows, classes) that the head of a run makes of features."""
    state = torch.load(run / "checkpoints" / "best.pt", weights_only=True)["model"]
    logits = features @ state["head.projection.weight"].numpy().T + state["head.projection.bias"].numpy()
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def test_features_are_what_the_classes_come_from(runs: Path, videos: list[Path], tmp_path: Path) -> None:
    """Of each view of a file, and of each window; from Python nothing is written."""
    words = [str(videos[0]), "weights=tiny", f"output_dir={runs}", "features=true", "top_k=8"]
    (whole,) = predicted(*words, f"output={tmp_path / 'out'}")
    views = np.load(tmp_path / "out" / "features" / "a.npy")
    python = Predictor("tiny", {"features": True, "windows": True, "window_s": 0.5}, output_dir=runs, top_k=8)
    windowed = python(videos[0])
    rows = windowed.features
    assert rows is not None and windowed.windows is not None and "features" not in windowed.to_json()
    assert views.dtype == rows.dtype == np.float32 and views.shape == (2, rows.shape[1])
    found = [whole.predictions, *(window.predictions for window in windowed.windows)]
    said = [said_by_head(runs / "tiny", views).mean(0), *said_by_head(runs / "tiny", rows)]
    for predictions, probabilities in zip(found, said, strict=True):
        expected = dict(zip(python.class_names, probabilities, strict=True))
        assert {best.name: best.score for best in predictions} == pytest.approx(expected, abs=1e-5)


def test_a_video_that_was_stopped_has_the_features_of_all_its_windows(
    runs: Path, videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is noted of the windows before the stop has none: the video is looked at anew."""
    words = [str(videos[0]), "weights=tiny", f"output_dir={runs}", f"output={tmp_path / 'out'}", "features=true"]
    words += ["windows=true", "window_s=0.4", "trainer.eval_batch_size=2"]
    add = BegunVideos.add

    def stopped(*given: Any) -> None:
        add(*given)
        interruption._received.append((signal.SIGTERM, 0.0))

    monkeypatch.setattr(BegunVideos, "add", stopped)
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        predicted(*words)
    interruption._received.clear()
    monkeypatch.undo()
    (found,) = predicted(*words)
    assert found.windows is not None
    assert len(np.load(tmp_path / "out" / "features" / "a.npy")) == len(found.windows) > 4


def test_jobs_share_the_files_and_the_last_one_puts_the_results_together(
    runs: Path, videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three jobs of an array, called one after the other; one of them was stopped and goes on."""
    out = tmp_path / "out"
    words = ["weights=tiny", f"output_dir={runs}", f"output={out}", "parts=3"]
    config = compose("predict", words)
    predict.adapt(config, ["weights", "output_dir", "output", "parts"], sources=[str(tmp_path / "videos")])
    checked = to_object(config)
    assert isinstance(checked, Predict)
    jobs = split_into_parts(checked)
    late = tmp_path / "videos" / "late.mp4"
    shutil.copy(videos[0], late)  # listed by none of the jobs
    monkeypatch.setattr("mvit_video.runtime.interruption._received", [(signal.SIGUSR2, 0.0)])
    with pytest.raises(Interrupted, match="stopped by SIGUSR2; the same command goes on"):
        predict_job(jobs[1])
    monkeypatch.undo()
    for job in (jobs[0], jobs[2]):
        assert predict_job(job) == []
    assert not (out / "predictions.jsonl").exists()
    looked_at: list[str] = []
    monkeypatch.setattr(ResultsFolder, "add", lambda self, one: looked_at.append(one.path))
    assert predict_job(jobs[1]) == []
    assert looked_at == []  # its only file was done when it was stopped
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["path"] for line in lines] == [str(video) for video in videos]
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert (results["complete"], results["num_files"]) == (True, 3)
    assert len((out / "predictions.csv").read_text().splitlines()) == 1 + 3 * 5


def test_parts_are_submitted_as_one_array(
    runs: Path, videos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        "weights=tiny",
        f"output_dir={runs}",
        "launcher=slurm",
        "launcher.dry_run=true",
        "launcher.gpus_per_node=1",
    ]
    config = compose("predict", [*given, "parts=2"])
    predict.adapt(config, ["weights", "output_dir"], sources=[str(tmp_path / "videos")])
    checked = to_object(config)
    assert isinstance(checked, Predict)
    with pytest.raises(ValueError, match="parts=2: give output=FOLDER, which all jobs write to"):
        predict.run(checked)
    checked.output = str(tmp_path / "out")
    predict.run(checked)
    script = capsys.readouterr().out
    assert "#SBATCH --array=0-1%2" in script and "--job-name=predict-tiny" in script
    assert json.loads((tmp_path / "out" / "files.json").read_text()) == [str(video) for video in videos]
    for changes, text in (
        ({"parts": 9}, "parts=9 for 3 videos: give parts=3 or fewer"),
        ({"sources": ["-"]}, "parts=2: - is a stream, which cannot be shared out"),
    ):
        with pytest.raises(ValueError, match=text):
            split_into_parts(dataclasses.replace(checked, **changes))
    for changes, text in (
        ({"part": 2}, "part=2: they are numbered from 0 to 1"),
        ({"launcher": LocalLauncher()}, "parts=2: jobs that run beside each other. Give launcher=slurm"),
        ({"parts": None, "part": 1}, r"part=1: of how many\? Give parts=N, too"),
    ):
        with pytest.raises(ValueError, match=text):
            predict_job(dataclasses.replace(checked, **changes))


def test_the_first_job_makes_the_list(tmp_path: Path) -> None:
    assert shared_file_list(tmp_path, lambda: ["b", "a\n\udcff"]) == ["b", "a\n\udcff"]
    assert shared_file_list(tmp_path, lambda: ["c"]) == ["b", "a\n\udcff"]
    assert [path.name for path in tmp_path.iterdir()] == ["files.json"]
    assert Part(1, 3).share(list("abcdefgh")) == ["b", "e", "h"]


def test_a_long_video_goes_on_in_the_middle(
    runs: Path, videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after two of its batches: the windows of those are not looked at again, and the result is the same."""
    words = ["weights=tiny", f"output_dir={runs}", "windows=true", "window_s=0.2", "trainer.eval_batch_size=2"]
    (whole,) = predicted(str(videos[0]), *words, f"output={tmp_path / 'whole'}")
    assert whole.windows is not None and len(whole.windows) > 8
    out = tmp_path / "out"
    add = BegunVideos.add

    def stopped(self: BegunVideos, path: str, first: int, *rest: Any) -> None:
        add(self, path, first, *rest)
        if first == 2:
            interruption._received.append((signal.SIGTERM, 0.0))

    monkeypatch.setattr(BegunVideos, "add", stopped)
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        predicted(str(videos[0]), *words, f"output={out}")
    interruption._received.clear()
    firsts: list[int] = []
    monkeypatch.setattr(BegunVideos, "add", lambda self, path, first, *rest: firsts.append(first))
    (again,) = predicted(str(videos[0]), *words, f"output={out}")
    assert firsts[0] == 4 and firsts == sorted(firsts)
    assert again.to_json() == whole.to_json()
    assert not list(out.glob("windows*"))


def test_what_was_begun(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(b"1")
    begun = BegunVideos(tmp_path / "windows.part0.jsonl", "windows.part*.jsonl")
    windows = [Window(float(start), start + 2.0, (ClassScore("x", 0.5),)) for start in range(5)]
    for first in (0, 2):
        begun.add(str(video), first, windows[first : first + 2], np.array([first + 0.1, 1 / 3]))
    begun.add(str(video), 3, windows[3:], np.zeros(2))  # of another attempt
    found = begun.of([str(video)])[str(video)]
    assert found.windows == tuple(windows[:4])
    kept = found.up_to(4, group=2)
    assert kept is not None and kept[0] == tuple(windows[:4]) and kept[1].tolist() == [2.1, 1 / 3]
    assert [len((found.up_to(most, group=group) or ([],))[0]) for most, group in ((3, 2), (4, 3), (1, 1))] == [2, 0, 0]
    assert same_times(found.windows, [(n, n + 2) for n in range(9)]) and not same_times(found.windows, [(0, 2), (1, 4)])
    video.write_bytes(b"12")
    assert begun.of([str(video)]) == {}


def test_published_weights_are_taken_where_none_are_named(tmp_path: Path) -> None:
    assert predict.default_weights(["top_k=3"], ["a.mp4", "b.jpg"]) == "video"
    assert predict.default_weights([], ["a.PNG", "x/b.jpg"]) == "image"
    assert predict.default_weights([], []) is None
    for word in ("weights=birds", "run=birds", "checkpoint=a.pt", "+experiment=k400_mvitv2_s"):
        assert predict.default_weights([word], ["a.mp4"]) is None


def test_a_run_is_no_folder_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("birds").mkdir()
    Path("birds/config.yaml").touch()
    with pytest.raises(ValueError, match=r"birds: is the directory of a run, .*; weights=birds predicts with it"):
        predict.adapt(OmegaConf.create({"sources": []}), [], sources=["birds"], default="video")


def test_a_plain_command_says_what_it_takes_and_where_to_put_it_without_a_network(
    videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hub = torch.hub._hub_dir
    torch.hub.set_dir(tmp_path / "hub")

    def no_network(*args: object, **options: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", no_network)
    monkeypatch.setattr("mvit_video.models.weights.download._ATTEMPTS_UNREACHED", 1)
    monkeypatch.setattr(sys, "argv", ["predict.py", str(videos[0])])
    try:
        with pytest.raises(SystemExit) as stop:
            predict.main()
    finally:
        torch.hub._hub_dir = hub
    said = capfd.readouterr().err
    assert stop.value.code == 1
    assert "weights=NAME is not given: the published k400_mvitv2_s are taken, which know the 400 actions" in said
    assert "Fetch it where there is a network and put it at" in said and str(tmp_path / "hub" / "checkpoints") in said


def test_a_full_disk(runs: Path, videos: list[Path], tmp_path: Path) -> None:
    """Files may not grow beyond some bytes, which is what a quota does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(ValueError, match=r"out: results cannot be written there: File too large. Make room, or"):
            predicted(str(videos[0]), "weights=tiny", f"output_dir={runs}", f"output={tmp_path / 'out'}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
