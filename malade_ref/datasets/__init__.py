"""Data sets: synthetic digits, MNIST, CIFAR, Tiny ImageNet and what users import; splits that are read in slices.

``load_dataset`` opens one by name. Pixels are uint8 at rest and float32 in [0, 1] when read; labels are int64.
A file that is missing, damaged, hostile or of another form raises `InputError` with its path.
"""

from malade_ref.datasets.library import (
    DatasetEntry,
    get_dataset,
    import_dataset,
    list_datasets,
    load_dataset,
)
from malade_ref.datasets.splits import Dataset, Split
from malade_ref.datasets.synthetic import synthetic_digits
from malade_ref.datasets.validation import check_images, check_labels

__all__ = [
    "Dataset",
    "DatasetEntry",
    "Split",
    "check_images",
    "check_labels",
    "get_dataset",
    "import_dataset",
    "list_datasets",
    "load_dataset",
    "synthetic_digits",
]
