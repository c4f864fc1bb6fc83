"""Whole neurons, heads and channels removed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from gearshift.algorithms.common.shrunk import Shrunk, resized
from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.errors import GearshiftError
from gearshift.core.facts import Facts, Family, Kind, Persist, Stage, Trait
from gearshift.core.model import parts, size_bytes
from gearshift.core.param import param
from gearshift.core.plain import PART, PARTS, dict_of, either, list_of, text, whole
from gearshift.core.target import matches

CRITERIA = ("RandomImportance", "MagnitudeImportance", "LAMPImportance", "TaylorImportance", "HessianImportance")


class TorchStructured(Algorithm):
    """Take out whole neurons, channels, heads or head dimensions, so that a smaller dense model is left.

    Neurons of feed-forward parts and channels go by `sparsity`, heads by `head_sparsity`. Neurons, heads and the inner
    channels of diffusers' residual blocks are found by the names and shapes of layers; the inputs and outputs of these
    blocks keep their width. Where a module with convolutions has no such neurons or channels, Torch-Pruning (Fang et
    al. 2023, arXiv 2301.12900; the extra `pruning`) traces it on the first item of `data`, or on an image as its
    configuration describes it, and finds the channels that go through convolutions, batch norms and linear layers. A
    traced group is taken only if, tried out on a copy, it can go without a trace once nothing reads it.

    Where every block loses the same, a language model's configuration is changed with it, and a saved folder is one
    that transformers loads; else gearshift's own loading shrinks the layers. Criteria are named as in Torch-Pruning;
    those with gradients read `data`.
    """

    facts = Facts(
        family=Family.PRUNER,
        stage=Stage.PRUNE,
        persist=Persist.WEIGHTS,
        needs={Trait.FLOAT_WEIGHTS, Trait.TORCH_FORWARD},
    )
    type: str = param("MagnitudeImportance", choices=CRITERIA, help="what decides how much a unit matters")
    calibration_samples: int = param(64, between=(1, 256), help="samples that gradients are taken of")
    prune_head_dims: bool = param(False, choices=(True, False), help="remove dimensions of every head")
    prune_num_heads: bool = param(False, choices=(True, False), help="remove whole heads")
    global_pruning: bool = param(
        False, choices=(True, False), help="rank the units of all layers together instead of layer by layer"
    )
    sparsity: float = param(0.1, between=(0.0, 1.0), help="share of neurons, channels and head dimensions to remove")
    head_sparsity: float = param(0.0, between=(0.0, 1.0), help="share of heads to remove")
    it_steps: int = param(1, between=(1, 10), help="pruning rounds; units are ranked again in each")

    def check_model(self, model: Any, context: Context) -> list[str]:
        from gearshift.models.describe import layers_to_leave

        roots, shares = [root for root, _ in layers_to_leave(model).values()], self._shares()
        try:
            found = {kind for kind in reversed(shares) if any(_groups(model, root, kind, context) for root in roots)}
        except GearshiftError as error:
            return [str(error)]
        wanted = {kind for kind, share in shares.items() if share} or set(shares)
        if not found & wanted or ("heads" in wanted and "heads" not in found):
            kinds = "heads" if found & wanted else " or ".join(kind for kind in shares if kind in wanted)
            return [f"{self.name} finds no {kinds} in {type(model).__name__} that can be removed."]
        if self.type in ("TaylorImportance", "HessianImportance") and _calls(model, context) is None:
            needed = "a dict of its arguments" if len(parts(model)) > 1 else "what it takes"
            return [f"{self.type} reads gradients and needs `data`: a list whose items are {needed}."]
        return []

    saved_fields: ClassVar = {
        "parts": PARTS,
        "sizes": dict_of(dict_of(list_of(whole(), most=8)), key=PART),
        "attributes": dict_of(list_of(list_of(either(str, text(), whole()), 3, 3)), key=PART),
    }

    def apply(self, model: Any, context: Context) -> None:
        import torch

        from gearshift.models.describe import layers_to_leave
        from gearshift.models.rebuilt import Proof

        before = size_bytes(model)
        generator = torch.Generator().manual_seed(context.recipe.seed)
        smaller: list[tuple[str, Shrunk]] = []
        for part, (root, _) in layers_to_leave(model).items():
            proof = Proof.of(model, root, context.recipe.data)
            shrunk = Shrunk(root, self.name, context.keep_original)
            context.change(shrunk)
            for kind, share in self._shares().items():
                step = 1 - (1 - share) ** (1 / self.it_steps)
                for _ in range(self.it_steps):
                    self._round(model, context, shrunk, kind, step, generator)
            if shrunk.taken and not self._configured(shrunk, proof, context):
                smaller.append((part, shrunk))
            if missing := [k for k in self._shares() if k not in shrunk.taken and k.startswith("head")]:
                context.note(f"No {' or '.join(missing)} were found that can be removed.")
            for kind, (left, total) in shrunk.taken.items():
                context.measured(**{f"{kind} left": f"{left} of {total}"})
        context.save(
            parts=sorted(part for part, _ in smaller),
            sizes={part: shrunk.sizes() for part, shrunk in smaller},
            attributes={part: shrunk.attributes() for part, shrunk in smaller},
        )
        context.measured(size_before=before, size_after=size_bytes(model))
        if size_bytes(model) >= before:
            context.warn(f"{self.name} removed nothing: the sparsity is zero, or too small for the number of units.")
        if smaller:
            context.note("The model's own configuration cannot say these sizes, so gearshift.load has to load it.")

    def rebuild(self, model: Any, context: Context) -> None:
        for part, layers in context.saved["sizes"].items():
            resized(parts(model)[part], layers, context.saved["attributes"].get(part, []))

    def _configured(self, shrunk: Shrunk, proof: Any, context: Context) -> bool:
        """Whether the configuration makes the smaller module; else it was proven that loading does.

        Raises:
            GearshiftError: if the smaller module does not run, or would not be the same when it is loaded.
        """
        if proof.answer() is None:
            context.note(
                f"{type(shrunk.root).__name__} was not run to compare: nothing is known to call it with (`data`)."
            )
        if shrunk.configure(proof):
            return True
        if proof.rebuildable and not proof.holds(shrunk.resize):
            raise GearshiftError(
                f"{self.name}: {type(shrunk.root).__name__} would not be the same after saving and loading it. It was "
                "left as it was."
            )
        return False

    def _shares(self) -> dict[str, float]:
        """What is taken out, by kind."""
        shares = {"neurons": self.sparsity, "channels": self.sparsity}
        if self.prune_num_heads:
            shares["heads"] = self.head_sparsity
        if self.prune_head_dims:
            shares["head dimensions"] = self.sparsity
        return shares

    def _round(self, model: Any, context: Context, shrunk: Shrunk, kind: str, share: float, generator: Any) -> None:
        """Take units of one kind out, once."""
        from gearshift.training.importance import WITH_GRADIENTS, scores, slopes_of, units_to_keep

        groups = _groups(model, shrunk.root, kind, context) if share else []
        if not groups:
            return
        slopes = {}
        if self.type in WITH_GRADIENTS:
            paths = [side.path for g in groups for side in (*g.outputs, *g.inputs)]
            losses = _losses(model, shrunk.root, context, self.calibration_samples, generator)
            slopes = slopes_of(shrunk.root, paths, losses)
        values = [scores(g, shrunk.root, self.type, slopes, generator) for g in groups]
        shrunk.leave(list(zip(groups, units_to_keep(values, groups, share, self.global_pruning), strict=True)))


def _groups(model: Any, root: Any, kind: str, context: Context) -> list[Any]:
    """The groups of a kind that the recipe's globs let through."""
    from gearshift.models import channel_tracing, prunable_groups

    include, exclude = context.recipe.include or ("*",), context.recipe.exclude
    if kind == "neurons":
        found = list(prunable_groups.feed_forward(root))
    elif kind == "channels":
        found = list(prunable_groups.channel_groups(root))
        if not found and root is model and channel_tracing.fits(root) and not any(prunable_groups.feed_forward(root)):
            found = channel_tracing.traced_channels(root, context.recipe.data)
            found = [g for g in found if not any(matches(side.path, exclude) for side in g.outputs)]
    else:
        found = list(prunable_groups.attention_groups(root, dimensions=kind == "head dimensions"))
    return [g for g in found if matches(g.path, include) and not matches(g.path, exclude)]


def _calls(model: Any, context: Context) -> Any:
    from gearshift.models.example import example_call

    return example_call(model, context.recipe.data)


def _losses(model: Any, root: Any, context: Context, count: int, generator: Any) -> Iterator[Any]:
    """Losses of a few samples: of the next token where tokens are given, else random projections of the output."""
    from gearshift.models.describe import describe
    from gearshift.steps.tree import tensors
    from gearshift.training.diffusion import calls_of, distillation_samples
    from gearshift.training.importance import projections, taken
    from gearshift.training.language import NextToken, own_text, window_of, windows

    recipe, kind = context.recipe, describe(model).kind
    if kind is Kind.LANGUAGE:
        length = window_of(model)
        text = own_text(model, length, recipe.seed, count) if recipe.data is None else None
        text = windows(recipe.data, recipe.tokenizer, length) if text is None else text
        objective = NextToken(model)
        for window in text[:count]:
            yield objective(window[None])
    elif kind is Kind.DIFFUSION and hasattr(model, "scheduler"):
        calls = calls_of(model, recipe.data, recipe.batch_size, recipe.seed)
        for sample in taken(distillation_samples(model, calls, recipe.seed), count):
            yield projections(tensors(root(*sample.args, **sample.kwargs))[0], generator)
    else:
        for item in taken(recipe.data, count):
            output = model(**item) if isinstance(item, dict) else model(item)
            yield projections(tensors(getattr(output, "logits", output))[0], generator)
