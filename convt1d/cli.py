# SPDX-License-Identifier: MIT
"""The command line: ``convt1d demo``, ``upsample``, ``apply``, ``explain``, ``layers``, ``bench``, ``info``.

    arguments -> files opened -> everything checked -> computed piece by piece -> one file, whole or none

Whatever the user got wrong becomes one line on stderr and exit code 2; Ctrl-C is exit code 130, SIGTERM 143, SIGHUP
129, a reader of stdout that goes away (``| head``) 141, as for a program that the system ends.
"""

import argparse
import contextlib
import functools
import importlib.resources
import json
import os
import secrets
import shlex
import shutil
import signal
import statistics
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from . import files, sound
from .files import check_regular
from .geometry import SETTINGS
from .padding import MODES

# scipy.io, scipy.signal and matplotlib are imported where they are used: --help and --version stay quick.

# Work between two progress reports, in multiply-adds: tens of milliseconds. Less would show in the run time,
# more would make a report, or the answer to Ctrl-C, late.
PIECE = 2**28
STANDARD = Path("-")  # standard input or output
# Reading and writing one sample takes about as long as this many multiply-adds.
SAMPLE_COST = 16


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, printed by `main` like all others."""

    def error(self, message):
        raise ValueError(f"{message} (see {self.prog} --help)")


class _Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, its argument, which ends what runs as Ctrl-C does."""


@contextlib.contextmanager
def _terminable():
    """SIGTERM and SIGHUP raise `_Terminated` inside the block; other threads than the main one cannot ask for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number, _):
        raise _Terminated(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # a SIGHUP that is ignored, as nohup asks for, stays so
    before = {n: signal.signal(n, end) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Status:
    """One line on stderr, from the first second on; `wanted` None: if stderr is a terminal."""

    def __init__(self, wanted=None):
        self._wanted = sys.stderr.isatty() if wanted is None else wanted
        self._start = time.monotonic()
        self._shown = self._percent = None

    def share(self, done, samples):
        """The share that is done of so many input samples, the rate, and the time left; once a percent."""
        percent, passed = int(100 * done), time.monotonic() - self._start
        if percent != self._percent and passed > 1:
            self._percent = percent
            self.show(f"{percent:3} %, {done * samples / passed:.3g} samples/s, {passed * (1 / done - 1):.0f} s left")

    def show(self, text):
        if self._wanted and text != self._shown and time.monotonic() - self._start > 1:
            print(f"\rconvt1d: {text:<50}", end="", file=sys.stderr, flush=True)
            self._shown = text

    def clear(self):
        if self._shown is not None:
            print("\r" + " " * 60 + "\r", end="", file=sys.stderr, flush=True)


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        Arguments without the program's name; `sys.argv[1:]` by default.

    Returns
    -------
    int
        Exit code: 0, 1 (the demo's result is wrong), 2 (bad arguments or files), 130 (Ctrl-C), 141 (nobody reads
        what is printed) or 143 (SIGTERM).
    """
    for name in ("stdout", "stderr"):  # closed, as a service's may be
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    parser = _parser()
    try:
        args = parser.parse_args(argv)
        if args.run is None:
            parser.print_help(sys.stderr)
            return 2
        with _terminable():
            code = args.run(args)
        print(end="", flush=True)  # here and not at exit, where an error could not be told from others
        return code
    except BrokenPipeError:
        with contextlib.suppress(ValueError):  # a stdout without a file descriptor
            # what is left to print would be tried again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, TypeError, OSError, MemoryError, ImportError) as error:
        print(f"convt1d: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except _Terminated as error:
        print("convt1d: terminated", file=sys.stderr)
        return 128 + int(error.args[0])
    except KeyboardInterrupt:
        print("convt1d: interrupted", file=sys.stderr)
        return 130


def _one_line(error):
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = str(error) or type(error).__name__
    if isinstance(error, MemoryError):
        text = f"not enough memory: {text}"
    return " ".join(text.split())


def _parser():
    from . import __version__

    parser = _Parser(
        prog="convt1d",
        description="1-D transposed convolution of NumPy arrays and wave files.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=None)
    parser.add_argument("-V", "--version", action="version", version=f"convt1d {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    _add_demo(commands)
    _add_upsample(commands)
    _add_apply(commands)
    _add_explain(commands)
    _add_layers(commands)
    _add_bench(commands)
    _add_info(commands)
    if "_ARGCOMPLETE" in os.environ:  # the shell asks for completions
        import argcomplete

        argcomplete.autocomplete(parser)
    return parser


def _add_demo(commands):
    demo = commands.add_parser(
        "demo",
        help="upsample a real signal, check the result, time a vocoder layer",
        description="Upsample an electrocardiogram 8 times, compare with scipy.signal.upfirdn, "
        "and time a HiFi-GAN layer.",
        epilog="Example: convt1d demo --plot demo.png",
        allow_abbrev=False,
    )
    demo.add_argument("--plot", metavar="FILE", type=Path, help="picture (.png, .pdf, .svg); replaced if it exists")
    demo.set_defaults(run=_demo)


#: Filters of `convt1d upsample`: stride -> taps.
FILTERS = {
    "sinc": lambda stride: windowed_sinc(stride),
    "linear": lambda stride: np.interp(np.arange(0.5 + stride % 2 / 2, 2 * stride, 1) / stride, [0, 1, 2], [0, 1, 0]),
    "hold": lambda stride: np.ones(stride),
}


def _add_upsample(commands):
    upsample = commands.add_parser(
        "upsample",
        help="upsample a .npy or .wav file by a textbook filter",
        description="Upsample each channel of a .npy or .wav file by a whole factor, STRIDE.",
        epilog="Example: convt1d upsample in.wav out.wav --stride 2",
        allow_abbrev=False,
    )
    upsample.add_argument("input", metavar="INPUT", type=Path, help=".npy or .wav; - for standard input")
    upsample.add_argument("output", metavar="OUTPUT", type=Path, help=".npy or .wav; - for standard output")
    upsample.add_argument("--stride", metavar="INT", type=int, required=True, help="upsampling factor")
    upsample.add_argument(
        "--filter",
        choices=tuple(FILTERS),
        default="sinc",
        help="windowed sinc of 17 input samples (default), linear interpolation, or each sample held",
    )
    upsample.add_argument(
        "--padding-mode", metavar="MODE", default="reflect", help=f"{', '.join(MODES)}; default reflect"
    )
    _add_file_options(upsample)
    upsample.set_defaults(run=_apply, weights=None, name=None, bias=None, conv=False, per_channel=True)


def _add_bench(commands):
    bench = commands.add_parser(
        "bench",
        help="time a layer of your own against torch and ONNX Runtime, where they are installed",
        description="Time warm float32 calls of one layer, a batch of one, in turns with the same in torch and in ONNX "
        "Runtime where they are installed, and say whether it is worth it.",
        epilog="Example: convt1d bench --layer '512 256 16 --stride 8 --padding 4' --length 200",
        allow_abbrev=False,
    )
    what = bench.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--layer", metavar="LAYER", help="channels in, channels out, kernel size and options, as for info"
    )
    what.add_argument("--weights", metavar="FILE", type=Path, help=".npz, .npy, .onnx or .safetensors, as for apply")
    bench.add_argument("--name", help="the layer in the weights, if there are several")
    _add_options(bench)
    bench.add_argument("--length", metavar="INT", type=int, default=200, help="input samples; default 200")
    bench.add_argument("--workers", metavar="INT", type=int, default=1, help="threads; default 1")
    bench.set_defaults(run=_bench, bias=None, conv=False)


def _add_apply(commands):
    apply = commands.add_parser(
        "apply",
        help="apply weights to a .npy or .wav file",
        description="Apply a transposed convolution, or with --conv a convolution, to a .npy or .wav file.",
        epilog=(
            "Shapes: the weights are (C_in, C_out/groups, K). A .npy input is (L,), (C, L) or (N, C, L), and "
            "the output keeps that form; only (L,) becomes (C_out, L_out) if C_out > 1. "
            "Wave files: integer samples are scaled to [-1, 1); the output is 32-bit float, and its rate is "
            "the input's times the stride, with --conv divided by it. A .npz file holds the array weight and may hold "
            "bias, stride, padding, output_padding, groups, dilation and padding_mode; options given here win. Of a "
            ".onnx or .safetensors file, or a .npz file of many arrays, --name says which layer; `convt1d layers` "
            "lists them. "
            "A .onnx file holds the geometry, a .safetensors file only if `layer.save` wrote it. "
            "Example: convt1d apply --weights up.npz --input x.wav --output y.wav"
        ),
        allow_abbrev=False,
    )
    apply.add_argument("--weights", metavar="FILE", type=Path, required=True, help=".npz, .npy, .onnx or .safetensors")
    apply.add_argument("--name", help="the layer in the weights, if there are several")
    apply.add_argument(
        "--input", metavar="FILE", type=Path, required=True, help=".npy, .wav, .flac, .ogg, .mp3, ...; - for stdin"
    )
    apply.add_argument("--output", metavar="FILE", type=Path, required=True, help=".npy or .wav; - for stdout")
    apply.add_argument("--bias", metavar="FILE", type=Path, help=".npy of shape (C_out,)")
    apply.add_argument(
        "--conv",
        action="store_true",
        help="a convolution, weights (C_out, C_in/groups, K), in place of a transposed one",
    )
    _add_options(apply)
    apply.add_argument(
        "--per-channel",
        action="store_true",
        help="apply weights of one input channel to each channel by itself; output channel c*C_out + o is "
        "output o of input channel c",
    )
    _add_file_options(apply)
    apply.set_defaults(run=_apply)


def _add_file_options(apply):
    """What `apply` and `upsample` share."""
    apply.add_argument("--rate", metavar="HZ", type=int, help="sample rate of a .npy input, for .wav output")
    apply.add_argument(
        "--stream",
        metavar="N",
        type=int,
        help="read, compute and write N input samples at a time, for files larger than the memory "
        "(24-bit wave input is read whole); any padding mode but circular",
    )
    apply.add_argument("--workers", metavar="INT", type=int, help="threads; default: the machine's choice")
    apply.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="show on stderr how much is done, from the first second on; default: if it is a terminal",
    )
    apply.add_argument("--force", action="store_true", help="overwrite the output file")
    apply.add_argument("--format", choices=("wav", "npy"), default="wav", help="of what - stands for; default wav")
    apply.add_argument(
        "--bits", type=int, choices=(16, 24, 32), default=32, help="of a .wav output; 32, the default, is float"
    )


def _add_explain(commands):
    explain = commands.add_parser(
        "explain",
        help="draw which input samples and taps make which output sample, and how evenly kernels overlap",
        epilog="Example: convt1d explain --kernel-size 3 --stride 2",
        description="Draw in text which input samples (rows) and taps (numbers) make which output samples (columns), "
        "and report how evenly the kernels overlap. With --weights the gains are those of the weights; with "
        "--kernel-size all taps are equal, of mean gain 1.",
        allow_abbrev=False,
    )
    what = explain.add_mutually_exclusive_group(required=True)
    what.add_argument("--kernel-size", metavar="INT", type=int, help="a layer of one channel and equal taps")
    what.add_argument("--weights", metavar="FILE", type=Path, help=".npz, .npy, .onnx or .safetensors, as for apply")
    explain.add_argument("--name", help="the layer in the weights, if there are several")
    _add_options(explain)
    explain.add_argument("--length", metavar="INT", type=int, help="samples of the input; default: some that show all")
    explain.add_argument("--plot", metavar="FILE", type=Path, help="picture (.png, .pdf, .svg); replaced if it exists")
    explain.set_defaults(run=_explain, bias=None, conv=False)


def _add_layers(commands):
    layers = commands.add_parser(
        "layers",
        help="list the transposed convolutions in a file of weights",
        epilog="Example: convt1d layers model.onnx",
        description="List every 1-D transposed convolution in a .onnx, .safetensors or .npz file, or with --conv every "
        "convolution. Only .onnx says for sure; in the others it is every weight that may be one.",
        allow_abbrev=False,
    )
    layers.add_argument("file", metavar="FILE", type=Path, help=".onnx, .safetensors, .npz or .npy")
    layers.add_argument("--conv", action="store_true", help="list convolutions in place of transposed ones")
    layers.set_defaults(run=_layers)


def _add_info(commands):
    info = commands.add_parser(
        "info",
        help="print versions, BLAS, instruction set, threads and kernels",
        epilog="Example: convt1d info --layer '512 256 16 --stride 8'",
        description="Print what a bug report should contain; or which kernel a layer gets on this machine, with what "
        "tile, and why the kernels preferred to it refused.",
        allow_abbrev=False,
    )
    info.add_argument(
        "--layer",
        metavar="LAYER",
        help="channels in, channels out, kernel size and options in one argument, as in "
        "--layer '512 256 16 --stride 8'; --dtype float64 for another type",
    )
    info.add_argument("--json", action="store_true", help="as a JSON object")
    info.set_defaults(run=_info)


def _add_options(parser):
    """The arguments named in SETTINGS; None where not given."""
    parser.add_argument("--stride", metavar="INT", type=int, help="default 1")
    parser.add_argument(
        "--padding", metavar="INT", type=int, nargs="+", help="one for both ends, or left, right; default 0"
    )
    parser.add_argument("--output-padding", metavar="INT", type=int, help="default 0")
    parser.add_argument("--groups", metavar="INT", type=int, help="default 1")
    parser.add_argument("--dilation", metavar="INT", type=int, help="default 1")
    parser.add_argument("--padding-mode", metavar="MODE", help=f"{', '.join(MODES)}; default zeros")


# info -------------------------------------------------------------------------------------------------------


def _info(args):
    from . import info

    if args.layer is None:
        lines = info.describe()
    else:
        checked, dtype = _described(args.layer)
        lines = info.describe_plan(checked, dtype)
    if args.json:
        print(json.dumps(lines, indent=2))
    else:
        _print_table(lines)
    return 0


def _described(text):
    """The geometry and element type that `--layer` describes."""
    from . import geometry

    parser = _Parser(prog="convt1d info --layer", add_help=False, allow_abbrev=False)
    for name in ("in_channels", "out_channels", "kernel_size"):
        parser.add_argument(name, type=int)
    parser.add_argument("--dtype", choices=("float32", "float64", "complex64", "complex128"), default="float32")
    _add_options(parser)
    given = vars(parser.parse_args(shlex.split(text)))
    dtype, padding = given.pop("dtype"), given.pop("padding")
    if padding is not None:
        given["padding"] = padding[0] if len(padding) == 1 else tuple(padding)
    return geometry.check(**{name: value for name, value in given.items() if value is not None}), dtype


# bench ------------------------------------------------------------------------------------------------------


def _bench(args):
    from . import ConvTranspose1d, bench, geometry

    length = geometry.as_length("--length", args.length)
    if args.layer is not None:
        checked, dtype = _described(args.layer)
        if dtype != "float32" or args.name is not None or _given(args):
            raise ValueError("--layer holds all options, and its type must be float32")
        options = {name: getattr(checked, name) for name in SETTINGS} | {"padding": _one_or_pair(checked.padding)}
        layer = ConvTranspose1d(checked.in_channels, checked.out_channels, checked.kernel_size, rng=0, **options)
    else:
        _check_weights(args.weights)
        weight, bias, options = _settings(args, length)
        layer = _layer_of(np.asarray(weight), bias, options, np.dtype(np.float32))
    print(*bench.describe(layer, length, args.workers), sep="\n")
    return 0


def _one_or_pair(padding):
    left, right = padding
    return left if left == right else padding


def _print_table(lines):
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:<{width}}  {value}")


# layers -----------------------------------------------------------------------------------------------------


def _layers(args):
    from . import weights

    found = weights.list_layers(args.file, transposed=not args.conv)
    for layer in found:
        print(_line(layer, args.conv))
    if not found:
        print(f"no 1-D {'convolution' if args.conv else 'transposed convolution'} in {args.file}")
    return 0


def _line(layer, conv=False):
    """A LayerInfo in words; "?" where the file does not tell and the layer needs it."""
    facts = []
    if layer.weight_shape is not None:
        whole, per_group, kernel_size = layer.weight_shape
        others = f"{per_group} x groups" if layer.groups is None else per_group * layer.groups
        c_in, c_out = (others, whole) if conv else (whole, others)
        facts += [f"{c_in} -> {c_out} channels", f"kernel {kernel_size}"]
    if not layer.problem:
        facts.append(f"stride {'?' if layer.stride is None else layer.stride}")
    if layer.padding is not None:
        left, right = layer.padding
        facts.append(f"padding {left}" if left == right else f"padding {left} {right}")
    usual = {"output_padding": 0, "groups": 1, "dilation": 1}
    facts += [f"{key} {value}" for key in usual if (value := getattr(layer, key)) not in (None, usual[key])]
    facts += ["bias"] * layer.bias + [layer.dtype] * (layer.dtype is not None)
    facts += [f"not usable: {layer.problem}"] * bool(layer.problem) + [layer.remark] * bool(layer.remark)
    line = f"{layer.name or '(no name)'}: {', '.join(facts)}"
    # what a file names may hold what moves the terminal's cursor
    return line if line.isprintable() else ascii(line)


# demo -------------------------------------------------------------------------------------------------------


def windowed_sinc(stride, zero_crossings=8):
    """Interpolation filter for upsampling by `stride`.

    Parameters
    ----------
    stride : int
        Upsampling factor.
    zero_crossings : int, optional
        Half the filter's length, in input samples.

    Returns
    -------
    numpy.ndarray, shape (K,)
        Symmetric filter, ``K = (2*zero_crossings + 1)*stride``: with ``padding = zero_crossings*stride`` the
        output has exactly ``L*stride`` samples, and sample ``t`` lies at input position
        ``(t - (stride - 1)/2) / stride``.

    Notes
    -----
    Each output sample sees one phase of the filter, the taps ``k % stride == j``. Every phase has sum 1, so a
    constant stays constant.
    """
    from . import initialize

    kernel_size = (2 * zero_crossings + 1) * stride
    return initialize.windowed_sinc(1, 1, kernel_size, stride, window=("kaiser", 8.0)).ravel()


def _demo(args):
    figure = None if args.plot is None else _new_figure(args.plot)  # a bad FILE is told before any work
    import scipy.signal

    from . import ConvTranspose1d

    with importlib.resources.files("convt1d").joinpath("data/ecg.npy").open("rb") as file:
        ecg = np.load(file, allow_pickle=False).astype(np.float64)
    stride = 8
    taps = windowed_sinc(stride)
    padding = (taps.size - stride) // 2

    def upsample(mode):
        layer = ConvTranspose1d(1, 1, taps.size, stride, padding, bias=False, padding_mode=mode, dtype=np.float64)
        layer.weight = taps.reshape(1, 1, -1)
        return layer(ecg[np.newaxis])[0]

    upsampled = upsample("reflect")
    print(
        f"ECG, {ecg.size} samples -> {upsampled.size}: depthwise layer, windowed sinc, kernel {taps.size}, "
        f"stride {stride}, padding {padding}, padding_mode reflect"
    )
    expected = scipy.signal.upfirdn(taps, ecg, up=stride)[padding : padding + upsampled.size]
    inside = slice(taps.size, -taps.size)  # further than the filter reaches from either end
    deviation = np.abs(upsampled - expected)[inside].max() / np.abs(ecg).max()
    print(f"  largest deviation from scipy.signal.upfirdn, relative to the signal's peak: {deviation:.1e}")
    if not deviation < 1e-12:
        print("convt1d: this result is WRONG: float64 rounding explains about 1e-15", file=sys.stderr)
        return 1

    length, runs = 200, 9
    layer = ConvTranspose1d(512, 256, 16, stride=8, padding=4, rng=0)
    x = np.random.default_rng(0).standard_normal((1, 512, length), dtype=np.float32)
    layer(x)  # the first call packs the weights and starts the threads
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        layer(x)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    flops = 2 * 512 * 256 * 16 * length
    print(f"HiFi-GAN layer, 512 -> 256 channels, kernel 16, stride 8, padding 4, {length} samples, float32")
    print(f"  median of {runs} runs: {1e3 * median:.2f} ms, {flops / median / 1e9:.1f} GFLOP/s")

    if figure is not None:
        modes = tuple(MODES)
        _draw(figure, ecg, {mode: upsample(mode) for mode in modes}, stride)
        _save_figure(figure, args.plot)
    return 0


def _save_figure(figure, path):
    _write_whole(path, lambda file: figure.savefig(file, format=_suffix(path)[1:]), force=True)
    print(f"wrote {path}")


def _new_figure(path):
    try:
        from matplotlib.figure import Figure  # not pyplot: no window, no global state
    except ImportError as error:
        raise ValueError(f"--plot needs matplotlib ({error}): pip install 'convt1d[plot]'") from error
    figure = Figure(figsize=(10, 7), dpi=150, layout="constrained")
    _check_suffix("--plot", path, (".png", ".pdf", ".svg"))
    _check_output("--plot", path, sources=[], force=True)
    return figure


def _draw(figure, signal, upsampled, stride):
    """Draw a stretch of the upsampled signal above its two ends in all padding modes."""
    at = np.arange(signal.size)
    at_upsampled = (np.arange(signal.size * stride) - (stride - 1) / 2) / stride
    axes = figure.subplot_mosaic([["stretch", "stretch"], ["left", "right"]])

    axis = axes["stretch"]
    axis.plot(at_upsampled, upsampled["reflect"], color="C0", label=f"upsampled {stride}×")
    axis.plot(at, signal, "o", color="black", markersize=4, label="input samples")
    axis.set(xlim=(164.5, 225.5), title="Electrocardiogram, one beat", xlabel="time (input samples)")
    axis.legend(loc="upper right", frameon=False)

    # Modes that nearly coincide stay visible: wide and pale below, thin and dashed above.
    styles = {
        "zeros": {"color": "C3", "linewidth": 1.5},
        "circular": {"color": "C2", "linewidth": 1.5},
        "replicate": {"color": "C1", "linewidth": 3.5, "alpha": 0.6},
        "reflect": {"color": "C0", "linewidth": 1.5, "linestyle": "--"},
    }
    ends = (("left", -0.8, "First samples"), ("right", signal.size - 9.4, "Last samples"))
    for name, first, title in ends:
        axis = axes[name]
        for mode, style in styles.items():
            axis.plot(at_upsampled, upsampled[mode], label=mode, **style)
        axis.plot(at, signal, "o", color="black", markersize=4, label="input samples")
        axis.set(xlim=(first, first + 9.2), ylim=(-105, -42), xlabel="time (input samples)")
        axis.set_title(f"{title}, by padding mode")
    axes["left"].legend(loc="upper right", frameon=False)
    for axis in axes.values():
        axis.set_ylabel("amplitude (int16 units)")
        axis.grid(alpha=0.3)


# explain ----------------------------------------------------------------------------------------------------


def _explain(args):
    from . import arrays, explain, info

    figure = None if args.plot is None else _new_figure(args.plot)
    layer, length = _explained(args)
    drawing = explain.drawing(layer, length, max(40, shutil.get_terminal_size().columns))
    report = explain.overlap_report(layer)
    if figure is not None:
        from . import plot

        axes = figure.subplot_mosaic([["arithmetic", "arithmetic"], ["overlap", "response"]], width_ratios=(2, 3))
        plot.plot_arithmetic(layer, length, ax=axes["arithmetic"])
        plot.plot_overlap(layer, ax=axes["overlap"])
        plot.plot_response(layer, ax=axes["response"])
    # ASCII throughout: any terminal and any pipe takes it
    print(f"{layer}, {length} input samples\n")
    print("Rows are input samples, columns output samples. A number k where they meet is a")
    print("tap: w[k] times the row's sample is added to the column's.\n")
    print(f"{drawing}\n")
    print(f"Output sample t has phase t mod {layer.stride}. Away from the edges:\n")
    print(report)
    print("\nOn this machine:\n")
    _print_table(info.describe_plan(explain.geometry_of(layer), arrays.compute_dtype(layer.dtype).name))
    if figure is not None:
        _save_figure(figure, args.plot)
    return 0


def _explained(args):
    """The layer to explain, and the input's length."""
    from . import arrays, explain, geometry

    if args.weights is None:
        if args.name is not None:
            raise ValueError("--name is for --weights")
        options = _given(args)
        checked = geometry.check(1, 1, args.kernel_size, **options)
        length = explain.some_length(checked) if args.length is None else args.length
        explain.check_small(checked, length)  # before a kernel is made that no memory holds
        weight, bias = np.full((1, 1, checked.kernel_size), checked.stride / checked.kernel_size), None
    else:
        _check_weights(args.weights)
        weight, bias, options = _settings(args, args.length)
        length = args.length
    layer = _layer_of(weight, bias, options, arrays.result_dtype(weight.dtype, weight.dtype))
    return layer, explain.some_length(explain.geometry_of(layer)) if length is None else length


def _layer_of(weight, bias, options, dtype):
    """A layer with these weights."""
    from . import ConvTranspose1d, geometry

    c_in, per_group, kernel_size = weight.shape
    c_out = per_group * geometry.as_int("groups", options.get("groups", 1), 1)
    layer = ConvTranspose1d(c_in, c_out, kernel_size, bias=bias is not None, dtype=dtype, rng=0, **options)
    layer.weight = weight
    if bias is not None:
        layer.bias = bias
    return layer


# apply ------------------------------------------------------------------------------------------------------


def _apply(args):
    """`_apply_files`, with files in the place of standard input and output."""
    with tempfile.TemporaryDirectory() as folder:
        if args.input == STANDARD or _is_device(args.input):
            copy = Path(folder) / f"stdin.{args.format}"
            with contextlib.ExitStack() as stack:
                source = sys.stdin.buffer if args.input == STANDARD else stack.enter_context(args.input.open("rb"))
                shutil.copyfileobj(source, stack.enter_context(copy.open("xb")))
            args.input = copy
        if args.output != STANDARD and args.output != Path("/dev/stdout"):
            print(f"wrote {args.output}: {_apply_files(args)}")
        else:
            args.output = Path(folder) / f"stdout.{args.format}"
            print(f"convt1d: wrote {_apply_files(args)}", file=sys.stderr)
            with args.output.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
    return 0


def _is_device(path):
    """/dev/stdin, or what a shell's <(...) is: read once, to its end."""
    return path.parts[:2] == ("/", "dev")


def _apply_files(args):
    """Write the output file and say what it holds."""
    from . import conv1d, conv_transpose1d

    sources = [path for path in (args.input, args.weights, args.bias) if path is not None]
    if args.weights is not None:
        _check_weights(args.weights)
    _check_suffix("--input", args.input, (".npy", ".wav", *sound.OTHERS))
    _check_suffix("--output", args.output, (".npy", ".wav"))
    _check_output("--output", args.output, sources, args.force)
    if args.bias is not None:
        _check_suffix("--bias", args.bias, (".npy",))
    if args.stream is not None and args.stream < 1:
        raise ValueError(f"--stream must be at least 1, got {args.stream}")

    if args.bits != 32 and _suffix(args.output) != ".wav":
        raise ValueError("--bits is only for a .wav output")
    x, rate, prepare = _open_input(args)
    weight, bias, options = _settings(args, x.shape[-1])
    to_wav = _suffix(args.output) == ".wav"
    form = x.ndim
    x = x.reshape((1,) * (3 - form) + x.shape)
    batch, channels, length = x.shape
    taken = weight.shape[1] * options.get("groups", 1) if args.conv else weight.shape[0]
    if args.per_channel:
        if taken != 1:
            form_of = "(C_out, 1, K)" if args.conv else "(1, C_out, K)"
            raise ValueError(f"--per-channel needs weights of shape {form_of}, got {weight.shape}")
        x = x.reshape(batch * channels, 1, length)
    elif taken != channels:
        hint = "; --per-channel applies them to each channel" if taken == 1 else ""
        raise ValueError(f"--input {args.input} has {channels} channel(s), but the weights take {taken}{hint}")
    operator = conv1d if args.conv else conv_transpose1d

    def convolve(piece):
        return operator(prepare(piece), weight, bias, **options, workers=args.workers)

    # An empty batch passes every check, costs nothing and tells the result's shape and type.
    nothing = convolve(x[:0])
    stride = options.get("stride", 1)
    new_rate = rate and _output_rate(rate, stride, args.conv)
    c_out, length_out = nothing.shape[1:]
    if to_wav:
        if batch != 1:
            raise ValueError(f"a .wav output holds one signal, --input {args.input} is a batch of {batch}")
        if nothing.dtype.kind == "c":
            raise ValueError(f"a .wav output holds real samples, but the result is {nothing.dtype}")
        rows = x.shape[0] * c_out
        _check_wav(rows, length_out, new_rate, args.bits // 8)
        told = f"{rows} channel(s) of {length_out} samples, {new_rate} Hz"
    else:
        shape = (batch, c_out * channels if args.per_channel else c_out, length_out)
        if form == 1 and shape[1] == 1:
            shape = shape[2:]
        elif form < 3:
            shape = shape[1:]
        told = f"{nothing.dtype}, shape {shape}"

    status = _Status(args.progress)
    try:
        if args.stream is not None or (args.conv and options.get("padding_mode") != "circular"):
            stream = _open_stream(weight, bias, options, nothing, args)
            step = args.stream or max(1, PIECE // (weight.size + SAMPLE_COST * channels))
            pieces = _stream_in_pieces(stream, x, prepare, step, status)
            if not to_wav:
                write = functools.partial(_write_npy, pieces, shape, nothing.dtype)
        else:
            y = np.empty((x.shape[0], c_out, length_out), dtype=np.float32 if to_wav else nothing.dtype)
            for done in _convolve_in_pieces(convolve, x, y, weight.shape[2], options):
                status.share(done, x.shape[0] * length)
            status.show("writing")
            pieces = (y[..., m : m + 2**18] for m in range(0, length_out, 2**18))
            if not to_wav:

                def write(file):
                    np.save(file, y.reshape(shape), allow_pickle=False)

        if to_wav:
            write = functools.partial(_write_wav, pieces, rows, length_out, new_rate, args.bits)
        _write_whole(args.output, write, args.force)
        return told
    finally:
        status.clear()


def _convolve_in_pieces(convolve, x, y, kernel_size, options):
    """Fill `y` with ``convolve(x)``, some samples or part of one at a time, and yield the share done.

    Piece ``[m0, m1)`` of a long signal completes the outputs ``[m0*stride - left, m1*stride - left)``. They
    are computed from a longer stretch, and what its own ends touch is dropped::

        input            [--------|reach|--- m0 .. m1 ---|reach|--------]
        output of the stretch     [ dropped |   kept   | dropped ]

    At a true end of the signal nothing is dropped, and the padding mode does its work. A circular signal is
    not cut: its left end would need its right one.
    """
    stride, dilation = options.get("stride", 1), options.get("dilation", 1)
    padding, output_padding = options.get("padding", 0), options.get("output_padding", 0)
    left, right = padding if isinstance(padding, tuple) else (padding, padding)
    reach = (dilation * (kernel_size - 1) + output_padding + left + right) // stride + 2

    (rows, c_in, length), (_, c_out, length_out) = x.shape, y.shape
    cost = c_in * c_out // options.get("groups", 1) * kernel_size + SAMPLE_COST * (c_in + c_out * stride)
    if length * cost <= PIECE or options.get("padding_mode") == "circular":
        step_rows, step = max(1, PIECE // (length * cost)), length
    else:
        step_rows, step = 1, max(PIECE // cost, 8 * reach)

    for row in range(0, rows, step_rows):
        for m0 in range(0, length, step):
            m1 = min(m0 + step, length)
            start = max(0, m0 - reach)
            first = max(0, m0 * stride - left) if m0 else 0
            last = min(length_out, m1 * stride - left) if m1 < length else length_out
            if first < last:
                z = convolve(x[row : row + step_rows, :, start : m1 + reach])
                z = z[..., first - start * stride : last - start * stride]
                _store(z, y[row : row + step_rows, :, first:last])
            yield min(1, (row + step_rows * m1 / length) / rows)


def _output_rate(rate, stride, conv):
    """Samples per second of what comes out."""
    if conv and rate % stride:
        raise ValueError(f"the sample rate must be a multiple of the convolution's stride, got {rate} and {stride}")
    return rate // stride if conv else rate * stride


def _open_stream(weight, bias, options, result, args):
    """A stream of the layer with these weights, in the type of the `result`: the function's arithmetic."""
    from . import Conv1d, Conv1dStream, ConvTranspose1dStream

    if not args.conv:
        return ConvTranspose1dStream(_layer_of(weight, bias, options, result.dtype), workers=args.workers)
    state = {"weight": weight.astype(result.dtype)} | ({} if bias is None else {"bias": bias})
    layer = Conv1d.from_state_dict(state, **{"padding": 0} | options)
    return Conv1dStream(layer, workers=args.workers)


def _stream_in_pieces(stream, x, prepare, step, status):
    """Yield the output of `x` in pieces, each from `step` input samples, the last from the flush."""
    length = x.shape[-1]
    for m in range(0, length, step):
        yield stream.process(prepare(x[..., m : m + step]))
        status.share(min(1, (m + step) / length), x.shape[0] * length)
    yield stream.flush()


def _store(values, target):
    try:
        with np.errstate(over="raise"):  # float64 results go to a wave file as float32
            target[...] = values
    except FloatingPointError:
        raise ValueError("the result exceeds the range of 32-bit float samples; use .npy") from None


def _settings(args, length):
    """Return weight, bias or None, and the options: those given, else those stored beside the weights."""
    if args.weights is None:
        return _filter(args)
    from .weights import conv, state

    given, is_conv = _given(args), args.conv
    if is_conv and "output_padding" in given:
        raise ValueError("--output-padding is for transposed convolutions, not with --conv")
    bias = None if args.bias is None else _load_npy("--bias", args.bias)
    if _suffix(args.weights) in (".onnx", ".safetensors") or args.name is not None:
        weight, stored, options = _load_layer(args, given, length, is_conv)
        return weight, stored if bias is None else bias, options | given
    found, options = _load_weights(args.weights, state.CONVOLUTION_LAYOUTS if is_conv else state.LAYOUTS)
    found = found if bias is None else found._replace(bias=bias)
    options = _plain(options) | given
    needed = "padding" if is_conv else "stride"
    if _suffix(args.weights) == ".npz" and needed not in options:
        raise ValueError(f"--{needed} must be given: {args.weights} does not hold it")
    if "groups" not in options:
        options["groups"] = conv.groups_of(found.name, found.weight.shape) if is_conv else state.groups_of(found)
    return found.weight, found.bias, options


def _filter(args):
    """The filter of `upsample`, as `_settings` returns weights."""
    from . import geometry

    stride = geometry.as_int("--stride", args.stride, 1)
    taps = FILTERS[args.filter](stride)
    crop = taps.size - stride
    options = {"stride": stride, "padding": (crop // 2, crop - crop // 2), "padding_mode": args.padding_mode}
    return taps.astype(np.float32)[None, None], None, options


def _given(args):
    """The options among the arguments."""
    return _plain({name: value for name in SETTINGS if (value := getattr(args, name)) is not None})


def _plain(options):
    """One int in a list stands for the int; a pair is a tuple."""

    def plain(value):
        if not isinstance(value, list):
            return value
        return value[0] if len(value) == 1 else tuple(value)

    return {name: plain(value) for name, value in options.items()}


def _open_input(args):
    """Return samples (mapped if possible), their rate or None, and what makes an array of a piece."""
    if _suffix(args.input) != ".npy":
        x, rate = _load_sound(args.input)
    else:
        x, rate = _load_npy("--input", args.input, mmap_mode="r"), args.rate
    prepare = np.asarray if _suffix(args.input) == ".npy" else pcm_to_float
    if isinstance(x, np.memmap):
        piece_of, convert = files.reader(x, args.input), prepare

        def prepare(piece):
            with _reading("--input", args.input):
                return convert(piece_of(piece))

    if args.rate is not None and (_suffix(args.input), _suffix(args.output)) != (".npy", ".wav"):
        raise ValueError("--rate is only for a .npy input with a .wav output")
    if rate is None and _suffix(args.output) == ".wav":
        raise ValueError("a .wav output needs --rate, the sample rate of the .npy input")
    if not 1 <= x.ndim <= 3:
        raise ValueError(f"--input {args.input} must have shape (L,), (C, L) or (N, C, L), got {x.shape}")
    return x, rate, prepare


def _load_layer(args, given, length, is_conv):
    """Weight, bias or None, and options of a layer; `length` is the input's, which some ONNX nodes need."""
    from . import weights
    from .weights import conv

    if _suffix(args.weights) == ".npy":
        raise ValueError(f"--name is for files of several arrays, {args.weights} holds one")
    if _suffix(args.weights) == ".onnx":
        if given:
            raise ValueError(f"--{min(given).replace('_', '-')} cannot be given: {args.weights} holds the geometry")
        given = {"length": length}
    reader = conv if is_conv else weights
    geometry, weight, bias = reader.from_file(args.weights, args.name, **given)
    return weight, bias, {name: getattr(geometry, name) for name in SETTINGS if hasattr(geometry, name)}


def _load_weights(path, layouts):
    """Return the weight and bias that were found, and the options stored beside them."""
    from .weights import state

    known = ["weight", "bias", *SETTINGS]
    with _reading("--weights", path):
        check_regular(path)
        with path.open("rb") as file:
            single = file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX
        if single and _suffix(path) != ".npy":
            raise ValueError("it holds a single array: name it .npy")
    with _reading("--weights", path), files.arrays_of(path) as arrays:
        if unknown := sorted(set(arrays) - set(known)):
            from . import weights

            names = [layer.name for layer in weights.list_layers(path)]
            hint = f"; --name says which layer: {' or '.join(names[:9])}" if any(names) else ""
            raise ValueError(f"unknown arrays {unknown}; known are {known}{hint}")
        if "weight" not in arrays:
            raise ValueError("it has no array named weight")
        stored = {name: arrays[name] for name in arrays if name in SETTINGS}
        for name, value in stored.items():
            if value.ndim > 1 or value.size > 2:
                raise ValueError(f"{name} must be a scalar, got an array of shape {value.shape}")
        return state.find(arrays, "", layouts), {name: value.tolist() for name, value in stored.items()}


def _load_npy(option, path, mmap_mode=None):
    with _reading(option, path):
        check_regular(path)
        mapped = np.lib.format.open_memmap(path, mode=mmap_mode or "r")  # refuses a file shorter than it claims
        return mapped if mmap_mode is not None else files.reader(mapped, path)(mapped)


def _load_sound(path):
    """Return the samples as the file has them, shape (C, L) or for one channel (L,), and their rate."""
    with _reading("--input", path):
        samples, rate = sound.read(path)
        return samples if len(samples) > 1 else samples[0], rate


def pcm_to_float(samples):
    """Scale integer samples of a wave file to [-1, 1).

    Parameters
    ----------
    samples : numpy.ndarray
        uint8 around 128, or int16, int32, int64 around 0 (SciPy reads 24-bit samples as int32); or float.

    Returns
    -------
    numpy.ndarray
        float32 for 8 and 16 bits, float64 for more: float32 would round the largest 32-bit sample up to 1.
        Float samples keep their values and type.
    """
    if samples.dtype.kind == "f":
        return np.asarray(samples, dtype=samples.dtype.newbyteorder("="))
    bits = 8 * samples.dtype.itemsize
    scaled = samples.astype(np.float32 if bits <= 16 else np.float64)
    if samples.dtype.kind == "u":
        scaled -= 2 ** (bits - 1)
    scaled /= 2 ** (bits - 1)
    return scaled


@contextlib.contextmanager
def _reading(option, path):
    """Turn what a damaged file raises (struct.error, zlib.error, BadZipFile...) into a ValueError."""
    try:
        yield
    except (OSError, MemoryError, ImportError):
        raise
    except Exception as error:
        raise ValueError(f"{option} {path} cannot be read: {error}") from error


def _suffix(path):
    return path.suffix.lower()


def _check_weights(path):
    from . import weights

    weights.refuse_pickle(path)
    _check_suffix("--weights", path, (".npz", ".npy", ".onnx", ".safetensors"))


def _check_suffix(option, path, known):
    if _suffix(path) not in known:
        raise ValueError(f"{option} must end in {' or '.join(known)}, got {path}")


def _check_output(option, path, sources, force):
    """Refuse now what could not be written, or should not be, after the work."""
    if path.exists():
        for source in sources:
            if path.samefile(source):
                raise ValueError(f"{option} {path} is also an input file")
        if not path.is_file():
            raise ValueError(f"{option} {path} exists and is not a file")
        if not force:
            raise ValueError(f"{option} {path} exists; --force overwrites it")
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise ValueError(f"{option} {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{option} {path}: the folder {folder} is not writable")


def _check_wav(channels, length, rate, width):
    """Refuse what the header of a wave file cannot say; `rate` is the output's."""
    if rate < 1:
        raise ValueError(f"the sample rate must be at least 1, got {rate} for the output")
    if width * channels > 0xFFFF:
        raise ValueError(f"a .wav output holds at most {0xFFFF // width} channels, got {channels}; use .npy")
    if width * channels * rate > 0xFFFFFFFF:
        raise ValueError(f"a .wav output cannot state {channels} channels at {rate} Hz: over 4 GiB a second")
    if width * channels * length > 0xFFFFFFFF - 100:
        raise ValueError(f"a .wav output holds at most 4 GiB, got {channels} x {length} samples; use .npy")


def _write_npy(pieces, shape, dtype, file):
    """What numpy.save writes for an array of `shape`; `pieces` (N, C, n) follow one another along its last axis."""
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    start, first = file.tell(), 0
    for piece in pieces:
        rows, n = piece.shape[0] * piece.shape[1], piece.shape[2]
        for row, samples in enumerate(piece.reshape(rows, n)):
            file.seek(start + (row * shape[-1] + first) * dtype.itemsize)
            file.write(samples.tobytes())
        first += n


def _write_wav(pieces, channels, length, rate, bits, file):
    """A wave file of `length` samples: 32 bits of float, or 16 or 24 of int. `pieces` (N, C, n) hold N*C channels."""
    frame = bits // 8 * channels
    size = frame * length
    # https://www.mmsp.ece.mcgill.ca/Documents/AudioFormats/WAVE/WAVE.html: format 1 is PCM, 3 is IEEE float
    kind = 3 if bits == 32 else 1
    file.write(struct.pack("<4sI4s", b"RIFF", 50 + size + size % 2, b"WAVE"))
    file.write(struct.pack("<4sIHHIIHHH", b"fmt ", 18, kind, channels, rate, rate * frame, frame, bits, 0))
    file.write(struct.pack("<4sII4sI", b"fact", 4, length, b"data", size))
    clipped = 0
    for piece in pieces:
        frames = np.empty((piece.shape[-1], channels), dtype="<f4")
        _store(piece.reshape(channels, piece.shape[-1]).T, frames)
        if bits == 32:
            file.write(frames.tobytes())
            continue
        most = 2 ** (bits - 1)
        scaled = np.rint(frames.astype(np.float64) * most)
        clipped += int(((scaled < -most) | (scaled > most - 1)).sum())
        codes = scaled.clip(-most, most - 1).astype("<i4")
        file.write(np.ascontiguousarray(codes.view("u1").reshape(*codes.shape, 4)[..., : bits // 8]).tobytes())
    file.write(b"\0" * (size % 2))
    if clipped:
        print(f"convt1d: {clipped} samples beyond [-1, 1) were clipped", file=sys.stderr)


def _write_whole(path, write, force):
    """Call ``write(file)`` on a temporary file beside `path`, then give it that name: all or nothing."""
    path = Path(os.path.realpath(path))  # replace what a link points to, not the link
    temporary = path.with_name(f".convt1d-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            write(file)
        if not force and path.exists():
            raise ValueError(f"{path} appeared in the meantime; --force overwrites it")
        with contextlib.suppress(OSError):
            shutil.copymode(path, temporary)  # a private file stays private
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk, say
            raise OSError(f"{path} cannot be written: {error}") from error
        raise
