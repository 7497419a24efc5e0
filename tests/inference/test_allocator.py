"""Large blocks go back to the system while someone is inside, and only then."""

from __future__ import annotations

import pytest

from napari_unetpp.inference import allocator
from napari_unetpp.inference.allocator import giving_back


@pytest.fixture
def asked(monkeypatch):
    """Thresholds that the C library was given, in their order."""
    seen = []
    monkeypatch.setattr(allocator, "_set_threshold", seen.append)
    return seen


def test_the_smallest_of_those_inside_holds_and_the_usual_comes_back(asked):
    with giving_back(200):
        with giving_back(100):
            assert asked == [200, 100]
        assert asked[-1] == 200
    assert asked[-1] == allocator._USUAL > 2**20


def test_an_error_inside_brings_the_usual_back(asked):
    with pytest.raises(KeyError), giving_back(100):
        raise KeyError
    assert asked == [100, allocator._USUAL]


def test_a_system_without_glibc_is_left_alone(monkeypatch):
    def nothing(_name):
        raise TypeError("no such library")

    monkeypatch.setattr(allocator.ctypes, "CDLL", nothing)
    assert not allocator._set_threshold(1)
    with giving_back(100):
        pass
