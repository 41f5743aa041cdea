"""The score of a mixture of Gaussians beside scikit-learn's log density.

A score costs two matrix products a component, a log density one. Even so the score is to take no longer than
`sklearn.mixture.GaussianMixture.score_samples` does for the log density of the same points alone. The log densities of
both are compared before anything is timed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bench.backends import UnavailableError
from bench.measure import check_agreement, measure
from malade_ref import GaussianMixture

MIXTURE = "mixture"
SIZES = ((6, 2), (8, 10), (10, 50))  # components and dimensions
POINTS = 100_000
ALLOWED = 1.0


def mixture_records(rounds: int, threads: int, *, quick: bool) -> Iterator[dict[str, Any]]:
    """A record for each size, as `bench.__main__` prints and keeps them; without a peer if there is no scikit-learn."""
    for m, d in SIZES:
        ours = make_mixture(m, d)
        x, _ = ours.sample(POINTS // 10 if quick else POINTS, seed=0)
        runs = {"ref": lambda ours=ours, x=x: ours.score(x)}
        try:
            log_density = sklearn_log_density(ours, threads)
        except UnavailableError as reason:
            print(f"sklearn: left out, because {reason}")
        else:
            check_agreement({"ref": ours.log_density(x), "sklearn": log_density(x)})
            runs["sklearn"] = lambda log_density=log_density, x=x: log_density(x)
        measured = measure(runs, rounds=rounds, agrees=False)
        flops = 4 * len(x) * m * d * d
        yield {
            "name": f"{MIXTURE}-{m}-{d}",
            "title": f"mixture score, K={m} d={d}",
            "points": len(x),
            "flops": flops,
            "backends": {
                name: {
                    "median_seconds": measured.median(name),
                    "fastest_seconds": min(seconds),
                    "gflop_per_second": (flops if name == "ref" else flops / 2) / measured.median(name) / 1e9,
                    "seconds": seconds,
                }
                for name, seconds in measured.seconds.items()
            },
            "ratios": {
                name: {"median": measured.ratio("ref", name), "allowed": ALLOWED} for name in runs if name != "ref"
            },
        }


def make_mixture(m: int, d: int, dtype: str = "float64") -> GaussianMixture:
    """Overlapping components with full covariances."""
    rng = np.random.default_rng(0)
    roots = rng.standard_normal((m, d, d)) / d**0.5
    covariances = roots @ roots.transpose(0, 2, 1) + 0.3 * np.eye(d)
    return GaussianMixture(np.full(m, 1 / m), 3 * rng.standard_normal((m, d)), covariances, dtype=dtype)


def sklearn_log_density(mixture: GaussianMixture, threads: int) -> Any:
    """The same mixture in scikit-learn, as a function of points."""
    try:
        from sklearn.mixture import GaussianMixture as Peer
    except ImportError as error:
        raise UnavailableError(f"scikit-learn cannot be imported ({error})") from None
    peer = Peer(mixture.num_components, covariance_type="full")
    peer.weights_, peer.means_, peer.covariances_ = mixture.weights, mixture.means, mixture.covariances
    peer.precisions_cholesky_ = np.ascontiguousarray(mixture.arrays[2].transpose(0, 2, 1))

    def log_density(x: Any) -> Any:
        with threadpool_limits(threads, user_api="blas"):
            return peer.score_samples(x)

    return log_density
