"""Weights by name: the table itself, what a name, URL or path means, and the files of the cache."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch

from mvit_video.models import CheckpointError, create_model, from_checkpoint, get_config, list_models
from mvit_video.models.weights import resolve
from mvit_video.models.weights import zoo as module
from mvit_video.models.weights.cache import Expected, check, record_of, state_of
from mvit_video.models.weights.download import DownloadError
from mvit_video.models.weights.loading import checkpoint_content
from mvit_video.models.weights.zoo import Entry, file_of_url, is_published, zoo
from tests.models.weights.weights_server import WeightsServer, weights_server
from tests.paths import ROOT

TINY = "mvitv2_motion"


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    before = torch.hub._hub_dir
    torch.hub.set_dir(tmp_path / "hub")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    yield tmp_path / "hub" / "checkpoints"
    torch.hub._hub_dir = before


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("made_up") / "weights.pt"
    torch.manual_seed(3)
    torch.save(checkpoint_content(create_model(TINY), "mvit_video"), path)
    return path.read_bytes()


@pytest.fixture
def server(weights: bytes) -> Iterator[WeightsServer]:
    with weights_server() as state:
        state.files["/tiny.pt"] = weights
        yield state


@pytest.fixture
def known(server: WeightsServer, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> dict[str, Entry]:
    """A table with one name, whose file the server has."""
    entry = replace(
        zoo()["k400_mvitv2_s"],
        name="tiny",
        url=f"{server.url}/tiny.pt",
        file="tiny.pt",
        sha256=hashlib.sha256(weights).hexdigest()[:8],
    )
    table = {"tiny": entry, "by_hand": replace(entry, name="by_hand", url=None, file="hand.pt", page="http://a/b")}
    monkeypatch.setattr(module, "zoo", lambda: table)
    return table


class TestTable:
    def test_files_and_addresses_are_each_of_one_name(self) -> None:
        for values in ([entry.file for entry in zoo().values()], [entry.url for entry in zoo().values() if entry.url]):
            assert len(values) == len(set(values)) > 40

    @pytest.mark.parametrize("entry", zoo().values(), ids=lambda entry: entry.name)
    def test_every_entry_is_complete(self, entry: Entry) -> None:
        assert (entry.url or entry.page) and entry.licence and urlsplit(entry.source).scheme == "https"
        assert re.fullmatch(r"[\w-]+(\.[\w-]+)*", entry.file) and Path(entry.file).suffix in module._SUFFIXES
        assert entry.sha256 is None or re.fullmatch(r"[0-9a-f]{6,64}", entry.sha256)
        assert entry.task in ("video", "image", "detection", "pretraining")
        assert entry.model is None or entry.model in list_models()
        assert entry.experiment is None or (ROOT / "conf" / "experiment" / f"{entry.experiment}.yaml").is_file()
        assert {"mean", "std", "num_frames"} <= entry.preprocessing.keys()

    @pytest.mark.parametrize(
        "entry", [e for e in zoo().values() if e.model and e.task == "video"], ids=lambda entry: entry.name
    )
    def test_preprocessing_fits_the_model(self, entry: Entry) -> None:
        assert entry.model is not None
        config = get_config(entry.model)
        assert entry.preprocessing["crop_size"] == config.crop_size
        assert entry.preprocessing["num_frames"] == config.num_frames

    def test_a_hash_in_the_name_of_a_file_is_the_published_one(self) -> None:
        found = {e.name: re.search(r"[-_]([0-9a-f]{8})\.pth$", e.url or "") for e in zoo().values()}
        for name, match in found.items():
            if match and not zoo()[name].publisher.startswith(("PySlowFast", "PyTorchVideo")):
                assert zoo()[name].sha256 == match[1], name

    def test_torchvision_agrees(self) -> None:
        from torchvision.models.video import MViT_V1_B_Weights, MViT_V2_S_Weights

        pairs = (
            ("k400_mvitv2_s.torchvision", MViT_V2_S_Weights.KINETICS400_V1),
            ("k400_mvitv1_b_16x4.torchvision", MViT_V1_B_Weights.KINETICS400_V1),
        )
        for name, theirs in pairs:
            entry = zoo()[name]
            assert (entry.url, entry.parameters) == (theirs.url, theirs.meta["num_params"])
            assert entry.size is not None and round(entry.size / 2**20, 3) == theirs.meta["_file_size"]
            assert entry.accuracy["top1"] == theirs.meta["_metrics"]["Kinetics-400"]["acc@1"]
            transform = theirs.transforms()
            assert entry.preprocessing["mean"] == list(transform.mean)
            assert [entry.preprocessing["test_short_side"]] == list(transform.resize_size)


class TestResolve:
    def test_a_name_is_fetched_once(self, cache: Path, known: dict[str, Entry], server: WeightsServer) -> None:
        found = resolve("tiny")
        assert found.path == cache / "tiny.pt" and found.entry == known["tiny"]
        assert resolve("tiny") == found and len(server.requests) == 1
        assert sorted(path.name for path in cache.iterdir()) == ["tiny.pt", "tiny.pt.first_use.json"]

    def test_the_address_of_a_name_is_that_name(self, cache: Path, known: dict[str, Entry]) -> None:
        url = known["tiny"].url
        assert url is not None and resolve(url).entry == known["tiny"]

    def test_another_address_is_fetched_likewise(self, cache: Path, server: WeightsServer) -> None:
        server.files["/other/tiny.pt?key=1"] = b"another"
        first, second = resolve(f"{server.url}/tiny.pt"), resolve(f"{server.url}/other/tiny.pt?key=1")
        assert first.entry is None and first.path.suffix == ".pt" and first.path != second.path
        assert second.path.read_bytes() == b"another"
        assert "key" not in record_of(second.path).read_text()

    def test_paths_are_left_as_they_are(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "birds").mkdir()
        for path in ("birds", "gone.pth", "runs/gone", str(tmp_path / "gone")):
            assert resolve(path).path == Path(path) and resolve(path).entry is None
        assert resolve(Path("k400_mvitv2_s")).path == Path("k400_mvitv2_s")

    def test_an_unknown_name_gives_the_nearest(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match=r"k400_mvit2_s: there is no such file.*did you mean k400_mvitv2_s or"):
            resolve("k400_mvit2_s")
        with pytest.raises(ValueError, match=r"did you mean k400_mvitv2_s\.torchvision"):
            resolve("K400_MViTv2_S.torchvison")

    def test_a_name_that_is_here_too_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "k400_mvitv2_s").mkdir()
        with pytest.raises(ValueError, match=r"k400_mvitv2_s exists, too: write \./k400_mvitv2_s for that"):
            resolve("k400_mvitv2_s")
        assert resolve("./k400_mvitv2_s").entry is None

    def test_other_schemes_are_refused(self) -> None:
        with pytest.raises(ValueError, match="only http and https can be fetched"):
            resolve("ftp://host/weights.pth")

    def test_a_file_put_in_place_by_hand_counts(self, cache: Path, known: dict[str, Entry]) -> None:
        with pytest.raises(DownloadError, match=rf"fetch it from http://a/b and put it at {cache / 'hand.pt'}"):
            resolve("by_hand")
        (cache / "hand.pt").write_bytes(b"wrong")
        with pytest.raises(CheckpointError, match=r"is not the published file: its SHA-256 is .*Remove it to have it"):
            resolve("by_hand")
        assert (cache / "hand.pt").exists()  # a file of the user's is not ours to remove

    def test_what_may_have_to_be_fetched(self) -> None:
        assert is_published("k400_mvitv2_s") and is_published("https://host/a.pt") and not is_published("a.pt")

    def test_names_of_files_in_the_cache(self) -> None:
        assert re.fullmatch(r"best_[0-9a-f]{8}\.pt", file_of_url("https://a/b/best.pt?x=1"))
        assert re.fullmatch(r"weights_[0-9a-f]{8}", file_of_url("https://a"))
        assert re.fullmatch(r"a_b_[0-9a-f]{8}\.pt", file_of_url("https://host/a%20b.pt"))
        assert "/" not in file_of_url("https://host/%2e%2e%2fup.pt")
        assert file_of_url("https://a/best.pt") != file_of_url("https://b/best.pt")


class TestCache:
    def test_what_nobody_published_is_recorded_and_compared(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "a.pth"
        path.write_bytes(b"first")
        caplog.set_level("INFO")
        for _ in range(2):
            check(path, expected=Expected(), name="a", url="https://host/a.pth")
        assert caplog.text.count("nobody has published its hash; SHA-256 a7937b64") == 1
        held = json.loads(record_of(path).read_text())
        assert (held["sha256"], held["url"]) == (hashlib.sha256(b"first").hexdigest(), "https://host/a.pth")
        assert state_of(path, expected=Expected()) == "present"
        path.write_bytes(b"second")
        assert state_of(path, expected=Expected()) == "changed"
        with pytest.raises(CheckpointError, match=r"has changed since its first use on 20.*If the new one is right"):
            check(path, expected=Expected(), name="a", url=None)

    def test_published_sizes_and_hashes(self, tmp_path: Path) -> None:
        path = tmp_path / "a.pth"
        path.write_bytes(b"first")
        with pytest.raises(CheckpointError, match="5 bytes, where 6 are published"):
            check(path, expected=Expected(size=6), name="a", url=None)
        assert state_of(path, expected=Expected(sha256="00")) == "damaged"
        check(path, expected=Expected(size=6, size_rounding=1, sha256="A7937B64"), name="a", url=None)

    def test_a_cache_that_cannot_be_written_serves_what_it_has(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "a.pth"
        path.write_bytes(b"first")
        (tmp_path / f".{record_of(path).name}.{os.getpid()}.tmp").mkdir()  # in the way of the record
        check(path, expected=Expected(), name="a", url=None)
        assert "cannot be recorded" in caplog.text

    def test_a_broken_record_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "a.pth"
        path.write_bytes(b"first")
        for text in ("{", "[]"):
            record_of(path).write_text(text)
            with pytest.raises(CheckpointError, match=r"a\.pth\.first_use\.json .*remove it to have it written anew"):
                check(path, expected=Expected(), name="a", url=None)

    def test_a_part_is_seen(self, tmp_path: Path) -> None:
        assert state_of(tmp_path / "a.pth", expected=Expected()) == "absent"
        (tmp_path / "a.pth.part").touch()
        assert state_of(tmp_path / "a.pth", expected=Expected()) == "partial"


class TestModels:
    def test_a_model_by_name(self, cache: Path, known: dict[str, Entry]) -> None:
        whole = from_checkpoint("tiny")
        same = create_model(TINY, pretrained="tiny")
        other_head = create_model(TINY, pretrained="tiny", num_classes=3)
        assert torch.equal(whole.patch_embed.proj.weight, same.patch_embed.proj.weight)
        assert torch.equal(whole.patch_embed.proj.weight, other_head.patch_embed.proj.weight)
        assert other_head.config.num_classes == 3

    def test_pretrained_is_a_name(self) -> None:
        with pytest.raises(ValueError, match=r"pretrained=True: name the weights.* are: k400_mvitv2_s, ssv2_mvitv2_s"):
            create_model("mvitv2_s_16x4", pretrained=True)  # type: ignore[arg-type]
