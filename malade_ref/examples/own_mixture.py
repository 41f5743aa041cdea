"""The paper's theorem on a mixture of one's own: what a denoiser estimates, exactly; run it whole, or cell by cell.

Of a mixture of Gaussians everything is known: the score and the plain denoiser (DAE) in closed form, the denoiser that
is trained with labels (sDAE) by Newton's method. Change the mixture, or how sure its classifier is, and look again.
"""

# %% A mixture: three components in a plane, two classes

import numpy as np

from malade_ref import GaussianMixture
from malade_ref.mcmc import mala, ula, walk
from malade_ref.minimiser import minimise

mixture = GaussianMixture(
    weights=[0.5, 0.3, 0.2],
    means=[[0.0, 0.0], [3.0, 0.5], [0.5, 3.0]],
    covariances=[[[1.0, 0.3], [0.3, 0.5]], [[0.6, 0.0], [0.0, 1.0]], [[0.4, -0.1], [-0.1, 0.8]]],
    labels=[0, 1, 1],
)
points, classes = mixture.sample(200, seed=0)
print(mixture, f"- the Bayes classifier is right on {(mixture.predict(points) == classes).mean():.0%}")

# %% The DAE: (E[x | u] - u) / sigma^2 is the score of the smoothed density, whatever sigma is (Tweedie)

tweedie = {}
for sigma in (0.5, 0.1):
    residual = (mixture.posterior_mean(points, sigma) - points) / sigma**2
    tweedie[sigma] = np.abs(residual - mixture.smoothed(sigma).score(points)).max()
    print(f"sigma {sigma}: the DAE's residual is off the smoothed score by {tweedie[sigma]:.1e}")

# %% The sDAE: the same, up to sigma^2, if its classifier is calibrated; if it is too sure of itself, another drift

errors = {}
for name, classifier in {"calibrated": mixture, "twice too sure": mixture.tempered(2.0)}.items():
    for sigma in (0.2, 0.1, 0.05):
        found = minimise(mixture, classifier, points, sigma)
        drift = (found.position - points) / sigma**2
        errors[name, sigma] = np.sqrt(((drift - mixture.score(points)) ** 2).sum(axis=1).mean())
    print(f"{name}: off the score by", ", ".join(f"{errors[name, sigma]:.4f}" for sigma in (0.2, 0.1, 0.05)))

# %% A chain along the score, without and with the Metropolis test

means = {}
for name, settings in {"ULA": ula(0.05), "MALA": mala(0.05)}.items():
    walked = walk(points, mixture, settings, num_steps=400, seed=1)
    means[name] = walked.position.mean(axis=0)
    print(f"{name}: {walked}; mean {means[name].round(2)}, of the mixture {(mixture.weights @ mixture.means).round(2)}")
