"""What all models that CTranslate2 runs have in common: the engine and its folder, sizes, saving, being converted."""

from __future__ import annotations

import copy
import json
import shutil
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, TypeVar

import torch

from gearshift.core.context import Context
from gearshift.core.errors import BadValue, BrokenFolder, GearshiftWarning, told
from gearshift.core.extras import installed
from gearshift.core.model import Runtime, size_bytes
from gearshift.core.target import Replaced
from gearshift.kernels.cpu.onednn import saturates
from gearshift.persist.libraries.transformers import LOCAL
from gearshift.runtimes.conversion import EXTRA, architectures, convert, engine, has_adapters, opened_model
from gearshift.runtimes.decoding import NEVER, Decoding, beyond, refuse_unknown
from gearshift.runtimes.trial import lengths, tried

ENGINE_FILES = ("model.bin", "config.json", "*vocabulary.json")
ORIGINAL = "transformers"  # the subfolder with transformers' own configuration
NEW = 8  # tokens that are generated when a converted model is tried

M = TypeVar("M", bound="CTranslateModel")


class CTranslateModel(Runtime):
    """A transformers model converted to CTranslate2 (https://opennmt.net/CTranslate2), in a folder of its own.

    Attributes:
        config, generation_config: transformers' own, of the model that was converted.
        tokenizer: reads and writes text; without one, `generate` takes and gives token ids.
        engine: the CTranslate2 object.
        folder: its model, as CTranslate2's own tools read it.
    """

    engine_name: ClassVar[str]
    endings: ClassVar[tuple[str, ...]]
    noun: ClassVar[str]
    reader: ClassVar[str] = "tokenizer"  # the recipe's setting that reads and writes text

    def __init__(self, folder: Path, tokenizer: Any = None, device: str = "cpu", owner: Any = None) -> None:
        from transformers import AutoConfig, GenerationConfig

        self.folder, self.tokenizer, self._owner = Path(folder), tokenizer, owner
        self.config = AutoConfig.from_pretrained(self.folder / ORIGINAL, **LOCAL)
        self.generation_config = GenerationConfig.from_pretrained(self.folder / ORIGINAL, local_files_only=True)
        self.components: dict[str, Any] = {}
        self.engine: Any = None
        self._read()
        self.to(device)

    @classmethod
    def convert(cls: type[M], model: Any, weight_bits: int, tokenizer: Any = None) -> M:
        """The same model run by CTranslate2, on the same device; the model given is left as it is.

        Raises:
            GearshiftError: if CTranslate2 cannot convert it.
        """
        owner = TemporaryDirectory(prefix="gearshift-")
        folder = Path(owner.name)
        convert(model, folder, weight_bits, cls.names(model.generation_config))
        _keep_configuration(model, folder)
        return cls(folder, tokenizer, str(model.device), owner)

    @classmethod
    def from_pretrained(cls: type[M], folder: Path) -> M:
        """Read a folder that `save_pretrained` wrote; on the CPU.

        Raises:
            BrokenFolder: if it holds no such model.
        """
        place = Path(folder)
        if not (place / "model.bin").is_file():
            raise BrokenFolder(f"{place} holds no CTranslate2 model: it has no model.bin.")
        return cls(place, cls.read_tokenizer(place))

    @classmethod
    def read_tokenizer(cls, folder: Path) -> Any:
        """The tokenizer in a folder; None if there is none."""
        from transformers import AutoConfig, AutoTokenizer

        if not (folder / "tokenizer_config.json").is_file():
            return None
        return AutoTokenizer.from_pretrained(
            folder, config=AutoConfig.from_pretrained(folder / ORIGINAL, **LOCAL), **LOCAL
        )

    @staticmethod
    def names(generation_config: Any) -> dict[int, str]:
        """Token ids whose words the engine looks up."""
        return {}

    @staticmethod
    def lacks(model: Any) -> list[str]:
        """Sentences about what a model of a class that is taken has to have besides."""
        return []

    def left_out(self) -> list[str]:
        """What the model's generation configuration asks for and CTranslate2 has not got."""
        return beyond(self.generation_config)

    def save_pretrained(self, folder: Path) -> None:
        """Write the engine's files, transformers' configuration and the tokenizer.

        Raises:
            BrokenFolder: if the folder that this model was loaded from is gone.
        """
        target = Path(folder)
        found = [path for pattern in ENGINE_FILES for path in self.folder.glob(pattern)]
        if not found:
            raise BrokenFolder(f"{self.folder}, where this model was loaded from, is gone; it cannot be copied.")
        for path in found:
            shutil.copyfile(path, target / path.name)
        _keep_configuration(self, target)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(target)

    @property
    def weight_bits(self) -> int:
        """8 or 16."""
        return int(self._facts["weight_bits"])

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return int(self._facts["words"])

    @property
    def compute_type(self) -> str:
        """What the engine computes in on this device."""
        return str(self.engine.compute_type)

    def size_bytes(self) -> int:
        """Bytes of the weights in memory: 16-bit ones take twice their file's where the engine computes in float32."""
        widened = self.weight_bits == 16 and self.compute_type == "float32"
        return (self.folder / "model.bin").stat().st_size * (2 if widened else 1)

    def to(self: M, device: Any) -> M:
        """Move to a device: its weights are read anew."""
        self.device = torch.device(device)
        self._open()
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config.architectures or self.config.model_type}, {self.compute_type})"

    def _read(self) -> None:
        facts = json.loads((self.folder / "config.json").read_text())
        vocabularies = list(self.folder.glob("*vocabulary.json"))
        if not vocabularies:
            raise BrokenFolder(f"{self.folder} holds no CTranslate2 model: it has no vocabulary.json.")
        self._facts = {**facts, "words": len(json.loads(vocabularies[0].read_text()))}

    def _open(self) -> None:
        """Load the weights, into as many threads as torch uses."""
        package, kind = engine(), self.device.type
        if self.weight_bits == 8 and kind == "cpu" and saturates() and not self._facts["pair_safe"]:
            warnings.warn(
                "This model was converted where int8 products do not overflow 16 bits; on this CPU they do, and it "
                "will be far less exact. Convert it here.",
                GearshiftWarning,
                stacklevel=2,
            )
        maker: Any = package
        for name in self.engine_name.split("."):
            maker = getattr(maker, name)
        able = package.get_supported_compute_types(kind)
        wide = "float16" if "float16" in able else "float32"
        self.engine = None  # at most one copy of the weights
        computing = "int8" if self.weight_bits == 8 else wide
        threads = torch.get_num_threads()
        self.engine = opened_model(maker, self.folder, self.device, compute_type=computing, intra_threads=threads)

    def _decoding(self, known: tuple[str, ...], given: dict[str, Any], config: Any, length: int) -> Decoding:
        """The arguments of a call, filled up from a configuration given with it and from the model's own."""
        owner = type(self).__name__
        refuse_unknown(owner, given, known)
        if config is not None and (asked := beyond(config)):
            raise BadValue(f"{owner}.generate cannot do {', '.join(asked)}: CTranslate2 has nothing of the kind.")
        configs = [c for c in (config, self.generation_config) if c is not None]
        positions = getattr(self.config, "max_position_embeddings", None)
        return Decoding.of(owner, given, configs, length, positions)

    def _seeded(self, seed: int | None, run: Any) -> Any:
        """Run with a seed. A worker draws its random state once, at its first sample: a seed needs a new one."""
        if seed is None:
            return self._answered(run)
        package = engine()
        package.set_random_seed(seed)
        try:
            self._open()
            return self._answered(run)
        finally:
            package.set_random_seed(NEVER)  # as it is when nobody has set one

    def _answered(self, run: Any) -> Any:
        """What the engine answers; what it cannot do with these prompts, such as too many tokens, is a BadValue."""
        try:
            return run()
        except RuntimeError as error:
            raise BadValue(f"{type(self).__name__}.generate cannot run this call: {told(error)}.") from error

    def lengths(self, name: str) -> list[int]:
        """Tokens of the calls that the converted model is tried with, for an algorithm of this name."""
        return lengths(name, self.config, NEW)

    def difference(self, model: Any, seed: int, tokens: int) -> tuple[Any, Any]:
        """Log-probabilities that the model and this one give to so many random tokens; float32, of one shape."""
        raise NotImplementedError


def conversion_problems(name: str, model: Any, runtimes: tuple[type[CTranslateModel], ...]) -> list[str]:
    """Why CTranslate2 cannot run a model as one of these; nothing where it is not installed, which is said anyway."""
    if not installed(EXTRA):
        return []
    found = runtime_of(model, runtimes)
    if found is not None:
        return [f"{name}: {lack}" for lack in found.lacks(model)]
    taken = "; ".join(f"as {cls.noun} {', '.join(architectures(cls.endings))}" for cls in runtimes)
    return [f"{name}: CTranslate2 {engine().__version__} does not take {type(model).__name__}. It takes {taken}."]


def runtime_of(model: Any, runtimes: tuple[type[CTranslateModel], ...]) -> type[CTranslateModel] | None:
    """Which of these can run a model."""
    return next((cls for cls in runtimes if type(model).__name__ in architectures(cls.endings)), None)


def converted_model(
    name: str, model: Any, weight_bits: int, context: Context, runtimes: tuple[type[CTranslateModel], ...]
) -> CTranslateModel:
    """Convert a model, compare the two, and put on the record what there is to know.

    Raises:
        GearshiftError: if it cannot be converted, or the engine computes something else than the model.
    """
    cls = runtime_of(model, runtimes)
    assert cls is not None
    started, before = time.perf_counter(), size_bytes(model)
    made = cls.convert(model, weight_bits, getattr(context.recipe, cls.reader))
    wide = None if weight_bits == 16 else lambda: cls.convert(model, 16)
    ratio = tried(name, made, model, context.recipe.seed, wide)
    context.measured(
        size_before=before,
        size_after=made.size_bytes(),
        size_on_disk=(made.folder / "model.bin").stat().st_size,
        log_probability_sqnr=ratio,
        seconds=time.perf_counter() - started,
    )
    _tell(name, model, made, context)
    context.change(Replaced(name))
    return made


def _keep_configuration(model: Any, folder: Path) -> None:
    """Write both of transformers' configurations; one made from the model's would lose Whisper's own entries."""
    model.config.save_pretrained(folder / ORIGINAL)
    generation = copy.deepcopy(model.generation_config)
    generation._from_model_config = False
    generation.to_json_file(folder / ORIGINAL / "generation_config.json")  # save_pretrained refuses some hub ones


def _tell(name: str, model: Any, made: CTranslateModel, context: Context) -> None:
    if made.weight_bits == 16 and made.compute_type == "float32":
        context.note(
            "CTranslate2 computes in float32 on this device: 16-bit weights take 2 bytes each on disk and 4 in memory. "
            "weight_bits=8 is smaller and faster here."
        )
    if made.tokenizer is None:
        context.note(f"{name} was given no {made.reader}: what goes in and comes out are tensors, and no text.")
    if has_adapters(model):
        context.note("The adapters were merged into the weights.")
    if asked := made.left_out():
        context.warn(
            f"{name}: the model's generation_config asks for {', '.join(asked)}, which CTranslate2 cannot do; it is "
            "left out."
        )
