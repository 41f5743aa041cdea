"""What the paper's plates show, computed from the outcomes of a run: see `malade_ref.experiment.pictures`.

No image is attacked for a plate: every cell of the outcomes that one shows puts images aside when it is computed. The
records hold what is drawn and nothing else, images as eight bits a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malade_ref.arrays import Array
from malade_ref.bundle import Bundle
from malade_ref.checkpoint import load_state, save_state
from malade_ref.defence import MALADE
from malade_ref.experiment.outcomes import Outcomes
from malade_ref.experiment.pictures import CLEAN, KINDS, Perturbations, Sheet, Walk, cells_of, images_of
from malade_ref.storage import Record
from malade_ref.training import Progress


class Plates:
    """The plates of a run: what cells put aside for them, and their records.

    Parameters
    ----------
    outcomes : Outcomes
        Networks, images and chains of the run.
    bundle : Bundle
        Where records go.
    """

    def __init__(self, outcomes: Outcomes, bundle: Bundle) -> None:
        self.outcomes, self.bundle = outcomes, bundle
        self.wanted: dict[str, int] = {}
        for kind in KINDS:
            for plate in getattr(outcomes.experiment, kind):
                for defence, attack, eps, count in cells_of(outcomes.experiment, plate):
                    cell = f"{defence}/{attack}/{eps:g}"
                    self.wanted[cell] = max(count, self.wanted.get(cell, 0))

    def keep(self, cell: str, outcome: dict[str, NDArray[Any]], first: int) -> None:
        """Put aside what plates need of a shard of outcomes: the first images, and the norms of all perturbations.

        Parameters
        ----------
        cell : str
            Defence, attack and size.
        outcome : dict of str to ndarray
            As of `Outcomes.outcome`.
        first : int
            Place of its first image in the order.
        """
        if cell not in self.wanted:
            return
        clean = self.outcomes.data.test.images(outcome["sample_index"])
        x_adv = np.asarray(outcome["x_adv"])
        change = np.abs(x_adv.astype(np.float64) - clean).reshape(len(clean), -1)
        arrays = {
            "x_adv": x_adv[: max(0, self.wanted[cell] - first)],
            "success": outcome["success"],
            "right": outcome["correct"].mean(axis=1),
            "linf": change.max(axis=1),
            "l1": change.sum(axis=1),
            "l2": np.sqrt((change**2).sum(axis=1)),
        }
        save_state(self.bundle.partial(f"plates/{cell}/{first:09d}"), arrays, {})

    def kept(self, defence: str, attack: str, eps: float) -> dict[str, NDArray[Any]]:
        """Everything that `keep` put aside of a cell.

        Parameters
        ----------
        defence, attack, eps
            The cell.

        Returns
        -------
        dict of str to ndarray
            ``x_adv`` of the first images, and of all ``success``, ``right`` (share of the draws), ``linf``, ``l1`` and
            ``l2``.
        """
        experiment = self.outcomes.experiment
        count, size = images_of(experiment, attack), experiment.evaluation.shard_size
        cell = f"{defence}/{attack}/{eps:g}"
        shards = [
            load_state(self.bundle.partial(f"plates/{cell}/{first:09d}")).arrays for first in range(0, count, size)
        ]
        return {key: np.concatenate([shard[key] for shard in shards]) for key in shards[0]}

    def draw_sheet(self, progress: Progress, sheet: Sheet) -> None:
        """Compute the record of a sheet.

        Parameters
        ----------
        progress : callable
            Told that it begins.
        sheet : Sheet
            Which one.
        """

        def compute() -> Record:
            progress(0.0, "")
            found = self.kept(sheet.defence, sheet.attack, sheet.eps)
            shown = slice(0, sheet.rows * sheet.columns)
            index, label = self._numbers(np.arange(len(found["success"]))[shown])
            arrays = {"sample_index": index, "label": label, "success": found["success"][shown]}
            facts = {
                "rows": sheet.rows,
                "columns": sheet.columns,
                "num_images": len(found["success"]),
                "num_fallen": int(found["success"].sum()),
                "right": float(found["right"].mean()),
                **{norm: float(found[norm].mean()) for norm in ("linf", "l1", "l2")},
            }
            return Record({**arrays, "x_adv": _bytes(found["x_adv"][shown])}, {**_cell(sheet, sheet.eps), **facts})

        self.bundle.stage(f"sheets/{sheet.name}", compute, keep=True)

    def draw_perturbations(self, progress: Progress, plate: Perturbations) -> None:
        """Compute the record of perturbations side by side.

        Parameters
        ----------
        progress : callable
            Told that it begins.
        plate : Perturbations
            Which ones.
        """

        def compute() -> Record:
            progress(0.0, "")
            index, label = self._numbers(np.arange(plate.num_images))
            clean = self.outcomes.data.test.images(index)
            changes, fallen = [], []
            for column in plate.columns:
                found = self.kept(column.defence, column.attack, plate.eps)
                changes.append((found["x_adv"][: len(index)] - clean).astype(np.float16))
                fallen.append(found["success"][: len(index)])
            arrays = {
                "sample_index": index,
                "label": label,
                "change": np.stack(changes),
                "success": np.stack(fallen),
            }
            return Record(arrays, {"eps": plate.eps, "columns": [_cell(column, plate.eps) for column in plate.columns]})

        self.bundle.stage(f"perturbations/{plate.name}", compute, keep=True)

    def draw_walk(self, progress: Progress, walk: Walk) -> None:
        """Compute the record of images on their way through a chain.

        Parameters
        ----------
        progress : callable
            Told that it begins.
        walk : Walk
            Which one.
        """

        def compute() -> Record:
            progress(0.0, "")
            found = [self.kept(walk.defence, walk.attack if eps else CLEAN, eps) for eps in walk.eps]
            places = np.arange(walk.first, walk.first + walk.num_images)
            if walk.marginal is not None:
                # Those that the attack turned come first, in their order.
                turned = found[0]["success"][: len(found[0]["x_adv"])]
                places = np.argsort(~turned, kind="stable")[: walk.num_images]
            index, label = self._numbers(places)
            own = dict(self.outcomes.chain_settings(walk.defence))
            steps = sorted(walk.steps if walk.marginal is not None else {0, *walk.steps, int(own["num_steps"])})
            arrays = {
                "sample_index": index,
                "label": label,
                "steps": np.array(steps),
                "eps": np.array(walk.eps),
                "success": np.stack([of["success"][places] for of in found]),
            }
            starts = [of["x_adv"][places] for of in found]
            chains = {"malade": self._chain(walk.defence, None, steps[-1])}
            if walk.marginal is not None:
                chains["marginal"] = self._chain(walk.defence, walk.marginal, steps[-1])
                clean = self.outcomes.data.test.images(index)
                arrays["clean"] = _bytes(clean)
                arrays["clean_probability"] = _probability(chains["malade"], self.outcomes.ops.asarray(clean))
                arrays["adversarial"] = _bytes(starts[0])
                arrays["adversarial_probability"] = _probability(chains["malade"], self.outcomes.ops.asarray(starts[0]))
            for name, chain in chains.items():
                followed = [self._follow(chain, start, index, steps) for start in starts]
                arrays[f"{name}/position"] = np.stack([positions for positions, _ in followed])
                arrays[f"{name}/probability"] = np.stack([probability for _, probability in followed])
            chain_settings = {key: own[key] for key in ("num_steps", "a", "delta", "clip", "sigma2")}
            marginal = {"marginal": walk.marginal} if walk.marginal is not None else {}
            meta = {"defence": walk.defence, "attack": walk.attack, "chain": chain_settings, **marginal}
            return Record(arrays, meta)

        self.bundle.stage(f"walks/{walk.name}", compute, keep=True)

    def _numbers(self, places: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Numbers in the test split of images at places of the order, and their labels."""
        index = np.asarray(self.outcomes.ops.to_host(self.outcomes.order))[places]
        return index, np.asarray(self.outcomes.data.test.labels(index))

    def _chain(self, name: str, denoiser: str | None, num_steps: int) -> MALADE:
        """A defence whose chain goes on at least so far: its beginning is the same."""
        defence = self.outcomes.experiment.defences[name]
        networks = self.outcomes.networks
        settings = {key: value for key, value in self.outcomes.chain_settings(name).items() if key != "sigma2"}
        settings["num_steps"] = max(num_steps, settings["num_steps"])
        assert defence.denoiser is not None
        model = networks[denoiser or defence.denoiser]
        return MALADE(networks[defence.classifier], model, **settings, seed=self.outcomes.seed)

    def _follow(
        self, chain: MALADE, start: NDArray[Any], index: NDArray[Any], steps: Sequence[int]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Positions (t, k, c, h, w) and probabilities (t, k, classes) at some steps."""
        ops = self.outcomes.ops
        positions = chain.path(ops.asarray(start), sample_index=ops.asarray(index))
        shown = [_bytes(np.asarray(ops.to_host(positions[step]))) for step in steps]
        return np.stack(shown), np.stack([_probability(chain, positions[step]) for step in steps])


def _cell(plate: Any, eps: float) -> dict[str, Any]:
    return {"defence": plate.defence, "attack": plate.attack, "eps": eps}


def _bytes(x: NDArray[Any]) -> NDArray[np.uint8]:
    """Images of pixels in [0, 1], eight bits a pixel; where a chain is not clipped, what is outside is cut off."""
    return np.asarray(np.rint(255 * np.clip(x, 0, 1)), dtype=np.uint8)


def _probability(chain: MALADE, x: Array) -> NDArray[Any]:
    """What the bare classifier makes of images, (n, classes)."""
    return np.asarray(np.exp(chain.ops.to_host(chain.ops.log_softmax(chain.classifier.logits(x)))))
