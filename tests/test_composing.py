"""The options of the tests are those that Hydra composes."""

import pytest
from hydra.errors import ConfigCompositionException

from tests import composing

MOTION = ("+experiment=motion_mvitv2", "name=a", "data/source=list", "data.source.train=a.csv", "optim.lr=0.5")


@pytest.mark.parametrize(
    ("config_name", "overrides"),
    [
        ("config", MOTION),
        ("config", (*MOTION, "model=x3d_s", "++optim.betas=[0.5,0.6]")),
        ("evaluate", ("run=mine", "output_dir=b", "data.test_temporal_views=2")),
    ],
)
def test_the_same_as_hydras(config_name: str, overrides: tuple[str, ...]) -> None:
    for _ in range(2):  # the second is made of what the first one kept
        assert composing.compose(config_name, overrides) == composing._by_hydra(config_name, overrides)


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
