"""The paper's Figure 2 for one digit: how a chain brings an adversarial digit back; run it whole, or cell by cell.

In a notebook, ``defended`` shows its networks, ``found`` its pictures, and ``path`` the digit on its way. Run as a
script, the last cell writes the way as a picture. Small networks and synthetic digits: a minute at most.
"""

# %% Digits, and a small classifier of them

import numpy as np

from malade_ref import MALADE, attacks, mlp
from malade_ref.datasets import load_dataset
from malade_ref.layers import Flatten, Linear, Reshape, Tanh
from malade_ref.network import build
from malade_ref.showing import on_host, png
from malade_ref.training import Classification, SupervisedDenoising, fit

data = load_dataset("synthetic-digits", sizes={"train": 600, "validation": 0, "test": 40})
x, y = data.train.images(), data.train.labels()
x_test, y_test = data.test.images(), data.test.labels()
start = mlp(data.shape, data.num_classes, hidden=(64,), seed=0)
classifier = fit(start, Classification(), x, y, epochs=10, batch_size=30, learning_rate=3e-3).network
print(f"right on {(classifier.predict(x_test) == y_test).mean():.0%} of new digits")

# %% A denoiser that knows the labels (sDAE), and the chain that it drives

layers = [Flatten(), Linear(784, 100), Tanh(), Linear(100, 784), Reshape(data.shape)]
start = build(layers, data.shape, initialisation="glorot", residual=True)
objective = SupervisedDenoising(0.15**0.5, classifier)
denoiser = fit(start, objective, x, y, epochs=10, batch_size=30, learning_rate=3e-3).network
defended = MALADE(classifier, denoiser, num_steps=12, a=0.3, delta=0.05)
print(defended)

# %% An attack on the classifier that knows nothing of the chain

found = attacks.pgd(classifier, x_test, y_test, eps=0.15, step_size=0.02, num_steps=20)
print(found)
print(found.summary())

# %% One digit that the attack turned and the chain turns back

turned = found.success & (classifier.predict(x_test) == y_test)
back = turned & (defended.predict(found.x_adv, num_draws=10) == y_test)
number = int(np.flatnonzero(back if back.any() else turned)[0])
path = defended.path(found.x_adv[number : number + 1], sample_index=np.array([number]))
classes = [int(classifier.predict(position)[0]) for position in path]
print(f"a {y_test[number]}, taken for: {', '.join(map(str, classes))}")

strip = np.concatenate([on_host(position[0]) for position in path], axis=2)
with open("figure2.png", "wb") as file:
    file.write(png((strip * 255).round().astype(np.uint8)))
