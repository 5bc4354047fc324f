# SPDX-License-Identifier: MIT
"""Everything the package does, in any order, held against the definition; and what the fuzzers have found, again."""

import concurrent.futures
import copy
import importlib.util
import pathlib
import pickle
import tempfile

import differential
import fuzz_kernels
import hostile
import naive
import numpy as np
import pytest
from bounded import size
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import convt1d
from convt1d import cli
from convt1d.cpu import kernels

CORPUS = pathlib.Path(__file__).parent / "corpus"
SETTINGS = st.tuples(st.sampled_from([None, *kernels.names()]), st.sampled_from([None, 1, 5, 40]))
WORKERS = st.sampled_from([None, 1, 2, 3])
FILES = [kind for kind in ("npz", "safetensors", "onnx") if kind == "npz" or importlib.util.find_spec(kind)]


# --- what the fuzzers have found ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", fuzz_kernels.TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_corpus(name):
    """A few files that reach every line which the fuzzers have reached."""
    inputs = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    if name == "readers":
        inputs = [data for data in inputs if kind_of(data) in FILES]
    worked = sum(fuzz_kernels.TARGETS[name](data) for data in inputs)
    assert 0 < worked < len(inputs)


def kind_of(data):
    return fuzz_kernels.KINDS[data[0] % 3] if data else "npz"


@pytest.mark.reliability
@pytest.mark.parametrize("kind", fuzz_kernels.KINDS)
def test_damaged_files(kind, tmp_path):
    """Mutations of good files, through every reader; tests/bindings/test_weights.py has more of this."""
    if kind != "npz":
        pytest.importorskip(kind)
    for seed, path in enumerate(sorted((CORPUS / "readers").iterdir())):
        data = path.read_bytes()
        if data and kind_of(data) == kind:
            for damaged in hostile.mutations(data[1:], size(5, 500), seed):
                fuzz_kernels.readers(data[:1] + damaged)


# --- a layer's life -------------------------------------------------------------------------------------------


class Life(RuleBasedStateMachine):
    """One layer, changed, copied, stored, streamed and applied; `weight` and `bias` are what it should hold.

    Small integers as data: every result is exact, whatever computes it.
    """

    force = None  # conftest's

    @initialize(problem=naive.problems(longest=30), double=st.booleans())
    def begin(self, problem, double):
        self.kind = problem.x.dtype.kind
        self.dtype = np.dtype({"f": ("f4", "f8"), "c": ("c8", "c16")}[self.kind][double])
        self.geometry, self.weight, self.bias = problem.geometry, problem.w, problem.b
        self.x, self.stream, self.folder = problem.x, None, tempfile.TemporaryDirectory()
        c_in, per_group, K = problem.w.shape
        c_out = per_group * self.geometry["groups"]
        self.layer = convt1d.ConvTranspose1d(
            c_in, c_out, K, **self.geometry, bias=self.bias is not None, dtype=self.dtype, rng=0
        )
        self.layer.load_state_dict(self.state())

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def state(self):
        state = {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})
        return {name: a.astype(self.dtype) for name, a in state.items()}

    def integers(self, seed, *shape):
        rng = np.random.default_rng(seed)
        values = rng.integers(-8, 9, shape).astype(float)
        return values + 1j * rng.integers(-8, 9, shape) if self.kind == "c" else values

    def expected(self, x, output_padding=None):
        s, p, op, g, d, mode = self.geometry.values()
        op = op if output_padding is None else output_padding
        return naive.conv_transpose1d(x, self.weight, self.bias, s, p, op, g, d, mode)

    def path(self, suffix):
        return pathlib.Path(self.folder.name, "file" + suffix)

    @invariant()
    def the_weights_are_what_they_should_be(self):
        if hasattr(self, "layer"):
            np.testing.assert_array_equal(self.layer.weight, self.weight)
            assert (self.layer.bias is None) == (self.bias is None)
            if self.bias is not None:
                np.testing.assert_array_equal(self.layer.bias, self.bias)

    # applied

    @rule(seed=st.integers(0, 2**32), length=st.integers(1, 30), batch=st.integers(0, 3))
    def another_input(self, seed, length, batch):
        x = self.integers(seed, *[batch] * (batch > 0), self.weight.shape[0], length)
        least = self.layer._operator.geometry.output_length(length)
        if least >= 1:
            self.x = x

    @rule(setting=SETTINGS, workers=WORKERS)
    def call(self, setting, workers):
        y = self.expected(self.x)
        out = np.full(y.shape, np.nan, self.dtype)
        with self.force(*setting, threads=True):
            assert self.layer(self.x.astype(self.dtype), out=out, workers=workers) is out
            state = self.state()
            z = convt1d.conv_transpose1d(
                self.x.astype(self.dtype), state["weight"], state.get("bias"), **self.geometry, workers=workers
            )
        np.testing.assert_array_equal(out, y)
        np.testing.assert_array_equal(z, y)

    @rule(more=st.integers(0, 5))
    def call_with_another_output_size(self, more):
        least = self.expected(self.x, 0).shape[-1]
        if least < 1 or more >= self.geometry["stride"]:
            with pytest.raises(ValueError, match="output_size must be"):
                self.layer(self.x, least + self.geometry["stride"])
        else:
            np.testing.assert_array_equal(self.layer(self.x, least + more), self.expected(self.x, more))

    @rule(setting=SETTINGS, count=st.integers(2, 4))
    def call_from_threads(self, setting, count):
        with self.force(*setting, threads=True), concurrent.futures.ThreadPoolExecutor(count) as pool:
            for y in pool.map(lambda n: self.layer(self.x, workers=n), range(1, count + 1)):
                np.testing.assert_array_equal(y, self.expected(self.x))

    @rule(setting=SETTINGS, workers=WORKERS, seed=st.integers(0, 2**32))
    def gradients(self, setting, workers, seed):
        gy = self.integers(seed, *self.expected(self.x).shape)
        s, p, op, g, d, mode = self.geometry.values()
        of_x, of_w, of_b = naive.conv_transpose1d_backward(gy, self.x, self.weight, s, p, op, g, d, mode)
        gy, x = gy.astype(self.dtype), self.x.astype(self.dtype)
        with self.force(*setting, threads=True):
            for found in (
                self.layer.backward(gy, x, workers=workers),
                convt1d.conv_transpose1d_backward(gy, x, self.state()["weight"], **self.geometry, workers=workers),
            ):
                np.testing.assert_array_equal(found[0], of_x.reshape(x.shape))
                np.testing.assert_array_equal(found[1], of_w)
                assert found[2] is None or (found[2] == of_b).all()

    @rule(setting=SETTINGS, workers=WORKERS)
    def convolution(self, setting, workers):
        s, p, _, g, d, mode = self.geometry.values()
        y, w = self.expected(self.x), self.weight
        if y.shape[-1] + sum(np.broadcast_to(p, 2)) <= d * (w.shape[2] - 1):
            return
        with self.force(*setting, threads=True):
            z = convt1d.conv1d(y, w, stride=s, padding=p, dilation=d, groups=g, padding_mode=mode, workers=workers)
        np.testing.assert_array_equal(z, naive.conv1d(y, w, None, s, p, d, g, mode))

    @rule()
    def release_workspaces(self):
        assert convt1d.threads.release_workspaces() >= 0
        assert convt1d.threads.release_workspaces() == 0

    # streamed: the weights are those of the stream's beginning

    def streamable(self):
        return self.geometry["padding_mode"] != "circular"

    @precondition(streamable)
    @rule(workers=WORKERS)
    def open_stream(self, workers):
        self.stream = convt1d.ConvTranspose1dStream(self.layer, workers=workers)
        self.like, self.chunks, self.pieces = self.layer, [], []
        self.of = self.geometry, self.weight, self.bias

    @precondition(lambda self: self.stream is not None)
    @rule(seed=st.integers(0, 2**32), lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4), setting=SETTINGS)
    def feed(self, seed, lengths, setting):
        for n in lengths:
            chunk = self.integers(seed, 2, self.weight.shape[0], n).astype(self.dtype)
            with self.force(*setting, threads=True):
                self.pieces.append(self.stream.process(chunk))
            self.chunks.append(chunk)

    @precondition(lambda self: self.stream is not None)
    @rule()
    def carry_over(self):
        state = pickle.loads(pickle.dumps(self.stream.state()))
        self.stream = convt1d.ConvTranspose1dStream(self.like_then())
        self.stream.restore(state)

    def like_then(self):
        """A layer with the weights of the stream's beginning."""
        layer = copy.deepcopy(self.like)
        layer.weight, layer.bias = self.of[1], self.of[2]
        return layer

    @precondition(lambda self: self.stream is not None and self.chunks)
    @rule()
    def flush(self):
        x, now = np.concatenate(self.chunks, axis=-1), (self.weight, self.bias)
        y = np.concatenate([*self.pieces, self.stream.flush()], axis=-1)
        _, self.weight, self.bias = self.of
        if x.shape[-1] and self.layer._operator.geometry.output_length(x.shape[-1]) >= 1:
            np.testing.assert_array_equal(y, self.expected(x))
        else:
            assert y.shape[-1] == 0
        self.weight, self.bias = now
        self.stream = None

    # changed

    @rule(seed=st.integers(0, 2**32), biased=st.booleans())
    def assign(self, seed, biased):
        self.weight = self.integers(seed, *self.weight.shape)
        self.bias = self.integers(seed + 1, self.layer.out_channels) if biased else None
        self.layer.weight, self.layer.bias = self.weight, self.bias

    @rule(seed=st.integers(0, 2**32))
    def load_state(self, seed):
        self.weight = self.integers(seed, *self.weight.shape)
        self.layer.load_state_dict(self.state())

    @rule(wrong=st.sampled_from(["shape", "name", "kind", "input", "workers"]))
    def refuse(self, wrong):
        """What is wrong changes nothing; the invariant sees to that."""
        state = self.state()
        calls = {
            "shape": (ValueError, lambda: self.layer.load_state_dict(state | {"weight": self.weight[..., :0]})),
            "name": (ValueError, lambda: self.layer.load_state_dict(state | {"more": self.weight})),
            "kind": (TypeError, lambda: setattr(self.layer, "weight", self.weight.astype(object))),
            "input": (ValueError, lambda: self.layer(self.x[..., :1, :0])),
            "workers": (ValueError, lambda: self.layer(self.x, workers=0)),
        }
        error, attempt = calls[wrong]
        with pytest.raises(error):
            attempt()

    @rule(how=st.sampled_from([copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))]))
    def replace_by_a_copy(self, how):
        self.layer = how(self.layer)

    @rule(kind=st.sampled_from(FILES))
    def store_and_read(self, kind):
        if kind == "safetensors" and self.dtype == np.complex128:  # a type that the format lacks
            return
        stored, path = {name: self.geometry[name] for name in self.geometry}, self.path("." + kind)
        if kind == "npz":
            np.savez(path, **self.state(), **stored)
            stored = {}
        elif kind == "safetensors":
            from safetensors.numpy import save_file

            save_file(self.state(), path)
        elif self.kind == "c" or self.geometry["padding_mode"] != "zeros":
            with pytest.raises((TypeError, ValueError), match=r"dtype|padding_mode"):
                self.layer.to_onnx(path)
            return
        else:
            self.layer.to_onnx(path)
            stored = {}
        self.layer = convt1d.ConvTranspose1d.from_file(path, **stored)

    # learned, beside the layer

    @precondition(lambda self: self.kind == "f")
    @rule(seed=st.integers(0, 2**32))
    def learn(self, seed):
        x = np.random.default_rng(seed).standard_normal((6, self.weight.shape[0], 40))
        learned = copy.deepcopy(self.layer)
        if learned.dtype == np.float32:
            return
        try:
            learned.fit(x, self.expected(x))
        except np.linalg.LinAlgError:
            return
        np.testing.assert_allclose(learned(x), self.expected(x), rtol=0, atol=1e-6)

    # the command

    @rule(step=st.sampled_from([None, 1, 7]), workers=st.sampled_from([None, 2]), form=st.sampled_from(["npz", "npy"]))
    def command(self, step, workers, form):
        x, weights = self.x.astype(self.dtype), self.path("." + form)
        np.save(self.path("-x.npy"), x)
        arguments = ["apply", f"--weights={weights}", f"--input={self.path('-x.npy')}", "--force"]
        arguments.append(f"--output={self.path('-y.npy')}")
        if form == "npz":
            np.savez(weights, **self.state(), **self.geometry)
        else:
            np.save(weights, self.state()["weight"])
            for name, value in self.geometry.items():
                values = value if isinstance(value, tuple) else (value,)
                arguments += [f"--{name.replace('_', '-')}", *map(str, values)]
            if self.bias is not None:
                np.save(self.path("-b.npy"), self.state()["bias"])
                arguments.append(f"--bias={self.path('-b.npy')}")
        arguments += [f"--stream={step}"] * (step is not None) + [f"--workers={workers}"] * (workers is not None)
        if step is not None and not self.streamable():
            assert cli.main(arguments) == 2
        else:
            assert cli.main(arguments) == 0
            np.testing.assert_array_equal(np.load(self.path("-y.npy")), self.expected(self.x))


@pytest.mark.reliability
def test_a_life(force):
    Life.force = staticmethod(force)
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=size(100, 5000),
            stateful_step_count=size(20, 40),
            suppress_health_check=list(HealthCheck),
            deadline=None,
        ),
    )


@pytest.mark.reliability
def test_hostile_numbers():
    """A minute of the same layers, in full ten of new ones, against the definition; every kernel had its turn."""
    counts = differential.main(size(60, 600), seed=size(0, np.random.SeedSequence().entropy % 2**31))
    print(counts)
    for kernel in kernels.names():
        assert any(kernel in name.split() for name in counts), counts
    assert counts["outputs held to the bound"] > 10**5
