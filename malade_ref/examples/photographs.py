"""A folder of colour photographs, from the files to a verdict; run it whole, or cell by cell.

The first cell makes a folder of small pictures that stand for yours: ``photos/train/<class>/*.png`` and
``photos/test/<class>/*.png``. Everything after it takes shapes, classes and their names from the data.
"""

# %% Stand-ins for your photographs: striped pictures, 12 x 12, of three directions

from pathlib import Path

import numpy as np
from PIL import Image

from malade_ref import MALADE, attacks
from malade_ref.datasets import import_dataset, load_dataset
from malade_ref.evaluation import summary
from malade_ref.layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Tanh
from malade_ref.network import build
from malade_ref.training import Classification, SupervisedDenoising, fit

random = np.random.default_rng(0)
for split, count in (("train", 50), ("test", 8)):
    for number, name in enumerate(("across", "slanted", "upright")):
        folder = Path("photos", split, name)
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            angle, phase = np.pi * number / 3 + random.normal(0, 0.1), random.uniform(0, 2 * np.pi)
            rows, columns = np.mgrid[:12, :12]
            waves = np.sin(1.3 * (np.cos(angle) * columns + np.sin(angle) * rows) + phase)[..., None]
            pixels = 0.5 + waves * random.uniform(0.15, 0.35, 3) + random.normal(0, 0.03, (12, 12, 3))
            Image.fromarray((255 * pixels.clip(0, 1)).astype(np.uint8)).save(folder / f"{i}.png")

# %% Import the folder once; from then on it is data by name

if not Path("imported/photos.h5").exists():
    Path("imported").mkdir(exist_ok=True)
    import_dataset("photos", "photos", data_dir="imported")
data = load_dataset("photos", data_dir="imported")
print(data, data.class_names)
x, y = data.train.images(), data.train.labels()
x_test, y_test = data.test.images(), data.test.labels()

# %% A classifier and a denoiser of their shape

c, h, w = data.shape
layers = [Conv2d(c, 8, (3, 3)), ReLU(), MaxPool2d((2, 2)), Flatten(), Linear(8 * (h // 2) * (w // 2), data.num_classes)]
start = build(layers, data.shape, initialisation="he")
classifier = fit(start, Classification(), x, y, epochs=12, batch_size=16, learning_rate=1e-2).network
print(f"right on {(classifier.predict(x_test) == y_test).mean():.0%} of the test images")
layers = [Conv2d(c, 12, (3, 3)), Tanh(), Conv2d(12, c, (3, 3))]
start = build(layers, data.shape, initialisation="glorot", residual=True)
trained = fit(start, SupervisedDenoising(0.15, classifier), x, y, epochs=6, batch_size=16)
print(trained.history)

# %% The defence, attacked by who does not know of it and by who does

defended = MALADE(classifier, trained.network, num_steps=4, a=0.3, delta=0.05)
eps, verdict = 12 / 255, {}
for name, model in {"unaware of the defence": classifier, "through the defence": defended}.items():
    found = attacks.pgd(model, x_test, y_test, eps=eps, step_size=eps / 4, num_steps=10, num_draws=2)
    right = (defended.predict_draws(found.x_adv, num_draws=20) == y_test).T
    verdict[name] = summary(right)["mean"]
    print(f"{name}: {found}")
    print("the defence is right on {value:.0%} [{low:.0%}, {high:.0%}]".format(**verdict[name]))
