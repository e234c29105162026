"""Calibration metrics of netcal, relplot and scikit-learn on fixed inputs: the fixture of `evals/tests/calibration_metrics.rs`.

    pip install netcal==1.4.0 relplot==1.0.3 scikit-learn scipy
    python tests/peers/calibration_metrics.py             # writes evals/tests/data/calibration_metrics.json anew

What no package has (area under the risk-coverage curve, Murphy's parts, the debiased error of Sun et al. 2024) is computed here from its
definition, in another way than in Rust. Bin edges: the three packages disagree about values on an edge, so the edges that numpy makes are
part of the fixture, and each package is compared with its own closed end (netcal `[low, high)`, scikit-learn `(low, high]`).
"""

import json
import sys
import warnings
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import numpy as np
import relplot
from netcal.metrics import ECE, MCE
from scipy.optimize import brentq
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, roc_auc_score

warnings.filterwarnings("ignore")
OUT = Path(__file__).resolve().parents[2] / "evals" / "tests" / "data" / "calibration_metrics.json"
rng = np.random.default_rng(20240817)


def drawn(n, shift=0.0, of=None):
    """Confidences with six decimals; right with the chance that confidence says, less `shift`."""
    confidence = np.round(0.25 + 0.75 * rng.random(n) if of is None else of, 6)
    return confidence, (rng.random(n) < confidence - shift).astype(float)


def sets():
    yield "one right", np.array([0.7]), np.array([1.0])
    yield "one wrong and certain", np.array([1.0]), np.array([0.0])
    yield "seven", *drawn(7)
    yield "a hundred", *drawn(100)
    yield "a hundred, over-confident", *drawn(100, 0.3)
    yield "a thousand", *drawn(1000)
    yield "a thousand, skewed and over-confident", *drawn(1000, 0.1, rng.beta(5, 0.8, 1000))
    yield "tenths", *drawn(100, 0.1, rng.integers(0, 11, 100) / 10)
    yield "three values", *drawn(90, 0.1, rng.choice([0.25, 0.5, 0.85], 90))
    yield "all alike", np.full(20, 0.7), np.array([1.0] * 11 + [0.0] * 9)
    yield "all right", *(lambda c: (c, np.ones(len(c))))(drawn(30)[0])
    yield "all wrong", *(lambda c: (c, np.zeros(len(c))))(drawn(30)[0])
    yield "nothing but certainty", np.array([0.0, 1.0] * 10), np.array([0.0, 1.0] * 8 + [1.0, 0.0] * 2)


def netcal(measure, f, y, n_bins, **options):
    """None where quantiles coincide, which netcal does not take."""
    try:
        return float(measure(n_bins, **options).measure(f, y.astype(int)))
    except ValueError:
        return None


def curve(f, y, strategy):
    right, confidence = calibration_curve(y, f, n_bins=10, strategy=strategy)
    return [[float(a), float(b)] for a, b in zip(confidence, right)]


def aurc(f, y):
    """The expected risk at each coverage, over all orders of ties: a block of m answers with w wrong has w j / m wrong among its first j."""
    wrong, answered, risks = 0.0, 0, []
    for _, block in groupby(sorted(zip(-f, 1 - y)), key=lambda pair: pair[0]):
        of = [error for _, error in block]
        risks += [(wrong + sum(of) * j / len(of)) / (answered + j) for j in range(1, len(of) + 1)]
        wrong, answered = wrong + sum(of), answered + len(of)
    best = np.cumsum(np.sort(1 - y)) / np.arange(1, len(y) + 1)
    return float(np.mean(risks)), float(np.mean(risks) - np.mean(best))


def murphy(f, y, edges):
    place = np.searchsorted(edges[1:-1], f, side="right")
    mean = lambda v: np.array([v[place == b].mean() for b in place])
    fb, yb = mean(f), mean(y)
    return {
        "reliability": float(np.mean((fb - yb) ** 2)),
        "resolution": float(np.var(yb)),
        "uncertainty": float(np.var(y)),
        "within_variance": float(np.mean((f - fb) ** 2)),
        "within_covariance": float(2 * np.mean((y - yb) * (f - fb))),
    }


def debiased(f, y, edges):
    """Sun et al. 2024 for one class, as their code has it: value and first-order variance times n."""
    place, u, n = np.searchsorted(edges[1:-1], f, side="right"), y - f, len(f)
    value, first, second = 0.0, 0.0, 0.0
    for b in np.unique(place):
        v = u[place == b]
        m = len(v)
        if m > 1:
            value += (m * v.mean() ** 2 - (v**2).mean()) * m / (m - 1) / n
        first += m / n * (4 * v.mean() ** 2 * (v**2).mean() - 3 * v.mean() ** 4)
        second += m / n * v.mean() ** 2
    return float(value), float(first - second**2)


def ferro_fricker(f, y, edges):
    place, total = np.searchsorted(edges[1:-1], f, side="right"), 0.0
    for b in np.unique(place):
        o, m = y[place == b].mean(), (place == b).sum()
        total += m / len(f) * ((f[place == b].mean() - o) ** 2 - (o * (1 - o) / (m - 1) if m > 1 else 0.0))
    return float(total)


def temperature(scores, right):
    """Where the slope of the mean log-likelihood by the inverse temperature is 0; none where it has no root in the bounds."""
    def slope(log_inverse):
        p = softmax(np.exp(log_inverse) * scores, axis=1)
        return float(np.mean((p * scores).sum(1) - scores[np.arange(len(right)), right]))

    ends = np.log(1 / 20), np.log(20)
    if slope(ends[0]) >= 0 or slope(ends[1]) <= 0:
        return None
    return float(np.exp(-brentq(slope, *ends, xtol=1e-15, rtol=1e-14)))


def main():
    rows = []
    for name, f, y in sets():
        width = {n: np.linspace(0, 1, n + 1) for n in (10, 15)}
        mass = {n: np.quantile(f, width[n]) for n in (10, 15)}
        smooth, kernel = relplot.smECE(f, y, return_width=True)
        both = 0 < y.sum() < len(y)
        area, excess = aurc(f, y)
        value, variance = debiased(f, y, mass[10])
        clipped = np.clip(f, 6e-8, 1 - 6e-8)
        logits = np.log(clipped / (1 - clipped))
        row = {
            "name": name,
            "confidence": f.tolist(),
            "outcome": y.astype(int).tolist(),
            "mass_edges_10": mass[10].tolist(),
            "mass_edges_15": mass[15].tolist(),
            "netcal_ece_width_10": netcal(ECE, f, y, 10),
            "netcal_ece_width_15": netcal(ECE, f, y, 15),
            "netcal_ece_mass_10": netcal(ECE, f, y, 10, equal_intervals=False),
            "netcal_ece_mass_15": netcal(ECE, f, y, 15, equal_intervals=False),
            "netcal_mce_width_10": netcal(MCE, f, y, 10),
            "sklearn_curve_width_10": curve(f, y, "uniform"),
            "sklearn_curve_mass_10": curve(f, y, "quantile"),
            "sklearn_brier": float(brier_score_loss(y, f, pos_label=1)),
            "sklearn_auroc": float(roc_auc_score(y, f)) if both else None,
            "relplot_smece": float(smooth),
            "relplot_width": float(kernel),
            "aurc": area,
            "excess_aurc": excess,
            "murphy_width_10": murphy(f, y, width[10]),
            "debiased_squared": value,
            "debiased_variance": variance,
            "ferro_fricker": ferro_fricker(f, y, mass[10]),
            "binary_temperature": temperature(np.stack([logits, np.zeros(len(f))], 1), (1 - y).astype(int)),
        }
        rows.append(row)
    choices = []
    for n, sharp in ((7, 1.0), (100, 2.5), (500, 0.4)):
        scores = np.round(-5 + 2 * rng.standard_normal((n, 4)), 4)
        chance = softmax(scores / sharp, axis=1)
        right = np.array([rng.choice(4, p=p) for p in chance])
        found = temperature(scores, right)
        choices.append({"scores": scores.tolist(), "right": right.tolist(), "temperature": found})
    edges = {str(n): np.linspace(0, 1, n + 1).tolist() for n in (10, 15)}
    packages = {name: version(name) for name in ("netcal", "relplot", "scikit-learn", "scipy", "numpy")}
    record = {"packages": packages, "width_edges": edges, "sets": rows, "choices": choices}
    OUT.write_text(json.dumps(record, separators=(",", ":")) + "\n")
    print(f"{len(rows)} sets, {len(choices)} closed sets, {OUT.stat().st_size} bytes", packages, file=sys.stderr)


if __name__ == "__main__":
    main()
