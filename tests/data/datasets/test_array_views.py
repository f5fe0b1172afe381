import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvit_video.data.datasets.array_views import IntArrayView, TextArrayView


@given(st.lists(st.text(st.characters())))
def test_texts_come_back(values: list[str]) -> None:
    column = TextArrayView(values)
    assert list(column) == values
    assert len(column) == len(values)
    assert pickle.loads(pickle.dumps(column)) == column == values


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_numbers_come_back_as_python_integers(values: list[int]) -> None:
    column = IntArrayView(values)
    assert list(column) == values
    assert all(type(value) is int for value in column)
    assert np.asarray(column).tolist() == values


@pytest.mark.parametrize("column", [TextArrayView(["a", "b", "a"]), IntArrayView([4, 5, 4])])
def test_a_column_is_a_sequence(column: TextArrayView | IntArrayView) -> None:
    first, second, third = column
    assert column == (first, second, third)
    assert column == [first, second, third]
    assert column != (first, second)
    assert column != (first, second, second)
    assert column[1:] == (second, third)
    assert column[-1] == column[np.int64(2)] == third
    assert hash(column) == hash((first, second, third))
    assert second in column
    assert column.index(second) == 1
    for place in (3, -4):
        with pytest.raises(IndexError, match=f"item {place} of 3"):
            column[place]


def test_columns_are_shown_in_short() -> None:
    assert repr(TextArrayView(["a", "b"])) == "('a', 'b'; 2 in all)"
    assert repr(IntArrayView(range(9))) == "(0, 1, 2, ...; 9 in all)"


def test_a_text_is_no_sequence_of_texts() -> None:
    assert TextArrayView(["a", "b"]) != "ab"


def test_numbers_are_shared_with_their_array() -> None:
    values = np.arange(5, dtype=np.int32)
    column = IntArrayView(values)
    assert np.shares_memory(np.asarray(column), values)
    assert np.asarray(column, np.int64).dtype == np.int64
    assert not np.shares_memory(np.array(column), values)


def test_numbers_are_whole() -> None:
    with pytest.raises(TypeError, match="float"):
        IntArrayView([1.5])  # type: ignore[list-item]
