"""Your own PyTorch model, defended and judged; run it as a script, or cell by cell.

Three models stand for yours: a residual network, one that ends in a softmax, and one with an operation (a Fourier
transform) that has no counterpart here. Each cell about a model is all that one has to write.
"""

# %% Stand-ins for your data and your models: striped pictures, 3 x 12 x 12, pixels in [0, 1], four directions

import numpy as np
import torch
from torch import nn

from malade_ref import MALADE, attacks
from malade_ref.audit import gradient_check
from malade_ref.evaluation import summary
from malade_ref.interop import wrap
from malade_ref.layers import Conv2d, Tanh
from malade_ref.network import build
from malade_ref.training import SupervisedDenoising, fit

SHAPE, MEAN, STD = (3, 12, 12), [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
EPS = 0.08


def stripes(n, seed):
    """Images and the numbers of their directions."""
    random = np.random.default_rng(seed)
    y = np.arange(n) % 4
    angle, phase = np.pi * y / 4 + random.normal(0, 0.1, n), random.uniform(0, 2 * np.pi, n)
    rows, columns = np.mgrid[:12, :12]
    along = np.cos(angle)[:, None, None] * columns + np.sin(angle)[:, None, None] * rows
    waves = np.sin(1.3 * along + phase[:, None, None])[:, None] * random.uniform(0.1, 0.35, (n, 3, 1, 1))
    x = 0.5 + waves + random.normal(0, 0.05, (n, *SHAPE))
    return x.clip(0, 1).astype(np.float32), y


class Residual(nn.Module):
    """Batch normalisation, a residual branch, max pooling."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.branch, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8 * 9, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        x = nn.functional.max_pool2d(x + torch.relu(self.branch(x)), 4)
        return self.head(x.flatten(1))


class Spectral(nn.Module):
    """The amplitudes of a Fourier transform."""

    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 7, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x):
        return self.head(torch.fft.rfft2(x, norm="ortho").abs())


def trained(module):
    """The module after a few steps of training, in evaluation mode."""
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
    images, labels = (torch.from_numpy(array) for array in (x, y))
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module((images - 0.5) / 0.25), labels).backward()
        optimizer.step()
    return module.eval()


torch.manual_seed(0)
x, y = stripes(160, seed=0)
x_test, y_test = stripes(28, seed=1)
start = build([Conv2d(3, 12, (3, 3)), Tanh(), Conv2d(12, 3, (3, 3))], SHAPE, initialisation="glorot", residual=True)
your_resnet, your_spectral = trained(Residual()), trained(Spectral())
your_softmax = nn.Sequential(your_resnet, nn.Softmax(dim=1)).eval()

# %% A residual network: a denoiser is trained for it, and both are attacked, the defence by its exact gradient

resnet = wrap(your_resnet, input_shape=SHAPE, mean=MEAN, std=STD)
denoiser = fit(start, SupervisedDenoising(0.15, resnet), x, y, epochs=5, batch_size=8).network
defended = MALADE(resnet, denoiser, num_steps=3, a=0.3, delta=0.05)
verdict = {}
for name, model in {"bare": resnet, "defended": defended}.items():
    found = attacks.pgd(model, x_test, y_test, eps=EPS, step_size=EPS / 4, num_steps=10, num_draws=2)
    answers = model.predict_draws(found.x_adv, num_draws=20) if model.stochastic else model.predict(found.x_adv)[None]
    verdict[name] = summary((answers == y_test).T)["mean"]
    print(f"{name}: right {verdict[name]['value']:.2f} [{verdict[name]['low']:.2f}, {verdict[name]['high']:.2f}]")
check = gradient_check(defended, x_test[:8], y_test[:8])
print(f"the gradient differs from finite differences by {check.relative_error:.1e}")

# %% A model that ends in a softmax: say so

softmax = wrap(your_softmax, input_shape=SHAPE, mean=MEAN, std=STD, probabilities=True)
denoiser = fit(start, SupervisedDenoising(0.15, softmax), x, y, epochs=5, batch_size=8).network
defended_softmax = MALADE(softmax, denoiser, num_steps=3, a=0.3, delta=0.05)
found = attacks.pgd(defended_softmax, x_test, y_test, eps=EPS, step_size=EPS / 4, num_steps=10, num_draws=2)
right_softmax = (defended_softmax.predict_draws(found.x_adv, num_draws=20) == y_test).T
print("defended, with a softmax:", summary(right_softmax)["mean"])

# %% An operation that has no counterpart here, and an attack without gradients beside the one with

spectral = wrap(your_spectral, input_shape=SHAPE, mean=MEAN, std=STD)
denoiser = fit(start, SupervisedDenoising(0.15, spectral), x, y, epochs=5, batch_size=8).network
defended_spectral = MALADE(spectral, denoiser, num_steps=3, a=0.3, delta=0.05)
right_spectral = {}
for attack, settings in ((attacks.pgd, {"step_size": EPS / 4, "num_draws": 2}), (attacks.square, {})):
    found = attack(defended_spectral, x_test, y_test, eps=EPS, num_steps=10, **settings)
    right_spectral[attack.__name__] = (defended_spectral.predict_draws(found.x_adv, num_draws=20) == y_test).T
    print(attack.__name__, summary(right_spectral[attack.__name__])["mean"])
