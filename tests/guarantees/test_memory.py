# SPDX-License-Identifier: MIT
"""Large outputs' memory: kept when nobody uses it any more, never before, and not without bound."""

import gc
import sys
import threading
import weakref

import numpy as np
import pytest

import convt1d
from convt1d import memory, threads

FLOAT32 = np.dtype(np.float32)


@pytest.fixture(autouse=True)
def small_thresholds(monkeypatch):
    """Outputs from 4 KiB on are large here, and at most 64 KiB are kept."""
    monkeypatch.setattr(memory, "LARGE", 4096)
    monkeypatch.setattr(memory, "MOST", 65536)
    memory.release()
    yield
    memory.release()


def new(length, dtype=FLOAT32):
    return memory.allocator((length,), dtype)((length,), dtype)


def kept():
    return sum(room.nbytes for room in memory._kept.values())


def test_memory_of_a_dropped_output_serves_the_next():
    layer = convt1d.ConvTranspose1d(2, 2, 4, stride=2, rng=0)
    x = np.random.default_rng(0).standard_normal((2, 1000), np.float32)
    expected = layer(x).copy()
    assert kept() > expected.nbytes
    y = layer(x)
    assert kept() == 0
    place = y.ctypes.data
    assert place % 64 == 0
    np.testing.assert_array_equal(y, expected)
    y[:] = np.nan  # the next one must not see it
    del y
    y = layer(x)
    assert y.ctypes.data == place
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(
    "using", [lambda y: y[5:6], lambda y: memoryview(y), lambda y: y.view(np.int32).reshape(2, -1).T]
)
def test_what_is_in_use_is_not_given_away(using):
    y = new(2000)
    y[:] = 7
    user = using(y)
    del y
    others = [new(2000) for _ in range(3)]
    for other in others:
        assert not np.shares_memory(np.asarray(user), other)
        other[:] = 8
    assert (np.asarray(user).view(FLOAT32) == 7).all()
    del user
    assert kept() > 0


def test_it_is_an_array_like_any_other():
    y = new(2000)
    assert type(y) is np.ndarray
    assert y.flags.c_contiguous
    assert y.flags.writeable
    assert y.flags.aligned
    assert y.dtype == FLOAT32
    gone = weakref.ref(y)
    del y
    assert gone() is None


@pytest.mark.parametrize("size", [1024, 65536 // 4])
def test_small_and_huge_ones_are_numpys(size):
    assert memory.allocator((size,), FLOAT32) is np.empty


def test_not_more_than_so_much_is_kept():
    outputs = [new(5000) for _ in range(10)]  # 20 KB each
    assert kept() == 0
    del outputs
    assert 40000 < kept() <= 65536


def test_what_does_not_fit_is_freed_first():
    """Or the next output would be held beside it."""
    place = weakref.ref(new(2000).base)
    assert place() is None
    assert kept() > 0
    y = new(6000)
    assert kept() == 0
    del y
    y = new(4000)  # fits well enough
    assert kept() == 0
    assert y.size == 4000


def test_release():
    del_me = new(2000)
    del del_me
    assert kept() > 0
    threads.release_workspaces()
    assert kept() == 0


def test_half_precision_and_gradients_and_nan_elsewhere():
    """Everything that fills a new output fills all of it."""
    for dtype in (np.float16, np.float64, np.complex64):
        layer = convt1d.ConvTranspose1d(2, 3, 3, stride=5, bias=True, rng=0, dtype=dtype)  # with gaps
        x = np.ones((3, 2, 500), dtype)
        first = layer(x).copy()
        for _ in range(2):
            y = layer(x)
            y[:] = np.nan
            del y
        np.testing.assert_array_equal(layer(x), first)


def test_several_threads():
    """No two of them ever hold the same memory."""
    wrong = []

    def work(number):
        for _ in range(300):
            y = new(2000)
            y[:] = number
            other = new(3000)
            other[:] = -number
            if not (y == number).all():
                wrong.append(number)
            del y, other

    workers = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    gc.collect()
    assert kept() <= 65536


def test_workspaces_are_kept_and_released():
    layer = convt1d.ConvTranspose1d(64, 64, 8, stride=4, rng=0)
    x = np.ones((2, 64, 4000), np.float32)
    y = layer(x, workers=2)
    assert 1 <= threads.release_workspaces() <= 64
    assert threads.release_workspaces() == 0
    np.testing.assert_array_equal(layer(x, workers=2), y)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads VmHWM from /proc")
def test_peak_memory_is_the_output_and_little_more(beyond_output):
    """A column buffer of the whole signal would be 339 MB more."""
    assert beyond_output(channels_last=False) < 16 * 1024 * 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads VmHWM from /proc")
def test_no_transposed_copy(beyond_output):
    """A copy of x would be 339 MB, one of y as much."""
    assert beyond_output(channels_last=True) < 16 * 1024 * 1024


def test_what_is_remembered_of_calls_is_bounded_in_bytes():
    """A large stride makes a large table for each input length."""
    from convt1d import operator

    layer = convt1d.ConvTranspose1d(1, 1, 20_000, stride=20_000, bias=False, rng=0)
    for length in range(1, 40):
        layer(np.ones((1, length), np.float32), out=np.empty((1, length * 20_000), np.float32))
    for calls in (layer._operator._calls, operator._bound):
        assert len(calls) >= 1
        assert calls._bytes <= operator._MOST_BYTES
        assert (
            sum(operator._size(call if hasattr(call, "nbytes") else call[0]) for call in calls.values()) <= calls._bytes
        )
