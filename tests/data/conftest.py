"""Fixtures of the decoding tests."""

from collections.abc import Iterator

import pytest

from mvit_video.data import pyav_source
from tests.data.video_library import Library


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("videos"))


@pytest.fixture
def fresh_cache() -> Iterator[None]:
    """No index is remembered from another test."""
    pyav_source.clear_cache()
    yield
    pyav_source.clear_cache()
