# SPDX-License-Identifier: MIT
"""Bad input: one clear error that names the parameter, the rule and the value received.

`ValueError` for values and shapes, `TypeError` for kinds; at the constructor where it can already be known.
"""

import inspect
import os
import re
import subprocess
import sys
from fractions import Fraction

import naive
import numpy as np
import pytest
import scipy.sparse

import convt1d

X, W, B = np.ones((2, 4, 5)), np.ones((4, 6, 3)), np.ones(6)  # N, C_in, L; C_in, C_out, K; C_out


def refuse(error, words, call, *args, **kwargs):
    """`call` raises exactly `error`, and each of `words` (regular expressions) occurs in its message."""
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert caught.type is error
    for word in words:
        assert re.search(word, str(caught.value)), f"{word!r} not in {caught.value}"


# --- parameters: each row is refused by whichever of the three entrances takes the parameter ----------------


def construct(**given):
    return convt1d.ConvTranspose1d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3} | given)


def call(**given):
    return convt1d.conv_transpose1d(X, W, B, **given)


def measure(**given):
    return convt1d.output_length(**{"L": 5, "kernel_size": 3} | given)


ENTRANCES = {
    construct: convt1d.ConvTranspose1d,
    call: convt1d.conv_transpose1d,
    measure: convt1d.output_length,
}

COUNTS = ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups")
TUPLES = ("kernel_size", "stride", "dilation", "output_padding")
INTEGERS = (*COUNTS, "padding", "output_padding")
NO_INTEGERS = (1.5, True, np.True_, "1", "same", "valid", None, np.array([1]), np.float32(0.5), (1.5,), ("1",))

# parameter, value, error, the rule's words; other parameters that go with it
ROWS = [
    *((name, value, ValueError, "at least 1", {}) for name in (*COUNTS, "L") for value in (0, -3)),
    *((name, -1, ValueError, "at least 0", {}) for name in ("padding", "output_padding")),
    *((name, value, TypeError, "an int", {}) for name in (*INTEGERS, "L") for value in NO_INTEGERS),
    *((name, value, ValueError, "one int", {}) for name in TUPLES for value in ((1, 1), [1, 1], ())),
    *(("padding", value, ValueError, "an int or a", {}) for value in ((1, 1, 1), [0] * 3, ())),
    ("output_padding", 1, ValueError, "smaller than stride or dilation", {"stride": 1}),
    ("output_padding", 3, ValueError, "smaller than stride or dilation", {"stride": 3, "dilation": 2}),
    ("output_padding", 3, ValueError, "smaller than stride or dilation", {"stride": 2, "dilation": 3}),
    ("groups", 3, ValueError, "in_channels must be divisible by groups.*4", {}),
    ("groups", 4, ValueError, "out_channels must be divisible by groups.*6", {"out_channels": 6}),
    ("padding_mode", "constant", ValueError, "one of zeros, reflect, replicate, circular", {}),
    ("padding_mode", "Zeros", ValueError, "one of zeros, reflect, replicate, circular", {}),
    ("padding_mode", None, TypeError, "a string", {}),
    ("padding_mode", 0, TypeError, "a string", {}),
    # too large for an index: refused in words, not by an OverflowError from below
    *((name, 2**70, ValueError, "at most", {}) for name in ("stride", "padding", "dilation", "L")),
]


REFUSALS = [
    (entrance, *row)
    for entrance, target in ENTRANCES.items()
    for row in ROWS
    if {row[0], *row[-1]} <= set(inspect.signature(target).parameters)
]


@pytest.mark.parametrize(
    ("entrance", "name", "value", "error", "rule", "others"),
    [pytest.param(*row, id=f"{row[0].__name__}-{row[1]}={row[2]!r}") for row in REFUSALS],
)
def test_parameter(entrance, name, value, error, rule, others):
    shown = re.escape(str(value).strip("()[],"))  # of a tuple of one, the one
    refuse(error, [name, rule, shown], entrance, **{name: value}, **others)


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("pair", [(-1, 0), (0, -1), [0, -1]])
def test_padding_pair_negative(entrance, pair):
    refuse(ValueError, ["padding", "at least 0", "-1"], entrance, padding=pair)


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("pair", [(0, 1.5), ("1", 0), (True, 0), ((1, 1), (0, 0)), (None, 0)])
def test_padding_pair_of_other_kinds(entrance, pair):
    refuse(TypeError, ["padding", "an int"], entrance, padding=pair)


class Two:
    def __index__(self):
        return 2


WHOLE = [
    2,
    np.int8(2),
    np.uint64(2),
    np.array(2),
    Two(),
    2.0,
    np.float32(2),
    Fraction(2),
    (2,),
    [2],
    (np.int32(2),),
    [2.0],
]


@pytest.mark.parametrize("two", WHOLE)
def test_whatever_is_whole(two):
    """An int is what operator.index takes, a whole float, or a tuple or list of one of those."""
    arguments = {"stride": two, "padding": two, "output_padding": two, "dilation": (3,)}
    plain = {"stride": 2, "padding": 2, "output_padding": 2, "dilation": 3}
    np.testing.assert_array_equal(call(**arguments), call(**plain))
    assert measure(kernel_size=two, **arguments) == measure(kernel_size=2, **plain)
    layer = construct(kernel_size=two, **arguments)
    assert layer(X).shape == (2, 6, measure(kernel_size=2, **plain))
    if not isinstance(two, (tuple, list)):
        assert construct(in_channels=two, out_channels=two, groups=two).weight.shape == (2, 1, 3)


@pytest.mark.parametrize("seed", [np.inf, np.nan, 1.5, 1j])
def test_numbers_that_are_not_whole(seed):
    refuse(TypeError, ["rng", "an int"], construct, rng=seed)
    refuse(TypeError, ["workers", "an int"], construct(), X, workers=seed)
    refuse(TypeError, ["stride", "an int"], construct, stride=seed)


def test_padding_beyond_the_kernel_is_legal():
    """More than dilation * (kernel_size - 1) crops further into the output."""
    np.testing.assert_array_equal(call(stride=2, padding=4), call(stride=2)[..., 4:-4])


@pytest.mark.parametrize("padding", [5, 100, (7, 3), (0, 7), (7, 0)])
def test_no_output(padding):
    """kernel_size 3 and 5 samples: 7 positions, and a crop that leaves none."""
    length = str(7 - int(np.broadcast_to(padding, 2).sum()))
    layer = construct(padding=padding)
    for entrance in (lambda: call(padding=padding), lambda: measure(padding=padding), lambda: layer(X)):
        refuse(ValueError, ["at least 1", r"\b5\b", re.escape(length)], entrance)
    refuse(ValueError, ["at least 1", r"\b5\b", re.escape(length)], layer.output_length, 5)


# --- arrays -------------------------------------------------------------------------------------------------


def shape_of(array):
    return re.escape(str(array.shape))


@pytest.mark.parametrize("shape", [(), (5,), (1, 2, 4, 5)])
def test_dimensions_of_x(shape):
    x = np.ones(shape)
    for entrance in (lambda: convt1d.conv_transpose1d(x, W), lambda: construct()(x)):
        refuse(ValueError, [r"\bx\b", "2-D or 3-D|C_in, L", shape_of(x)], entrance)


@pytest.mark.parametrize("shape", [(2, 3, 5), (3, 5), (5, 4), (0, 3, 5), (2, 0, 5)])
def test_channels_of_x(shape):
    x = np.ones(shape)
    for entrance in (lambda: convt1d.conv_transpose1d(x, W), lambda: construct()(x)):
        refuse(ValueError, [r"\bx\b", r"\b4\b", shape_of(x), shape_of(W)], entrance)


@pytest.mark.parametrize("mode", naive.MODES)
@pytest.mark.parametrize("shape", [(2, 4, 0), (4, 0), (0, 4, 0)])
def test_no_samples(shape, mode):
    x = np.ones(shape)
    refuse(ValueError, ["L", "at least 1", "0"], convt1d.conv_transpose1d, x, W, padding_mode=mode)
    refuse(ValueError, ["L", "at least 1", "0"], construct(padding_mode=mode), x)


def test_empty_batch_meets_the_same_checks():
    x = np.ones((0, 4, 5))
    for padding, error in ((5, "at least 1"), (-1, "padding")):
        refuse(ValueError, [error], convt1d.conv_transpose1d, x, W, padding=padding)
    refuse(ValueError, ["bias"], convt1d.conv_transpose1d, x, W, np.ones(5))


@pytest.mark.parametrize("shape", [(4, 6), (6,), (), (1, 4, 6, 3)])
def test_dimensions_of_weight(shape):
    weight = np.ones(shape)
    refuse(ValueError, ["weight", "3-D|C_in", shape_of(weight)], convt1d.conv_transpose1d, X, weight)


@pytest.mark.parametrize("shape", [(4, 6, 0), (4, 0, 3), (0, 6, 3)])
def test_empty_weight(shape):
    weight = np.ones(shape)
    refuse(ValueError, ["weight", "empty", shape_of(weight)], convt1d.conv_transpose1d, X, weight)


@pytest.mark.parametrize("shape", [(5,), (7,), (1,), (0,), (), (6, 1), (1, 6)])
def test_shape_of_bias(shape):
    bias = np.ones(shape)
    refuse(ValueError, ["bias", shape_of(bias), shape_of(B)], convt1d.conv_transpose1d, X, W, bias)


def test_shape_of_bias_with_groups():
    """One bias per output channel of all groups together."""
    x, weight, bias = np.ones((3, 5)), np.ones((3, 2, 3)), np.ones(2)
    refuse(ValueError, ["bias", r"\(2,\)", r"\(6,\)"], convt1d.conv_transpose1d, x, weight, bias, groups=3)


# kind: how it is made of an array, and the word that must tell it in the message
OTHER_KINDS = {
    "object": (lambda a: a.astype(object), "object"),
    "str": (lambda a: a.astype(str), "<U|str"),
    "bytes": (lambda a: a.astype(bytes), r"\|S|bytes"),
    "longdouble": (lambda a: a.astype(np.longdouble), str(np.dtype(np.longdouble))),
    "clongdouble": (lambda a: a.astype(np.clongdouble), str(np.dtype(np.clongdouble))),
    "datetime64": (lambda a: a.astype("datetime64[s]"), "datetime64"),
    "timedelta64": (lambda a: a.astype("timedelta64[s]"), "timedelta64"),
    "structured": (lambda a: a.astype([("re", float), ("im", float)]), "void"),
    "MaskedArray": (np.ma.masked_array, "MaskedArray|masked"),
    "matrix": (lambda a: a.reshape(len(a), -1).view(np.matrix), "matrix"),
    "sparse": (lambda a: scipy.sparse.csr_array(a.reshape(len(a), -1)), "dense.*csr_array"),
    "sparse matrix": (lambda a: scipy.sparse.coo_matrix(a.reshape(len(a), -1)), "dense.*coo_matrix"),
    "dict": (lambda a: {"a": a}, "dict|object"),
    "None": (lambda a: None, "None|object"),
}
if np.dtype(np.longdouble) == np.dtype(float):  # where C's long double is a double
    del OTHER_KINDS["longdouble"], OTHER_KINDS["clongdouble"]


@pytest.mark.parametrize("kind", OTHER_KINDS)
@pytest.mark.parametrize("name", ["x", "weight", "bias"])
def test_other_kinds(name, kind):
    make, word = OTHER_KINDS[kind]
    arguments = {"x": X, "weight": W, "bias": B}
    arguments[name] = make(arguments[name])
    layer = construct(dtype=float)
    if name == "x":
        refuse(TypeError, [r"\bx\b", word], layer, arguments["x"])
    elif (name, kind) == ("bias", "None"):
        return  # no bias, legal
    else:
        refuse(TypeError, [name, word], setattr, layer, name, arguments[name])
    refuse(TypeError, [rf"\b{name}\b", word], convt1d.conv_transpose1d, **arguments)


def test_ragged_lists():
    with pytest.raises(TypeError, match="inhomogeneous"):
        convt1d.conv_transpose1d([[1.0, 2.0], [1.0]], W)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i8"])
def test_complex_bias_of_a_real_result(dtype):
    x, weight = X.astype(dtype), W.astype(dtype)
    refuse(TypeError, ["bias", "complex128", "float"], convt1d.conv_transpose1d, x, weight, B * 1j)


def test_beyond_any_memory():
    """2**20 samples x 2**20 channels x about 2**31 positions: neither an index nor a memory holds that."""
    x = np.broadcast_to(np.float32(1), (2**20, 1, 2))
    weight = np.broadcast_to(np.float32(1), (1, 2**20, 1))
    for some_x, some_weight in ((x, weight), (x, weight[:, :1]), (x[:1], weight)):
        with pytest.raises((ValueError, MemoryError), match=str(2**31)):
            convt1d.conv_transpose1d(some_x, some_weight, stride=2**31 - 1)
    with pytest.raises((ValueError, MemoryError), match=str(2**30)):
        convt1d.ConvTranspose1d(2**30, 2**30, 2**30)


def test_beyond_any_memory_with_an_empty_batch():
    """Nothing is stored, yet the length is an index."""
    x, stride = np.ones((0, 1, 2), np.float32), 2**31 - 1
    assert convt1d.conv_transpose1d(x, np.ones((1, 1, 1), np.float32), stride=stride).shape == (0, 1, 2**31)


# --- workers, output_size, and what only a layer takes ------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "error", "rule"),
    [
        (0, ValueError, "0"),
        (-(10**6), ValueError, "-1000000"),
        (1.5, TypeError, "int"),
        (True, TypeError, "int"),
        ("2", TypeError, "int"),
        ((2,), TypeError, "int"),
    ],
)
def test_workers(workers, error, rule):
    layer = construct()
    for entrance in (lambda: call(workers=workers), lambda: layer(X, workers=workers)):
        refuse(error, ["workers", rule, re.escape(str(workers))], entrance)


@pytest.mark.parametrize("setting", [{"kernel": "fft"}, {"tile": 0}, {"tile": -1}, {"tile": "wide"}])
def test_environment(force, setting):
    """What forces a kernel or a tile must not be ignored: much of this suite relies on it."""
    (name, value), *_ = setting.items()
    with force(**setting):
        refuse(ValueError, [f"CONVT1D_{name.upper()}", str(value)], call)


@pytest.mark.parametrize("workers", [None, 1, 2, 1000, np.int64(2), -1])
def test_legal_workers(workers):
    np.testing.assert_array_equal(call(workers=workers), call())


# kernel_size 3, stride 4, 5 samples: 19 positions without output_padding, so 19 to 22 can be asked for
@pytest.mark.parametrize(
    "size", [18, 23, (18,), [23], (2, 6, 18), (2, 6, 23), (3, 6, 19), (2, 5, 19), (6, 19), (1, 2, 6, 19)]
)
def test_output_size(size):
    given = str(size).strip("[](),").split()[-1]
    refuse(ValueError, ["output_size", rf"\b{given}\b"], construct(stride=4), X, output_size=size)


@pytest.mark.parametrize("size", [19.5, True, "19", (19.5,), ("19",), (2, 6, 19.5), (2, True, 19)])
def test_output_size_of_other_kinds(size):
    refuse(TypeError, ["output_size", "int"], construct(stride=4), X, output_size=size)


def test_output_size_of_an_unbatched_input():
    for size in ((5, 19), (2, 6, 19), (6, 18), ()):
        refuse(ValueError, ["output_size"], construct(stride=4), X[0], output_size=size)


@pytest.mark.parametrize("size", [13, 16, 19])
def test_output_size_counts_dilation(size):
    """(5 - 1) * 2 + 4 * (3 - 1) + 1 = 17, and 18; 13 is what comes of forgetting the dilation."""
    layer = construct(stride=2, dilation=4)
    refuse(ValueError, ["output_size", "17", "18", str(size)], layer, X, output_size=size)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"dtype": int}, TypeError, ["dtype", "int64|int32|int"]),
        ({"dtype": object}, TypeError, ["dtype", "object"]),
        ({"dtype": str}, TypeError, ["dtype", "str|<U"]),
        ({"dtype": bool}, TypeError, ["dtype", "bool"]),
        ({"rng": "7"}, TypeError, ["rng", "Generator", "7"]),
        ({"rng": 1.5}, TypeError, ["rng", "Generator", "1.5"]),
        ({"rng": True}, TypeError, ["rng", "Generator", "True"]),
        ({"rng": np.random.RandomState(0)}, TypeError, ["rng", "Generator"]),
        ({"rng": -1}, ValueError, ["rng", "-1"]),
    ],
)
def test_constructor(given, error, words):
    refuse(error, words, construct, **given)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_assignment_of_another_shape(name):
    layer = construct()
    before = getattr(layer, name).copy()
    for shape in ((), before.shape[:-1], (*before.shape[:-1], 1), (1, *before.shape), (*before.shape, 1)):
        ones = np.ones(shape)
        refuse(ValueError, [name, shape_of(before), shape_of(ones)], setattr, layer, name, ones)
    np.testing.assert_array_equal(getattr(layer, name), before)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_assignment_of_another_kind(name):
    layer = construct()
    before = getattr(layer, name).copy()
    refuse(TypeError, [name, "complex128", "float32"], setattr, layer, name, before.astype(complex))
    np.testing.assert_array_equal(getattr(layer, name), before)


def test_load_state_dict_takes_all_or_nothing():
    layer = construct()
    before = {name: value.copy() for name, value in layer.state_dict().items()}
    ones = {name: np.ones_like(value) for name, value in before.items()}
    wrong = [
        {"weight": ones["weight"]},
        {"bias": ones["bias"]},
        {},
        ones | {"extra": np.ones(1)},
        ones | {"weight": np.ones((4, 6, 4))},
        ones | {"bias": np.ones(7)},
        ones | {"bias": None},
    ]
    for state in wrong:
        with pytest.raises((ValueError, TypeError), match=r"weight|bias|extra"):
            layer.load_state_dict(state)
        for name, value in layer.state_dict().items():
            np.testing.assert_array_equal(value, before[name])
    with pytest.raises(ValueError, match="bias"):
        construct(bias=False).load_state_dict(ones)


@pytest.mark.parametrize(
    ("name", "value"),
    [("CONVT1D_KERNEL", "fft"), *(("CONVT1D_TILE", value) for value in ("0", "-1", "wide", "²"))],
)
def test_bad_forced_choice_is_refused(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name} must be .*{value}"):
        convt1d.conv_transpose1d(np.ones((1, 4)), np.ones((1, 1, 2)))


def test_unknown_instruction_set_is_refused():
    code = "import convt1d.cpu._runtime"
    env = dict(os.environ, CONVT1D_SIMD="9")
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "CONVT1D_SIMD must be one of baseline, avx2, avx512 (or 0, 1, 2), got '9'" in run.stderr
