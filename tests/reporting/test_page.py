"""The page as text: what stands in it, and that nothing of a run becomes markup."""

import json
import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from mvit_video import report
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.sampling import ClipSampler
from mvit_video.preparation.inventory import take_inventory
from mvit_video.preparation.results import Effort, write_results
from mvit_video.preparation.scan import ScanTask, scan_file
from mvit_video.preparation.video_content import VideoContent
from mvit_video.reporting.answers import read_evaluation
from mvit_video.reporting.page import class_rows, printable
from mvit_video.reporting.run_facts import read_run
from mvit_video.runtime.journal import append_event, read_events
from tests.reporting.written_runs import (
    CLASSES,
    FILES,
    evaluate,
    image_manifest,
    label_set_manifest,
    sure_of,
    write_images,
    write_run,
)


class Parsed(HTMLParser):
    """A page taken apart.

    Attributes:
        tags: (name, attributes) in order.
        text: of the page without style and script.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._hidden = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._hidden else data

    def count(self, *names: str) -> int:
        return sum(tag in names for tag, _ in self.tags)


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "known_queue", lambda folders: {})


def page_of(output: Path, *words: object) -> Parsed:
    assert report.main([*map(str, words), "--output", str(output)]) == 0
    return Parsed(output)


@pytest.fixture(scope="module")
def both(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Parsed:
    """The page of two runs whose names, classes and files are markup."""
    output = tmp_path_factory.mktemp("page") / "report.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "known_queue", lambda folders: {})
        return page_of(output, written / "first <b>run", written / "second")


def test_names_are_text_and_never_markup(both: Parsed) -> None:
    assert both.count("script", "style") == 2 and both.count("b", "i", "u", "img") == 0
    for _, attributes in both.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("src", "href", "poster"):
            address = attributes.get(name) or "#"
            assert address.startswith(("#", "data:video/mp4;base64,", "data:image/jpeg;base64,"))
    for name in (*CLASSES, "first <b>run", *FILES[:3], "<u>_(\\d+)</u>", "<i>x</i>", "the <b>disk</b> is full"):
        assert name in both.text, name
    assert "49" not in [word.strip("/.mp4") for word in both.text.split()]


def test_a_training_file_that_several_ranks_could_not_read_counts_once(tmp_path: Path) -> None:
    run = write_run(tmp_path, "ranks")
    for rank, names in enumerate((["a.mp4", "b.mp4"], ["b.mp4"])):
        lines = [json.dumps({"step": 1, "path": name, "reason": "torn"}) + "\n" for name in names]
        (run / f"failed_videos.{rank}.jsonl").write_text("".join(lines) + '{"step": 2, "pa')
    facts = read_run(run, name="ranks", label="ranks", options={}, environment={}, queue={})
    assert facts.failed == 2


def test_the_policy_admits_nothing_from_elsewhere(both: Parsed) -> None:
    (policy,) = (a["content"] for tag, a in both.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith(
        "default-src 'none'; img-src data:; media-src data:; style-src 'sha256-"
    )
    assert "unsafe" not in policy and "http" not in policy


def test_several_runs_share_curves_classes_and_mistakes(both: Parsed) -> None:
    charts = [json.loads(str(attributes["data-lines"])) for _, attributes in both.tags if "data-lines" in attributes]
    assert [[line["label"] for line in lines] for lines in charts] == [["first <b>run", "second"]] * 6
    assert charts[0][0]["y"][:2] == [1.975, 1.95]
    assert both.count("video") == 4
    for text in (
        "Comparison of 2 runs",
        "optim.lr0.0010.01",
        "first <b>run and second61230",
        "evaluation_reversed1 x 1 views, 32 pixels, frames reversed",
        "first <b>run: 1 video of the evaluation could not be read, and count as wrong.",
        "2 of 6 videos are named wrongly.",
        "✗ " + CLASSES[3],
    ):
        assert text in both.text, text


def test_one_run_shows_all_its_options(written: Path, tmp_path: Path) -> None:
    page = page_of(tmp_path / "a.html", written / "second", "--mistakes", 0)
    assert "All 4 options" in page.text and "[0.9, 0.999]" in page.text
    assert "None were asked for." in page.text and page.count("video") == 0
    other = page_of(tmp_path / "b.html", written / "first <b>run", "--evaluation", "evaluation_reversed")
    assert "evaluation_reversed" in other.text and "4 of 6 videos are named wrongly" in other.text


def test_what_is_gone_or_left_out_is_named(written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (written / "first <b>run", "--evaluation", "evaluation_reversed")  # takes all of them for one class
    page = page_of(tmp_path / "a.html", *words)
    assert "not shown: the file is gone" in page.text and page.count("video") == 2
    said = capsys.readouterr().out
    assert "clips or pictures of 2 mistakes; 2 files could not be shown, the page says why" in said
    page = page_of(tmp_path / "b.html", *words, "--media-mb", "0.001")
    assert "left out: the page holds 0.001 MB of clips and pictures" in page.text and page.count("video") == 0
    assert "left out for want of room (--media-mb)" in capsys.readouterr().out


def test_a_long_journal_is_shown_in_part(tmp_path: Path) -> None:
    """33,000 attempts that were refused made a page of 14 MB."""
    run = write_run(tmp_path / "runs", "long")
    for restart in range(1500):
        append_event(run, "start", job="local", restart=restart)
    begun = len(read_events(run)) - 1500
    page = page_of(tmp_path / "page.html", run)
    assert f"{begun + 1500:,} events" in page.text or f"{begun + 1500} events" in page.text
    assert f"left out {begun + 500} events between are in journal.jsonl alone" in page.text
    assert "restart 1499" in page.text and "restart 700" not in page.text


def test_runs_that_did_not_come_far(tmp_path: Path) -> None:
    """Stopped before its options, killed in its first steps, failed, and never evaluated."""
    runs = tmp_path / "runs"
    write_run(runs, "failed", ended="failed")
    killed, begun = write_run(runs, "killed"), write_run(runs, "begun")
    journal = killed / "journal.jsonl"
    first = json.loads(journal.read_text().splitlines()[0])
    journal.write_text(json.dumps({**first, "pid": 2**22 + 1}) + "\n")
    (killed / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "time": 1.0, "loss": 2.0}\n{"kind": "tr')
    for name in ("config.yaml", "environment.json", "run.json", "metrics.jsonl"):
        (begun / name).unlink()
    page = page_of(tmp_path / "page.html", *(runs / name for name in ("failed", "killed", "begun")))
    for text in (
        "failed is failed: the <b>disk</b> is full. What follows is as far as it came.",
        "killed is failed: process 4194305 is gone without a word (killed?)",
        "begun ended before it wrote its options.",
        "killed has no evaluation, so nothing is said of classes and mistakes: ",
        f"python -m mvit_video.evaluate run={killed}",
        "There is no evaluation.",
    ):
        assert text in page.text, text
    alone = page_of(tmp_path / "alone.html", begun)
    assert "Nothing was logged yet." in alone.text and "No options were written." in alone.text


def test_runs_on_images_and_with_several_classes(written: Path, tmp_path: Path) -> None:
    images, sets = write_run(tmp_path / "runs", "images", items=3), write_run(tmp_path / "runs", "sets", items=3)
    evaluate(images, image_manifest(write_images(tmp_path / "images")), sure_of(1, 1, 0))
    paths = [str(written.parent / "videos" / name) for name in FILES[:3]]
    evaluate(sets, label_set_manifest(paths), [[0.9, 0.8, 0.7, 0.1]] * 3, data={"fingerprint": "other"})
    page = page_of(tmp_path / "images.html", images)
    assert page.count("img") == 2 and "2 of 3 images are named wrongly." in page.text
    page = page_of(tmp_path / "sets.html", sets)
    assert (
        page.count("video") == 3 and "Where several classes are right: the likeliest class that is wrong." in page.text
    )
    assert "so none is taken for another" in page.text and "average precision" in page.text
    page = page_of(tmp_path / "both.html", images, sets)
    assert "The evaluations are of different sets of files: their scores do not compare." in page.text
    assert page.count("img") == 2 and page.count("video") == 3


def test_runs_of_detectors(tmp_path: Path) -> None:
    """Precisions, those of the classes, and the sheets that the evaluation drew, side by side."""
    runs = [write_run(tmp_path / "runs", name) for name in ("first", "second")]
    for place, run in enumerate(runs):
        per_class = {
            "<b>cat": {"box_ap": 40.0 + place, "box_ap50": 60.0, "mask_ap": 30.0, "instances": 7},
            "dog": {"box_ap": None, "box_ap50": None, "mask_ap": None, "instances": 0},
        }
        numbers = {"box_ap": 41.4 + place, "box_ap_large": None, "mask_ap": 43.7, "num_images": 3, "num_failed": 1}
        about = {"split": "test", "detector": {"short_side": 96}, "data": {"fingerprint": "f00"}}
        (run / "evaluation").mkdir()
        text = json.dumps({**numbers, "per_class": per_class, **about})
        (run / "evaluation" / "results.json").write_text(text, encoding="utf-8")
        logged = {
            "kind": "eval",
            "step": 40,
            "time": 1.0,
            "box_ap": 41.4,
            "mask_ap": 43.7,
            "box_ap50": 2.0,
            "mask_ap50": 20.0,
        }
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(logged) + "\n")
    Image.new("RGB", (1400, 700)).save(runs[0] / "evaluation" / "worst.png")
    Image.new("RGB", (900, 300)).save(runs[1] / "evaluation" / "best.png")
    page = page_of(tmp_path / "page.html", *runs)
    for text in (
        "The worst images of first",
        "The best images of second",
        "average precision of boxes, and the number of annotated objects",
        "AP of boxes",
        "96 pixels",
        "first: 1 image of the evaluation could not be read",
        "<b>cat",
    ):
        assert text in page.text, text
    assert [(shown["width"], shown["height"]) for tag, shown in page.tags if tag == "img"] == [
        ("1000", "500"),
        ("900", "300"),
    ]
    assert "box_ap 42.40" in page.text
    cat, dog = class_rows([read_evaluation(run / "evaluation") for run in runs])
    assert (cat.scores, cat.count, dog.scores, dog.count) == ((40.0, 41.0), 7, (None, None), 0)
    small = page_of(tmp_path / "small.html", runs[0], "--media-mb", "0")
    assert small.count("img") == 0 and "left out: the page holds 0 MB" in small.text
    alone = page_of(tmp_path / "alone.html", runs[0])
    assert "Average precision" in alone.text and "Average precision at one overlap or size" in alone.text


def test_runs_of_folds_are_summed_up(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "runs", f"fold-{n}", data__folds=2, data__fold=n) for n in range(2)]
    text = page_of(tmp_path / "page.html", *runs).text
    assert "last validation (1 x 1 view): mean video_top1 60.00, standard deviation 0.00; 66.67 % of all 12" in text
    other = write_run(tmp_path / "runs", "other", data__folds=2, data__fold=1, optim__lr=3.0)
    text = page_of(tmp_path / "page.html", runs[0], other).text
    assert "fold-0 and other differ in more than the fold, and their mean would mean nothing" in text


def test_of_what_split_an_evaluation_is(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs", "a")
    for folder, split in (("evaluation", "train"), ("evaluation-2", "val")):
        (run / folder).mkdir()
        results = {"video_top1": 99.0, "temporal_views": 5, "spatial_views": 1, "split": split}
        (run / folder / "results.json").write_text(json.dumps(results))
    text = page_of(tmp_path / "page.html", run).text
    assert "a was evaluated on what it was trained on, which says nothing of new files." in text
    assert "aevaluation-2val5 x 1 viewsvideo_top1 99.00" in text


def prepared(folder: Path, files: Sequence[str]) -> Path:
    """What `prepare` writes of these files, one of which is broken."""
    manifest = Manifest(files, [0, 1, 1, 2], CLASSES, "train.csv")
    data = take_inventory({"train": manifest})
    content = VideoContent(ClipSampler(num_frames=4, sampling_rate=2, target_fps=10))
    records = {}
    for number, item in enumerate(data.items):
        assert item.state is not None
        records[number] = scan_file(ScanTask(item.location, item.state, "index", 10**8))
    folder.mkdir()
    effort = Effort(read=4, known=0)
    write_results(data, records, None, out=folder, keep=frozenset({"ok"}), content=content, effort=effort)
    return folder


def test_the_facts_of_prepare_are_shown(written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = written.parent / "videos"
    folder = prepared(tmp_path / "prepared", [str(videos / FILES[number]) for number in (0, 1, 2, 4)])
    # Of the run's own options: it trained from the index there.
    run = write_run(tmp_path / "runs", "a", items=3, data__source={"train": "prepared/train.index", "val": "b.csv"})
    page = page_of(tmp_path / "page.html", run)
    for text in (
        "Report of prepare",
        "packets were read",
        "usable3 (1 broken, 3 ok)",
        "problems with 1 video: 1 broken",
    ):
        assert text in page.text, text
    assert "broken.mp4" in page.text and "duration, s1.61.61.61.61.6" in page.text
    assert "It is of other data" not in page.text
    named = page_of(tmp_path / "page.html", written / "second", "--prepared", folder)
    assert "has 3 videos in train, trained or validated on were: second 6. It is of other data" in named.text
    assert report.main([str(run), "--prepared", str(tmp_path)]) == 1
    assert "holds no report.json; give the folder that was `out` of prepare" in capsys.readouterr().err


def test_an_audit_is_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs", "a")
    (run / "audit").mkdir()
    verdict = {"question": "Is a video there twice?", "level": "bad", "text": "2 are.", "next_step": "remove them"}
    (run / "audit" / "audit.json").write_text(json.dumps({"verdicts": [verdict]}))
    text = page_of(tmp_path / "page.html", run).text
    assert "a, audit: Is a video there twice? 2 are." in text and "wrong2 are. Next: remove them." in text


def test_many_classes_are_folded_and_the_worst_come_first(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(50)]
    manifest = Manifest([f"{number}.mp4" for number in range(50)], list(range(50)), tuple(names), "val.csv")
    run = write_run(tmp_path / "runs", "many", items=50)
    evaluate(run, manifest, sure_of(*[(n + 1) % 50 if n % 2 else n for n in range(50)], number=50))
    page = page_of(tmp_path / "page.html", run, "--mistakes", 3)
    assert "10 better classes" in page.text and "20 classes with fewer confusions are not drawn." in page.text
    rows = class_rows([None, read_evaluation(run / "evaluation")])
    assert [row.scores for row in rows[24:26]] == [(None, 0.0), (None, 100.0)]


def test_names_that_are_no_text_are_shown_as_far_as_they_are(written: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs", "a\udcffb", items=1)
    video = tmp_path / "c\udcffd.mp4"
    shutil.copy(written.parent / "videos" / FILES[0], video)
    evaluate(run, Manifest([str(video)], [0], CLASSES, "val.csv"), sure_of(1))
    page = page_of(tmp_path / "page.html", run)
    assert page.count("video") == 1 and "c\ufffdd.mp4" in page.text and "Run a\ufffdb" in page.text


def test_a_task_of_ones_own_shows_its_lines(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs", "own", items=1)
    (run / "evaluation").mkdir()
    (run / "evaluation" / "results.json").write_text('{"rating_error": 0.5, "split": "val"}')
    line = {"video": "a.mp4", "label": "good", "predicted": "bad", "top5": {"bad": 0.75, "good": 0.25}}
    (run / "evaluation" / "predictions.jsonl").write_text(json.dumps(line) + "\n")
    text = page_of(tmp_path / "page.html", run).text
    assert "rating_error0.50" in text and "1 of 1 video is named wrongly." in text and "✗ bad 75\xa0%" in text
    (run / "evaluation" / "predictions.jsonl").write_text('{"video": "a.mp4", "rating": 3}\n')
    text = page_of(tmp_path / "page.html", run).text
    assert "The answers of this task are of a kind that is not shown here." in text


def test_what_no_page_can_show_is_replaced() -> None:
    assert printable("a\u202eb\x00c\udc80\n") == "a\ufffdb\ufffdc\ufffd\n"
    assert printable(3) == 3
