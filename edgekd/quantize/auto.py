"""``method = "auto"``: every method's ranges are tried, and those that do best are kept.

One pass over the calibration set serves all of them. Each makes the forms that are wanted,
which are run on validation samples: a method that wins on one network loses points on the next,
so that it is measured, not guessed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekd.artifacts import CalibrationTable, OnnxModel, Trial
from edgekd.calibration.collect import Collected
from edgekd.calibration.feeds import Feeds
from edgekd.calibration.methods import CANDIDATES, label
from edgekd.calibration.table import tabulate
from edgekd.progress import Progress, silent
from edgekd.quantize.judge import Judge, Score, Truths, beaten
from edgekd.quantize.qdq import quantize

SAMPLES = 1000
"""Validation samples at most; one of them is 0.1 points of top-1."""


def choose(
    model: OnnxModel,
    collected: Collected,
    feeds: Feeds,
    forms: Sequence[str],
    out_dir: Path,
    progress: Progress = silent,
    *,
    set_sha256: str = "",
) -> CalibrationTable:
    """The ranges that are best for all forms together, with what was tried.

    Ranges are worth what their worst form is: in top-1 where the samples have labels. Those that
    are as good as the best but for chance, and all of them where there are no labels, are told
    apart by the SQNR of the outputs to the fp32 model's.

    Args:
        model: fp32.
        collected: what one pass over the calibration set found.
        feeds: validation samples, of which ``SAMPLES`` are used.
        forms: those that are wanted.
        out_dir: for models on the way; none of them stays.
        progress: told how far it is.
        set_sha256: of the calibration set.

    Raises:
        QuantizeError: nothing in the model can be quantised.
    """
    judge = Judge(model, feeds, SAMPLES)
    trials: list[Trial] = []
    tried: list[tuple[Mapping[str, tuple[float, float]], dict[str, Score]]] = []
    for done, candidate in enumerate(CANDIDATES, start=1):
        table = tabulate(collected, *candidate, set_sha256)
        scores = next((found for ranges, found in tried if ranges == table.ranges), {})
        for form in forms if not scores else ():
            with tempfile.TemporaryDirectory(dir=out_dir) as name:
                scores[form] = judge.score(quantize(model, table, form, Path(name)).path)
        tried.append((table.ranges, scores))
        top1 = {form: each.top1 for form, each in scores.items() if each.top1 is not None}
        sqnr = {form: each.sqnr for form, each in scores.items()}
        trials.append(Trial(label(*candidate), "top1" if top1 else "sqnr", top1 or sqnr, sqnr))
        progress(done, len(CANDIDATES), f"{label(*candidate)} {min(sqnr.values()):.1f} dB")
    right = [{form: each.right for form, each in scores.items()} for _, scores in tried]
    return tabulate(collected, *CANDIDATES[best(trials, right)], set_sha256, tuple(trials))


def best(trials: Sequence[Trial], right: Sequence[Mapping[str, Truths]]) -> int:
    """The place of the best trial; the earlier one of equals.

    Of the trials whose worst form is not beaten by the leader's, the one with the highest SQNR
    of its worst form: top-1 of a few hundred samples is a coarse scale, and SQNR a fine one.

    Args:
        trials: what was tried.
        right: of each trial, by form, which samples it had right; empty where there is no top-1.
    """
    worst = [min(each.values, key=lambda form: each.values[form]) for each in trials]
    leader = max(range(len(trials)), key=lambda place: trials[place].values[worst[place]])
    level = [
        place
        for place, form in enumerate(worst)
        if not beaten(right[place][form], right[leader][form])
    ]
    return max(level, key=lambda place: (min(trials[place].sqnr.values()), -place))
