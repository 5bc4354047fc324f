# SPDX-License-Identifier: MIT
"""The GPU path on a GPU, through CuPy: every stored case, every type, streams, torch's tensors, compute-sanitizer.

Without a GPU all of it is skipped, with the reason; test_cuda_logic.py and test_cuda_compiles.py need none.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import convt1d
from convt1d import arrays
from convt1d.cuda import backend, policy


def missing():
    """Why there is no GPU to use, or None."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed"
    try:
        import cupy

        return None if cupy.cuda.runtime.getDeviceCount() else "CuPy sees no CUDA device"
    except Exception as error:  # no driver, no CUDA libraries: whatever CuPy says of it
        return f"CuPy cannot use a GPU: {error}"


KERNELS = [kernel.NAME for kernel in policy.KERNELS]
REASON = missing()
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.filterwarnings("default"),  # what CuPy and torch say of themselves is not ours
]
if REASON is None:
    import cupy


def dtype_of(name):
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16) if name == "bfloat16" else np.dtype(name)


def on_device(a, dtype):
    """A copy on the GPU; bfloat16 as words, which every version of CuPy copies."""
    a = np.asarray(a).astype(dtype)
    return cupy.asarray(a.view(np.uint16)).view(dtype) if dtype.itemsize == 2 else cupy.asarray(a)


def on_host(a):
    return cupy.asnumpy(a.view(np.uint16)).view(a.dtype) if a.dtype.itemsize == 2 else cupy.asnumpy(a)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("CONVT1D_CUDA_KERNEL", "CONVT1D_CUDA_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("workspace", ["", "6000"])
@pytest.mark.parametrize("kernel", ["", *KERNELS])
@pytest.mark.parametrize("name", backend.TYPES)
def test_vectors(cases, monkeypatch, name, kernel, workspace):
    monkeypatch.setenv("CONVT1D_CUDA_KERNEL", kernel)
    monkeypatch.setenv("CONVT1D_CUDA_WORKSPACE", workspace)
    dtype = dtype_of(name)
    wrong = []
    for case in cases:
        if (case.y.dtype.kind == "c") != (dtype.kind == "c"):
            continue
        bias = None if case.b is None else on_device(case.b, arrays.compute_dtype(dtype))
        x, w = on_device(case.x, dtype), on_device(case.w, dtype)
        out = on_device(np.full(case.y.shape, np.nan), dtype)
        y = convt1d.conv_transpose1d(x, w, bias, **case.geometry, out=out)
        assert y is out
        if not np.array_equal(on_host(y), case.y.astype(dtype)):
            wrong.append(case.id)
    assert wrong == []


GEOMETRY = {"stride": 4, "padding": 2, "output_padding": 1, "padding_mode": "replicate"}


def problem(dtype=np.float32, channels=(60, 24), length=300):
    rng = np.random.default_rng(0)
    return [
        rng.standard_normal(shape).astype(dtype) for shape in ((3, channels[0], length), (*channels, 9), channels[1:])
    ]


def layer_of(weight, bias):
    layer = convt1d.ConvTranspose1d(*weight.shape, **GEOMETRY, dtype=weight.dtype)
    layer.weight, layer.bias = weight, bias
    return layer


def test_subnormal_numbers_are_kept():
    """CuPy compiles with -ftz=true."""
    tiny = np.full((1, 1, 4), 1e-40, np.float32)
    y = convt1d.conv_transpose1d(cupy.asarray(tiny), cupy.ones((1, 1, 1), np.float32))
    np.testing.assert_array_equal(cupy.asnumpy(y), tiny)


@pytest.mark.parametrize("precision", ["tf32", "3xtf32"])
def test_vectors_of_the_fused_kernel(cases, monkeypatch, precision):
    monkeypatch.setenv("CONVT1D_CUDA_KERNEL", "fused")
    wrong = []
    for case in cases:
        if case.y.dtype.kind != "c":
            x, w = (on_device(a, np.dtype("float32")) for a in (case.x, case.w))
            bias = None if case.b is None else on_device(case.b, np.dtype("float32"))
            y = convt1d.conv_transpose1d(x, w, bias, **case.geometry, precision=precision)
            if not np.array_equal(on_host(y), case.y):
                wrong.append(case.id)
    assert wrong == []


@pytest.mark.parametrize("kernel", KERNELS)
def test_float32_is_float32(monkeypatch, kernel):
    """And TF32 only where it was asked for; 3xTF32 is as good as float32."""
    monkeypatch.setenv("CONVT1D_CUDA_KERNEL", kernel)
    x, weight, bias = problem(channels=(500, 64))
    expected = convt1d.conv_transpose1d(*(a.astype(float) for a in (x, weight, bias)), **GEOMETRY)
    layer = layer_of(weight, bias)
    error = {}
    for precision in ("float32", "tf32", "3xtf32"):
        y = cupy.asnumpy(layer(cupy.asarray(x), precision=precision))
        error[precision] = np.abs(y - expected).max() / np.abs(expected).max()
    assert error["float32"] < 2e-6
    assert error["3xtf32"] < 2e-6
    assert error["tf32"] < 3e-3
    if kernel != "direct" and int(cupy.cuda.Device().compute_capability) >= 80:
        assert error["tf32"] > 1e-5


def test_the_same_bits_in_every_run():
    x, weight, bias = problem()
    for kernel_input in (cupy.asarray(x), cupy.asarray(x.astype(float))):
        layer = layer_of(weight, bias)
        first = layer(kernel_input)
        for _ in range(20):
            assert cupy.array_equal(layer(kernel_input), first)


@pytest.mark.parametrize("layer", [(512, 64, 16, 8, 4), (1024, 32, 20, 10, 5)])
def test_3xtf32_errs_no_more_than_twice_torch(layer):
    """Against float64, with TF32 off in torch."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    c_in, c_out, kernel_size, stride, padding = layer
    rng = np.random.default_rng(0)
    x, weight = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((2, c_in, 200), (c_in, c_out, kernel_size))
    )
    expected = convt1d.conv_transpose1d(x.astype(float), weight.astype(float), stride=stride, padding=padding)
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        on = torch.tensor(x).cuda(), torch.tensor(weight).cuda()
        of_torch = torch.nn.functional.conv_transpose1d(*on, stride=stride, padding=padding).cpu().numpy()
    finally:
        torch.backends.cudnn.allow_tf32 = before
    given = {"stride": stride, "padding": padding, "precision": "3xtf32"}
    y = cupy.asnumpy(convt1d.conv_transpose1d(cupy.asarray(x), cupy.asarray(weight), **given))
    assert np.abs(y - expected).max() <= 2 * np.abs(of_torch - expected).max()


@pytest.mark.parametrize("name", ["float32", "tf32", "3xtf32", "float16", "bfloat16"])
def test_cuda_graph(monkeypatch, name):
    """Captured once, with a workspace, and run again on other numbers in the same memory."""
    monkeypatch.setenv("CONVT1D_CUDA_KERNEL", "fused")
    dtype = dtype_of("float32" if "tf32" in name else name)
    precision = name if "tf32" in name else "float32"
    x, weight, bias = problem(channels=(500, 24), length=50)
    layer = layer_of(weight.astype(dtype), bias.astype(dtype))
    given = on_device(x, dtype)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        out = cupy.empty_like(layer(given, precision=precision))  # weights and workspace are there from here on
        stream.begin_capture()
        layer(given, out=out, precision=precision)
        graph = stream.end_capture()
        assert len(layer._operator.on_device()._captured) == 1
        for factor in (1, 2):
            given[...] = on_device(factor * x, dtype)
            graph.launch()
            stream.synchronize()
            others = cupy.ones(10**6)  # what CuPy's pool gives to others now is not the graph's workspace
            expected = on_host(layer(given, precision=precision))
            np.testing.assert_array_equal(on_host(out), expected)
            del others


def test_layer_copies_its_weights_once():
    x, weight, bias = problem()
    layer = layer_of(weight, bias).to("cuda")
    copies = dict(layer._operator.on_device()._copies)
    y = layer(cupy.asarray(x))
    assert isinstance(y, cupy.ndarray)
    assert layer._operator.on_device()._copies == copies
    np.testing.assert_allclose(cupy.asnumpy(y), layer(x), rtol=0, atol=1e-4)
    layer.weight = 2 * weight
    np.testing.assert_allclose(cupy.asnumpy(layer(cupy.asarray(x))), layer(x), rtol=0, atol=1e-4)
    layer.to("cpu")
    assert layer._operator._on_device is None


def test_presentation():
    x, weight, bias = problem()
    layer = layer_of(weight, bias)
    expected = layer(x)
    given = cupy.asarray(np.repeat(x, 2, axis=-1))[..., ::2]
    np.testing.assert_allclose(cupy.asnumpy(layer(given)), expected, rtol=0, atol=1e-4)
    for step in (1, 2):  # complex64 at 4 bytes beyond a multiple of 8, which CuPy's own kernels cannot read
        words = cupy.zeros(x.size * 2 * step + 1, np.float32)[1:]
        assert words.data.ptr % 8
        words[:: 2 * step] = cupy.asarray(x.ravel())
        steps = [8 * step * size for size in (x.shape[1] * x.shape[2], x.shape[2], 1)]
        shifted = cupy.ndarray(x.shape, np.complex64, words.data, steps)
        np.testing.assert_allclose(cupy.asnumpy(layer(shifted)), expected, rtol=0, atol=1e-4)
    integers = cupy.asarray(np.ones_like(x, dtype=np.int8))
    assert layer(integers).dtype == np.float32
    assert layer(cupy.asarray(x[0])).shape == expected.shape[1:]
    assert layer(cupy.asarray(x[:0])).shape == (0, *expected.shape[1:])


def test_current_stream():
    """A call waits for what the stream did before, and is on that stream itself."""
    x, weight, bias = problem(length=20_000)
    layer = layer_of(weight, bias).to("cuda")
    expected = layer(cupy.asarray(x))
    source = cupy.asarray(x)
    cupy.cuda.Device().synchronize()
    for _ in range(5):
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            late = cupy.zeros_like(source)
            for _ in range(50):
                late += source
            late /= 50
            y = layer(late)
        stream.synchronize()
        assert cupy.abs(y - expected).max() < 1e-3


def test_errors():
    x, weight, _ = problem()
    with pytest.raises(TypeError, match="weight must be on the GPU as x"):
        convt1d.conv_transpose1d(cupy.asarray(x), weight)
    with pytest.raises(TypeError, match="x must be on the GPU as weight"):
        convt1d.conv_transpose1d(x, cupy.asarray(weight))
    with pytest.raises(TypeError, match="must be in the CPU's memory"):
        convt1d.conv1d(cupy.asarray(x), weight.transpose(1, 0, 2))
    with pytest.raises(ValueError, match="device must be one of the"):
        convt1d.ConvTranspose1d(1, 1, 1).to("cuda:99")
    out = cupy.empty((3, 24, 7), np.float32)
    with pytest.raises(ValueError, match="out must have shape"):
        convt1d.conv_transpose1d(cupy.asarray(x), cupy.asarray(weight), out=out)


def test_two_devices():
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("there is one CUDA device only")
    x, weight, bias = problem()
    layer = layer_of(weight, bias)
    with cupy.cuda.Device(1):
        there = cupy.asarray(x)
    y = layer(there)  # from device 0
    assert y.device.id == 1
    np.testing.assert_allclose(cupy.asnumpy(y), layer(x), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="must be on one device"):
        convt1d.conv_transpose1d(there, cupy.asarray(weight))


@pytest.mark.parametrize("name", backend.TYPES)
def test_torch_tensors(name):
    """In and out by DLPack, on torch's current stream."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    host = problem()
    x, weight, bias = (torch.tensor(a, dtype=getattr(torch, name), device="cuda") for a in host)
    expected = convt1d.conv_transpose1d(*(a.astype(float) for a in host), **GEOMETRY)
    y = convt1d.conv_transpose1d(x, weight, bias, **GEOMETRY)
    assert (y.dtype, y.device) == (x.dtype, x.device)
    tolerance = {"float16": 0.1, "bfloat16": 0.8}.get(name, 1e-4)  # of sums of 120 products of rounded numbers
    assert np.abs(y.to(torch.complex128).cpu().numpy() - expected).max() < tolerance
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = torch.zeros_like(x)
        for _ in range(50):
            late += x
        again = convt1d.conv_transpose1d(late / 50, weight, bias, **GEOMETRY)
    stream.synchronize()
    assert (again - y).abs().max() < 10 * tolerance  # the half types round 50 times on the way
    with pytest.raises(TypeError, match="requires a gradient"):
        convt1d.conv_transpose1d(x.clone().requires_grad_(), weight, bias, **GEOMETRY)


def test_large_batches_and_channels():
    """More rows than 16 bits count, which bound a grid's y and z."""
    x = cupy.ones((70_000, 1, 3), np.float32)
    assert float(convt1d.conv_transpose1d(x, cupy.ones((1, 1, 2), np.float32)).sum()) == 70_000 * 6
    x = cupy.ones((70_000, 2, 3), np.float32)
    assert float(convt1d.conv_transpose1d(x, cupy.ones((2, 1, 2), np.float32)).sum()) == 70_000 * 12
    x = cupy.ones((1, 70_000, 3), np.float32)
    y = convt1d.conv_transpose1d(x, cupy.ones((70_000, 1, 2), np.float32), groups=70_000)
    assert float(y.sum()) == 70_000 * 6


@pytest.mark.huge
def test_offsets_beyond_32_bits():
    """Five billion samples out; the last one is right, and so is one in the middle."""
    x = cupy.zeros((1, 2, 2**30), np.float16)
    x[0, :, -1], x[0, :, 2**29] = 3, 5
    y = convt1d.conv_transpose1d(x, cupy.ones((2, 1, 5), np.float16), stride=5)
    assert y.shape[-1] == 5 * 2**30
    assert float(y[0, 0, -1]) == 6
    assert float(y[0, 0, 5 * 2**29]) == 10
    assert float(y[0, 0, 5 * 2**29 - 1]) == 0


SANITIZED = """
import sys, numpy as np, cupy, os
sys.path.insert(0, os.path.join(os.getcwd(), "tests"))
import convt1d
from convt1d.cuda import policy
rng = np.random.default_rng(0)
for kernel in policy.KERNELS:
    os.environ["CONVT1D_CUDA_KERNEL"] = kernel.NAME
    for dtype in (np.float32, np.float16, np.complex128):
        for mode in ("zeros", "reflect", "circular"):
            for workspace in ("", "60000"):
                os.environ["CONVT1D_CUDA_WORKSPACE"] = workspace
                x = cupy.asarray(rng.standard_normal((2, 35, 90)).astype(dtype))
                w = cupy.asarray(rng.standard_normal((35, 40, 7)).astype(dtype))
                for precision in ("float32", "tf32", "3xtf32"):
                    given = {"padding_mode": mode, "precision": precision}
                    convt1d.conv_transpose1d(x, w, stride=3, padding=(2, 1), **given)
                w = cupy.asarray(rng.standard_normal((35, 1, 12)).astype(dtype))
                convt1d.conv_transpose1d(x, w, stride=2, padding=5, groups=35, padding_mode=mode)
cupy.cuda.Device().synchronize()
print("all ran")
"""


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_compute_sanitizer(tool):
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9"]
    environment = os.environ | {"CUPY_CACHE_IN_MEMORY": "1"}
    run = subprocess.run(
        [*command, sys.executable, "-c", SANITIZED], env=environment, capture_output=True, text=True, timeout=900
    )
    said = run.stdout + run.stderr
    if "all ran" not in said and ("not supported" in said or "Unable to" in said):
        pytest.skip(f"compute-sanitizer cannot run here: {said[-500:]}")
    assert "all ran" in said, said[-5000:]
    # what it says of the kernels of cuBLAS and CuPy is not ours to mend
    names = "|".join(re.findall(r"\b(?:ENTRY|DIRECT|FUSED)\((\w+)", backend.source()))
    ours = re.findall(rf"at .*\b(?:{names})\(.*", said)
    assert ours == [], said[:5000]
