"""The benchmark of image decoding runs, and says how far a library's pixels are from Pillow's. No timings."""

import bench_images
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
