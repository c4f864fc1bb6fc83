"""Whole neurons, heads and channels removed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gearshift.core.algorithm import Algorithm
from gearshift.core.context import Context
from gearshift.core.errors import GearshiftError
from gearshift.core.facts import Facts, Family, Persist, Stage, Trait
from gearshift.core.param import param

CRITERIA = ("RandomImportance", "MagnitudeImportance", "LAMPImportance", "TaylorImportance", "HessianImportance")
NEURONS = ("intermediate_size", "ffn_dim", "n_inner", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size")


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
    prune_head_dims: bool = param(False, choices=(True, False), help="take dimensions out of every head")
    prune_num_heads: bool = param(False, choices=(True, False), help="take out whole heads")
    global_pruning: bool = param(
        False, choices=(True, False), help="rank the units of all layers together instead of layer by layer"
    )
    sparsity: float = param(0.1, between=(0.0, 1.0), help="share of neurons, channels and head dimensions that go")
    head_sparsity: float = param(0.0, between=(0.0, 1.0), help="share of heads that go")
    it_steps: int = param(1, between=(1, 10), help="rounds in which they go, ranked anew in each")

    def check_model(self, model: Any, context: Context) -> list[str]:
        from gearshift.core.model import parts
        from gearshift.models.describe import layers_to_leave

        roots, kinds = [root for root, _ in layers_to_leave(model).values()], self._kinds()
        try:
            found = any(_groups(model, root, kind, context) for root in roots for kind in reversed(kinds))
        except GearshiftError as error:
            return [str(error)]
        if not found:
            return [f"{self.name} finds no {' or '.join(kinds)} in {type(model).__name__} that can be taken out."]
        if self.type in ("TaylorImportance", "HessianImportance") and _calls(model, context) is None:
            needed = "a dict of its arguments" if len(parts(model)) > 1 else "what it takes"
            return [f"{self.type} reads gradients and needs `data`: a list whose items are {needed}."]
        return []

    def apply(self, model: Any, context: Context) -> None:
        import torch

        from gearshift.core.model import size_bytes
        from gearshift.models.describe import layers_to_leave

        before = size_bytes(model)
        generator = torch.Generator().manual_seed(context.recipe.seed)
        sizes: dict[str, dict[str, list[int]]] = {}
        attributes: dict[str, list[list[Any]]] = {}
        for part, (root, _) in layers_to_leave(model).items():
            shrunk = Shrunk(root, self.name, context.keep_original)
            context.change(shrunk)
            for kind in self._kinds():
                share = self.head_sparsity if kind == "heads" else self.sparsity
                step = 1 - (1 - share) ** (1 / self.it_steps)
                for _ in range(self.it_steps):
                    self._round(model, context, shrunk, kind, step, generator)
            if shrunk.taken and not shrunk.configure():
                sizes[part], attributes[part] = shrunk.sizes(), shrunk.attributes()
            for kind, (left, whole) in shrunk.taken.items():
                context.measured(**{f"{kind} left": f"{left} of {whole}"})
        context.save(parts=sorted(sizes), sizes=sizes, attributes=attributes)
        context.measured(size_before=before, size_after=size_bytes(model))
        if sizes:
            context.note("The model's own configuration cannot say these sizes, so gearshift.load has to load it.")

    def rebuild(self, model: Any, context: Context) -> None:
        from gearshift.core.model import parts
        from gearshift.models.structure import resize

        for part, layers in context.saved["sizes"].items():
            root = parts(model)[part]
            for path, shape in layers.items():
                resize(root.get_submodule(path), shape)
            for path, name, value in context.saved["attributes"].get(part, []):
                setattr(root.get_submodule(path), name, value)

    def _kinds(self) -> list[str]:
        kinds = ["neurons", "channels"]
        return kinds + ["heads"] * self.prune_num_heads + ["head dimensions"] * self.prune_head_dims

    def _round(self, model: Any, context: Context, shrunk: Shrunk, kind: str, share: float, generator: Any) -> None:
        """Take units of one kind out, once."""
        from gearshift.training.importance import WITH_GRADIENTS, chosen, scores, slopes_of

        groups = _groups(model, shrunk.root, kind, context) if share else []
        if not groups:
            return
        slopes = {}
        if self.type in WITH_GRADIENTS:
            paths = [side.path for g in groups for side in (*g.outputs, *g.inputs)]
            losses = _losses(model, shrunk.root, context, self.calibration_samples, generator)
            slopes = slopes_of(shrunk.root, paths, losses)
        values = [scores(g, shrunk.root, self.type, slopes, generator) for g in groups]
        shrunk.leave(list(zip(groups, chosen(values, groups, share, self.global_pruning), strict=True)))


@dataclass(eq=False)
class Shrunk:
    """The layers of one module, made smaller; originals are kept if asked for."""

    root: Any
    by: str
    keep: bool
    taken: dict[str, tuple[int, int]] = field(default_factory=dict)
    originals: dict[str, dict[str, Any]] = field(default_factory=dict)
    smaller: dict[str, dict[str, Any]] = field(default_factory=dict)
    told: dict[tuple[str, str], tuple[Any, Any]] = field(default_factory=dict)
    groups: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def lay(self) -> None:
        self._put(self.smaller, 1)

    def lift(self) -> None:
        self._put(self.originals, 0)

    def why_not(self) -> str | None:
        if self.keep or not self.taken:
            return None
        return f"{self.by} took weights out and they were not kept; keep_original=True would have kept them."

    def leave(self, chosen: list[tuple[Any, Any]]) -> None:
        """Leave only some units of groups, given as (group, units)."""
        from gearshift.models.structure import shrink, state, staying

        for (path, rows), left in staying(self.root, chosen).items():
            layer = self.root.get_submodule(path)
            if self.keep:
                self.originals.setdefault(path, state(layer))
            shrink(layer, left if rows else None, None if rows else left)
            self.smaller[path] = state(layer)
        for group, kept in chosen:
            for path, name, factor in group.counts:
                module = self.root.get_submodule(path)
                old = self.told.get((path, name), (getattr(module, name), None))[0]
                self.told[path, name] = (old, factor * len(kept))
                setattr(module, name, factor * len(kept))
            first = self.groups.get((group.path, group.kind), [group.units])[0]
            self.groups[group.path, group.kind] = [first, len(kept)]
            counts = [c for (_, kind), c in self.groups.items() if kind == group.kind]
            self.taken[group.kind] = (sum(c[1] for c in counts), sum(c[0] for c in counts))

    def sizes(self) -> dict[str, list[int]]:
        from gearshift.models.structure import shape

        return {path: shape(self.root.get_submodule(path)) for path in self.smaller}

    def attributes(self) -> list[list[Any]]:
        return [[path, name, new] for (path, name), (_, new) in self.told.items()]

    def configure(self) -> bool:
        """Write the sizes into the configuration of a language model, if it can say them all."""
        config = getattr(self.root, "config", None)
        if config is None or not hasattr(self.root, "generate") or not hasattr(config, "to_dict"):
            return False
        wanted: dict[str, int] = {}
        for kind in self.taken:
            counts = {tuple(c) for (_, k), c in self.groups.items() if k == kind}
            if len(counts) != 1:
                return False
            ((before, after),) = counts
            if kind == "neurons":
                names = [n for n in NEURONS if getattr(config, n, None) == before]
                wanted |= dict.fromkeys(names or (["n_inner"] if hasattr(config, "n_inner") else []), after)
                if not wanted:
                    return False
            elif kind == "heads" and hasattr(config, "head_dim") and hasattr(config, "num_key_value_heads"):
                each = config.num_attention_heads // config.num_key_value_heads
                size = config.head_dim or config.hidden_size // config.num_attention_heads
                wanted |= {"num_attention_heads": each * after, "num_key_value_heads": after, "head_dim": size}
            else:
                return False
        for name, value in wanted.items():
            setattr(config, name, value)
        return True

    def _put(self, weights: dict[str, dict[str, Any]], which: int) -> None:
        from gearshift.models.structure import place

        for path, tensors in weights.items():
            place(self.root.get_submodule(path), tensors)
        for (path, name), values in self.told.items():
            setattr(self.root.get_submodule(path), name, values[which])


def _groups(model: Any, root: Any, kind: str, context: Context) -> list[Any]:
    """The groups of a kind that the recipe's globs let through."""
    from gearshift.core.target import matches
    from gearshift.models import structure, traced

    include, exclude = context.recipe.include or ("*",), context.recipe.exclude
    if kind == "neurons":
        found = list(structure.feed_forward(root))
    elif kind == "channels":
        found = list(structure.channels(root))
        if not found and root is model and traced.fits(root) and not any(structure.feed_forward(root)):
            found = traced.channels(root, context.recipe.data)
            found = [g for g in found if not any(matches(side.path, exclude) for side in g.outputs)]
    else:
        found = list(structure.attention(root, dimensions=kind == "head dimensions"))
    return [g for g in found if matches(g.path, include) and not matches(g.path, exclude)]


def _calls(model: Any, context: Context) -> Any:
    from gearshift.models.example import example_call

    return example_call(model, context.recipe.data)


def _losses(model: Any, root: Any, context: Context, count: int, generator: Any) -> Iterator[Any]:
    """Losses of a few samples: of the next token where tokens are given, else random projections of the output."""
    from gearshift.core.facts import Kind
    from gearshift.models.describe import describe
    from gearshift.steps.tree import tensors
    from gearshift.training.diffusion import calls_of, lessons
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
        for lesson in taken(lessons(model, calls, recipe.seed), count):
            yield projections(tensors(root(*lesson.args, **lesson.kwargs))[0], generator)
    else:
        for item in taken(recipe.data, count):
            output = model(**item) if isinstance(item, dict) else model(item)
            yield projections(tensors(getattr(output, "logits", output))[0], generator)
