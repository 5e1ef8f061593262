"""Claim: EdgeKD's int8 forms are as fast and as close to fp32 as the best peer's, and agree.

    make .venv-zoo/.zoo
    python -m venv PEERS/nncf && PEERS/nncf/bin/pip install nncf==3.4.0 onnx onnxruntime
    python -m venv PEERS/modelopt && PEERS/modelopt/bin/pip install 'nvidia-modelopt[onnx]==0.47.0'
    .venv/bin/python benchmarks/quantisation.py --peers PEERS --work DIR

Six networks at 224² with drawn weights (``quantisation_networks.py``). Everyone gets the same 128
images; noise is measured on 64 others. A peer with a folder in PEERS runs in that environment,
the others in this one; what is missing is said to be. All files are then run by this one's ONNX
Runtime, and built by its TensorRT for RTX, which needs no GPU. What the networks' script and the
peers make is kept in DIR and used again; what EdgeKD makes never is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import record
from quantisation_networks import MEAN, STD
from quantisation_peers import PEERS, TITLES

from edgekd import targets
from edgekd.artifacts import Preprocessing, QuantizedModel
from edgekd.backends.base import build_engine
from edgekd.backends.ort import open_model
from edgekd.bench.load import interleaved
from edgekd.calibration.collect import collect
from edgekd.calibration.feeds import Feeds, of_images
from edgekd.calibration.methods import label
from edgekd.errors import EdgekdError
from edgekd.quantize import auto
from edgekd.quantize.prepare import prepare
from edgekd.quantize.proof import sqnr
from edgekd.quantize.qdq import quantize
from edgekd.stats.percentiles import interval

HERE = Path(__file__).parent
NETWORKS = ("resnet18", "mobilenetv2", "mobilenetv3s", "efficientnetb0", "vgg11", "vit")
OURS = "EdgeKD u8s8"
TWIN = "EdgeKD s8s8"
RTX = targets.load("tensorrt-rtx")
CALLS, BLOCKS, LIMIT_NS = 100, 10, 8 * 10**9
"""Of one run and file: timed calls, turns, the time they may take."""
BATCH = 16
JUDGED = 32
"""Calibration images that the method is chosen by. The validation images are kept for the end."""
SLOWER, WORSE_DB, TWIN_DB = 1.02, 0.5, 35.0
"""The goals: latency over the fastest peer's at most, SQNR below the best peer's at most, and
between the two forms at least."""

CAVEATS = """\
- EdgeKD tried six calibration methods and kept one a network; each peer ran the one it comes with.
- Weights are drawn: the decibels are of these networks and foretell no trained one's. The ViT shows
  it. Its logits read the class token alone, which is far smaller than the patches before training;
  peers that put sums or layer norms of both into one int8 range lose it, and EdgeKD leaves them in
  float. Most of its lead there is that."""
"""Of how the comparison was set up."""


@dataclass
class Variant:
    """One int8 file of a network and what is known of it.

    Attributes:
        path: None where there is no file.
        reason: why there is none.
        bytes: its size.
        seconds: that making it took.
        versions: of what made it.
        fused_db: SQNR to fp32 as ONNX Runtime runs it.
        plain_db: the same with nothing fused.
        rtx: whether TensorRT for RTX builds it.
        refused: why it does not.
        rtx_db: SQNR to fp32 as TensorRT for RTX reads it, nothing fused.
    """

    path: Path | None
    reason: str = ""
    bytes: int = 0
    seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    fused_db: float = np.nan
    plain_db: float = np.nan
    rtx: bool = False
    refused: str = ""
    rtx_db: float = np.nan


@dataclass(frozen=True)
class Network:
    """What was measured of one network.

    Attributes:
        bytes: of the fp32 file.
        method: the one that EdgeKD chose.
        variants: by title, ours and the peers'.
        ms: medians of turns by title, see ``times``.
        between: SQNR of our CPU form to our TensorRT form.
    """

    name: str
    bytes: int
    method: str
    variants: dict[str, Variant]
    ms: dict[str, Any]
    between: float


def made_by_peer(peer: str, network: Path, samples: Path, chosen: argparse.Namespace) -> Variant:
    """The file of a peer, by a process of its own."""
    folder = chosen.work / "peers" / peer
    folder.mkdir(parents=True, exist_ok=True)
    out, facts = folder / network.name, folder / f"{network.stem}.json"
    if not (out.exists() and facts.exists()):
        own = chosen.peers / peer / "bin" / "python" if chosen.peers else None
        if peer in ("nncf", "modelopt") and (own is None or not own.exists()):
            return Variant(None, f"not measured: no environment {own or 'given'}")
        python = own if own is not None and own.exists() else sys.executable
        script = HERE / "quantisation_peers.py"
        command = [str(each) for each in (python, script, peer, network, samples, out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            out.unlink(missing_ok=True)
            lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
            return Variant(None, f"failed: {lines[-1]}")
        facts.write_text(done.stdout.splitlines()[-1])
    found = json.loads(facts.read_text())
    return Variant(out, seconds=found["seconds"], versions=found["versions"])


def made_by_us(network: Path, feeds: Feeds, folder: Path) -> tuple[dict[str, Variant], str]:
    """Both forms, and the method that was chosen for them."""
    begin = time.perf_counter()
    for each in ("model", "work", "u8s8", "s8s8"):
        (folder / each).mkdir(parents=True)
    model = prepare(network, folder / "model")
    collected = collect(model.path, feeds, folder / "work")
    judged = replace(feeds, arrays={key: each[:JUDGED] for key, each in feeds.arrays.items()})
    table = auto.choose(model, collected, judged, ["u8s8", "s8s8"], folder / "work")
    forms = {form: quantize(model, table, form, folder / form) for form in ("u8s8", "s8s8")}
    seconds = time.perf_counter() - begin
    found = {f"EdgeKD {form}": Variant(each.path, seconds=seconds) for form, each in forms.items()}
    return found, label(table.method, table.percentile)


def build(variant: Variant, folder: Path) -> None:
    """Fills in whether TensorRT for RTX builds a variant's file, or why not."""
    assert variant.path is not None
    with open_model(variant.path) as session:
        inputs, given = session.inputs, session.outputs
    model = QuantizedModel(
        path=variant.path, form="", kept_float=(), model_inputs=inputs, model_outputs=given
    )
    try:
        build_engine(model, "student", RTX, folder)
        variant.rtx = True
    except EdgekdError as error:
        variant.refused = error.message.splitlines()[0].partition(": ")[2]


def as_read(path: Path, folder: Path) -> Path:
    """A file as TensorRT reads it: zero points that are uint8 are taken for int8, with a warning.

    What lies above 127 is then clipped. Zero points other than 0 are refused, so that none are
    left here.
    """
    import onnx
    from onnx import numpy_helper

    proto = onnx.load(path)
    readers = [each for each in proto.graph.node if each.op_type.endswith("eLinear")]
    zero_points = {each.input[2] for each in readers if len(each.input) > 2}
    for each in proto.graph.initializer:
        if each.name in zero_points and each.data_type == onnx.TensorProto.UINT8:
            value = numpy_helper.to_array(each).astype(np.int8)
            each.CopyFrom(numpy_helper.from_array(value, each.name))
    del proto.graph.value_info[:]
    out = folder / "as-read.onnx"
    onnx.save(proto, out)
    return out


def outputs(path: Path, feeds: Feeds, *, optimise: bool) -> dict[str, Any]:
    """A file's outputs for all samples, by name; ``optimise``: with ONNX Runtime's fusions."""
    with open_model(path, 0, optimise) as session:
        parts = [session.run(feeds.take(slice(k, k + BATCH))) for k in range(0, len(feeds), BATCH)]
    return {name: np.concatenate([each[name] for each in parts]) for name in parts[0]}


def noise(variants: Mapping[str, Variant], network: Path, feeds: Feeds, folder: Path) -> float:
    """Fills in each variant's SQNR; returns that of our CPU form to our TensorRT form."""
    reference = outputs(network, feeds, optimise=True)
    plain: dict[str, Any] = {}
    for name, each in variants.items():
        if each.path is not None:
            plain[name] = outputs(each.path, feeds, optimise=False)
            each.plain_db = sqnr(reference, plain[name])
            each.fused_db = sqnr(reference, outputs(each.path, feeds, optimise=True))
            if each.rtx:
                read = outputs(as_read(each.path, folder), feeds, optimise=False)
                each.rtx_db = sqnr(reference, read)
    return sqnr(plain[TWIN], plain[OURS])


def times(files: Mapping[str, Path], feeds: Feeds, runs: int) -> dict[str, Any]:
    """Median latency of each turn in milliseconds, by file; turns of one place are neighbours."""
    images = [feeds.take(slice(k, k + 1)) for k in range(min(16, len(feeds)))]
    found: dict[str, list[float]] = {name: [] for name in files}
    for seed in range(runs):
        with contextlib.ExitStack() as stack:
            sessions = [stack.enter_context(open_model(path, 1)) for path in files.values()]
            timings = interleaved(
                sessions,
                [images] * len(sessions),
                calls=CALLS,
                blocks=BLOCKS,
                limit_ns=LIMIT_NS,
                seed=seed,
            )
        for name, each in zip(files, timings, strict=True):
            found[name] += [float(np.median(turn)) / 1e6 for turn in each.latencies_ns]
    return {name: np.array(each) for name, each in found.items()}


def ratio(over: Any, under: Any) -> str:
    """The median of ratios of neighbouring turns, and its 95 % interval."""
    millionths = np.rint(1e6 * over / under).astype(np.int64)
    bounds = interval(millionths, 0.5)
    assert bounds is not None  # there are BLOCKS turns at least
    low, high = (each / 1e6 for each in bounds)
    return f"{np.median(over / under):.3f} ({low:.3f} – {high:.3f})"


def measured(
    name: str, chosen: argparse.Namespace, images: Mapping[str, Any], folder: Path
) -> Network:
    """Makes one network's files, and everything that is measured of them."""
    source = chosen.work / f"{name}.onnx"
    how = Preprocessing(mean=MEAN, std=STD)
    calibration = of_images("image", images["calibration"], how)
    validation = of_images("image", images["validation"], how)
    samples = folder / "samples.npz"
    arrays: dict[str, Any] = calibration.take(slice(0, len(calibration)))
    np.savez(samples, **arrays)
    variants, method = made_by_us(source, calibration, folder / name)
    for peer in PEERS:
        variants[TITLES[peer]] = made_by_peer(peer, source, samples, chosen)
    for each in variants.values():
        if each.path is not None:
            build(each, folder)
            each.bytes = each.path.stat().st_size
    between = noise(variants, source, validation, folder)
    files = {"fp32": source}
    files |= {key: each.path for key, each in variants.items() if each.path and key != TWIN}
    ms = times(files, validation, chosen.runs)
    return Network(name, source.stat().st_size, method, variants, ms, between)


def rows_of(network: Network) -> list[tuple[str, ...]]:
    """The network's lines in the table of figures."""
    fp32 = f"{np.median(network.ms['fp32']):.2f}"
    size = f"{network.bytes / 2**20:.1f}"
    found: list[tuple[str, ...]] = [(network.name, "fp32", fp32, "1", "", "", size, "", "", "")]
    for name, each in network.variants.items():
        if each.path is None:
            found.append((network.name, name, *["–"] * 7, each.reason))
            continue
        timed = network.ms.get(name)
        found.append(
            (
                network.name,
                name,
                "–" if timed is None else f"{np.median(timed):.2f}",
                "–" if timed is None else ratio(timed, network.ms["fp32"]),
                f"{each.fused_db:.2f}",
                f"{each.plain_db:.2f}",
                f"{each.bytes / 2**20:.1f}",
                f"{each.seconds:.0f}",
                "yes" if each.rtx else "no",
                f"{each.rtx_db:.2f}" if each.rtx else "–",
            )
        )
    return found


def goals_of(network: Network) -> tuple[str, ...]:
    """The network's line in the table of goals."""
    variants, ms = network.variants, network.ms
    peers = [each for each in TITLES.values() if variants[each].path is not None]
    fastest = min(peers, key=lambda name: float(np.median(ms[name] / ms["fp32"])))
    best = max(peers, key=lambda name: variants[name].fused_db)
    slower = float(np.median(ms[OURS] / ms[fastest]))
    ahead = variants[OURS].fused_db - variants[best].fused_db
    judged = {
        f"{ratio(ms[OURS], ms[fastest])} {fastest}": slower <= SLOWER,
        f"{ahead:+.2f} dB {best}": ahead >= -WORSE_DB,
        variants[TWIN].refused or "yes": variants[TWIN].rtx,
        f"{network.between:.1f} dB": network.between >= TWIN_DB,
    }
    marked = [f"{'met' if met else '**missed**'}: {cell}" for cell, met in judged.items()]
    return (network.name, *marked)


def notes_of(networks: Sequence[Network]) -> list[str]:
    """What made the files, and what TensorRT for RTX has against them."""
    lines = []
    for title in networks[0].variants:
        all_of_it = [each.variants[title] for each in networks]
        versions = next((each.versions for each in all_of_it if each.versions), {})
        refused = next((each.refused for each in all_of_it if each.refused), "")
        said = [f"{key} {value}" for key, value in versions.items()]
        if refused:
            said.append(f"refused by TensorRT for RTX, as in: {refused}")
        if said:
            lines.append(f"- {title}: {'; '.join(said)}")
    return lines


def main() -> None:
    """Writes ``results/quantisation.md``."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", type=Path, help="folder of the peers' environments")
    parser.add_argument("--zoo", type=Path, default=HERE.parent / ".venv-zoo" / "bin" / "python")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    wanted = [chosen.work / "images.npz", *(chosen.work / f"{each}.onnx" for each in NETWORKS)]
    if not all(each.exists() for each in wanted):
        script = HERE / "quantisation_networks.py"
        subprocess.run([chosen.zoo, script, chosen.work], check=True)
    with np.load(chosen.work / "images.npz") as kept:
        images = dict(kept)
    networks = []
    for name in chosen.networks:
        with tempfile.TemporaryDirectory() as folder:
            networks.append(measured(name, chosen, images, Path(folder)))
        for line in (goals_of(networks[-1]), *rows_of(networks[-1])):
            print(" | ".join(line), flush=True)
    goals = [goals_of(each) for each in networks]
    first = (
        "network", f"latency ≤ {SLOWER:g} × the fastest peer",
        f"SQNR ≥ best peer − {WORSE_DB:g} dB", "TensorRT form builds",
        f"forms agree ≥ {TWIN_DB:g} dB",
    )  # fmt: skip
    headings = (
        "network", "file", "p50, ms", "latency / fp32", "SQNR on ONNX Runtime, dB",
        "SQNR unfused, dB", "MiB", "made in, s", "TensorRT for RTX builds it", "SQNR there, dB",
    )  # fmt: skip
    missed = sum(cell.startswith("**") for goal in goals for cell in goal)
    body = [
        f"{missed} of {4 * len(goals)} goals missed.",
        "",
        record.table(first, goals),
        "",
        record.table(headings, [row for each in networks for row in rows_of(each)]),
        "",
        (
            "Latency: ONNX Runtime's CPU kernels, batch 1, one thread; the files of a network in"
            f" turn, {BLOCKS} turns of {CALLS // BLOCKS} calls in each of {chosen.runs} runs. A"
            " ratio is of neighbouring turns' medians: median over turns, and its 95 % interval."
            f" SQNR: outputs to fp32's over {len(images['validation'])} images that nobody"
            f" calibrated on; everyone got the same {len(images['calibration'])}. EdgeKD's"
            " `made in` is of both forms and all methods tried. `SQNR there` is without a GPU: the"
            " graph as TensorRT's parser reads it, uint8 taken for int8, on ONNX Runtime unfused."
        ),
        "",
        "EdgeKD's methods, chosen by itself on calibration images: "
        + ", ".join(f"{each.name} {each.method}" for each in networks)
        + ".",
        "",
        *notes_of(networks),
        (
            "- ONNX Runtime's CPU settings are those of its documentation: uint8 activations, int8"
            " weights per channel, its preprocessing. NNCF is as it comes. ModelOpt is as it comes,"
            " but for fp32 in place of fp16 where it does not quantise."
        ),
    ]
    record.write(
        "quantisation",
        "Six networks in int8, side by side with ONNX Runtime, NNCF and ModelOpt",
        ["onnxruntime", "onnx", "tensorrt-rtx-cu12"],
        "\n".join([*body, CAVEATS]),
    )


if __name__ == "__main__":
    main()
