"""The options of the tests are those that Hydra composes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from mvit_video.config import register
from tests import composing

MOTION = ("+experiment=motion_mvitv2", "name=a", "data/source=list", "data.source.train=a.csv", "optim.lr=0.5")


@contextmanager
def plain_hydra() -> Iterator[None]:
    """Hydra reads every file for every composition."""
    composing.read_once(False)
    try:
        yield
    finally:
        composing.read_once()


@pytest.mark.parametrize(
    ("config_name", "overrides"),
    [
        ("config", MOTION),
        ("config", (*MOTION, "model=x3d_s", "++optim.betas=[0.5,0.6]")),
        ("plan", ("+experiment=in1k_mvitv2_t",)),  # whose list of defaults has an interpolation
        ("evaluate", ("run=mine", "output_dir=b", "data.test_temporal_views=2")),
    ],
)
def test_the_same_as_hydras(config_name: str, overrides: tuple[str, ...]) -> None:
    register()
    with plain_hydra():
        plain = composing._by_hydra(config_name, overrides)
    for _ in range(2):  # the second is made of what the first one kept
        for ours in (composing.compose(config_name, overrides), composing._by_hydra(config_name, overrides)):
            assert ours == plain and OmegaConf.get_type(ours) is OmegaConf.get_type(plain)


def test_what_is_not_of_the_package_is_read_each_time(tmp_path: Path) -> None:
    (tmp_path / "schedule").mkdir()
    words = [f"hydra.searchpath=[file://{tmp_path}]", "optim=mine_in_store", "schedule=mine"]
    for value in (3, 5):
        (tmp_path / "schedule/mine.yaml").write_text(f"defaults:\n  - schedule_schema\n  - _self_\nepochs: {value}\n")
        ConfigStore.instance().store(name="mine_in_store", group="optim", node={"lr": value})
        config = composing.compose("config", words)
        assert (config.schedule.epochs, config.optim.lr) == (value, value)


def test_nothing_is_shared() -> None:
    composing.compose("config", MOTION).optim.lr = 9.0
    assert composing.compose("config", MOTION).optim.lr == 0.5


@pytest.mark.parametrize("word", ["optim.no=1", "model=nonesuch", "optim.lr=1,2"])
def test_refused_by_hydra_itself(word: str) -> None:
    with pytest.raises(Exception) as ours:
        composing.compose("config", [*MOTION, word])
    with pytest.raises(type(ours.value)) as theirs:
        composing._by_hydra("config", [*MOTION, word])
    assert isinstance(ours.value, ConfigCompositionException) and str(ours.value) == str(theirs.value)
