"""The benchmarks of decoding images and of loaders run and compare, pixels too. No timings."""

import bench_images
import bench_images_loader
import numpy as np
import pytest

from tests.image_library import jpeg


def test_it_measures_what_is_installed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_images, "KINDS", (bench_images.Kind("tiny", 40, 56, {"quality": 90}),))
    bench_images.main(["--count", "2", "--rounds", "1", "--markdown"])
    printed = capsys.readouterr().out
    assert "tiny, 2 files of " in printed and "| decoder | images/s and core | over Pillow |" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("| mvit_video |")]
    assert line.endswith("| 0 |")  # equal to Pillow
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    bench_images.main([str(tmp_path / "a.jpg"), "--rounds", "1"])
    assert "the given files, 1 files of " in capsys.readouterr().out


@pytest.mark.parametrize(("offset", "expected"), [(0, 0), (3, 3)])
def test_a_difference_from_pillow_is_seen(offset, expected):
    found = bench_images.measure(
        [jpeg(1)],
        {"Pillow": bench_images.pillow, "other": lambda data: np.abs(bench_images.pillow(data).astype(int) - offset)},
        rounds=1,
    )
    assert found["Pillow"].error == 0 and found["other"].error == expected
    scaled = bench_images.measure([jpeg(1)], {"half": lambda data: bench_images.pillow(data)[::2]}, rounds=1)
    assert scaled["half"].error is None


def test_loaders_take_turns_and_are_compared(tmp_path, capsys):
    for number in range(2):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    files = [str(path) for path in sorted(tmp_path.glob("*.jpg"))]
    bench_images.main([*files, "--loader", "--rounds", "1", "--crop", "16", "--batch", "2", "--markdown"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 17  # the titles, decoding by two, five loaders in two parts of training, four in evaluation
    assert all(len(row) == 6 for row in rows)
    assert {row[1] for row in rows if row[0] == "| training, ready"} == {
        *("mvit_video", "mvit_video, data.exact=false", "timm", "torchvision", "torchvision, timm's RandAugment"),
    }
    with pytest.raises(SystemExit, match="--batch 3 with 2 files: give a batch that divides their number"):
        bench_images.main([*files, "--loader", "--batch", "3"])


def test_rates_and_ratios_are_medians_over_rounds(monkeypatch):
    clock = iter([0, 9, 0, 9, 0, 2, 0, 4, 0, 1, 0, 8, 0, 4, 0, 4])  # the first round is left out
    monkeypatch.setattr(bench_images_loader, "_start", lambda job: _Clocked(clock))
    work = [bench_images_loader.Job("decoding alone", name, lambda: None) for name in ("mvit_video", "Pillow")]
    results = bench_images_loader.measure(work, images=8, rounds=3)
    ours = results["decoding alone", "mvit_video"]
    assert ours.per_second == 4 and ours.over == {"mvit_video": 1, "Pillow": 2}
    printed = bench_images_loader.table(results, markdown=True).splitlines()
    assert printed[2:] == [
        "| decoding alone | mvit_video | 4 |  |  | 100% |",
        "| decoding alone | Pillow | 2 | 2.00x |  | 50% |",
    ]


class _Clocked:
    """A process whose epochs take what a list says."""

    def __init__(self, clock):
        self.clock = clock

    def send(self, number):
        self.begin = 0 if number is None else next(self.clock)

    def recv(self):
        return next(self.clock) - self.begin

    def close(self):
        pass


def test_without_a_number_of_files_there_are_whole_batches(capsys, monkeypatch):
    monkeypatch.setattr(bench_images, "loaders", lambda given: f"{given.count} files")
    for words, count in (["--loader"], 64), (["--loader", "--batch", "3"], 12), (["--loader", "--count", "5"], 5):
        bench_images.main(words)
        assert capsys.readouterr().out == f"{count} files\n"
