r"""Attacks as others compute them, on models of this package: whose number is whose.

An attack of the same name is not the same attack everywhere. Each function here follows one public implementation step
by step, so that, from the same start and with the same random numbers, its iterates are that implementation's:

========================  ===========================================================  =================================
function                  follows                                                      the attack of this package
========================  ===========================================================  =================================
`torchattacks_pgd`        torchattacks 3.5, ``PGD`` and ``PGDL2``                      `malade_ref.attacks.pgd`
`foolbox_boundary`        Foolbox 3.3, ``BoundaryAttack``                              `malade_ref.attacks.boundary`
`art_cw`                  ART 1.20, ``CarliniL2Method``                                `malade_ref.attacks.cw`
`authors_ead`             Chen et al.'s own code, ``en_attack.py``, ``l1_attack.py``   `malade_ref.attacks.ead`
========================  ===========================================================  =================================

The images are theirs; the verdict on them is given here, as on those of every attack of this package: a number from a
function here, one from the attack of this package and one from the other library itself (through `as_torch_module` and
its relatives) are then comparable, and what lies between the first two is the difference of the methods. How they
differ is said in each function's notes.

A stochastic model is asked as `as_torch_module` asks it with the same ``num_draws`` and ``seed``: the same noise.

These are no attacks to evaluate a defence with. Take those of `malade_ref.attacks`, which keep the best iterate, judge
on draws that the search did not see, and let no image influence another.

What does not fit raises `InputError`.

Axes: n images, c channels, (h, w) pixels, k classes.
"""

from .boundary import foolbox_boundary
from .cw import art_cw
from .ead import authors_ead
from .pgd import torchattacks_pgd

__all__ = ["art_cw", "authors_ead", "foolbox_boundary", "torchattacks_pgd"]
