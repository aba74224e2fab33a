"""Shrinks a saved model: `fineprune shrink FOLDER NEW_FOLDER`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ...compress.loading import from_pretrained
from ...compress.resizing.building import folder_of
from ...compress.resizing.saving import save
from ...compress.resizing.weights import Weights
from ...compress.shrinking.shrink import shrink
from ...errors import InvalidInputError
from ...files import check_free
from ...models.anatomy import find_blocks

BESIDE = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json"),
    *("merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "chat_template.jinja"),
    *("preprocessor_config.json", "processor_config.json", "recipe.yaml"),
)
"""Files of a tokenizer or a processor, and the recipe of the run, which `fineprune evaluate` reads."""


def _sizes(model: nn.Module, folder: Path) -> dict[str, int]:
    """Counts what a model has: its parameters (tied ones once), bytes on the disk, query heads and feed-forward neurons."""
    found, weights = find_blocks(model), Weights(model)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bytes of the weights": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        "heads": sum(attention.heads for block in found for attention in block.attentions),
        "neurons": sum(weights.matrix(block.feed_forward.second).shape[1] for block in found),
    }


@dataclass(frozen=True)
class ShrinkResult:
    """The sizes of a model before and after, by their names."""

    before: dict[str, int]
    after: dict[str, int]

    def rows(self) -> Sequence[Sequence[str]]:
        """Returns the cells of a table: the measure, before, after, and the share that is left."""
        pairs = [(name, before, self.after[name]) for name, before in self.before.items()]
        return [(name, f"{before:,}", f"{after:,}", f"{after / before:.4f}" if before else "") for name, before, after in pairs]


def shrink_folder(folder: str, new_folder: str, multiple: int = 1) -> ShrinkResult:
    """Removes what pruning has made superfluous from a saved model: heads, neurons, whole layers, columns and features.

    Args:
        folder: a saved model of a known architecture, with zeros.
        new_folder: for the smaller model, its tokenizer and its recipe; it must not exist.
        multiple: neurons and features are kept in multiples of it, 8 or 16 for the kernels of a GPU.

    Raises:
        InvalidInputError: if the new folder is occupied, the model cannot be loaded or is not known, or has nothing to remove.
        FileError: if the new folder cannot be written; nothing of it is left then.
    """
    check_free(new_folder)
    model = from_pretrained(folder)
    smaller = shrink(model, multiple)
    if _shapes(model) == _shapes(smaller):
        raise InvalidInputError(
            f"Nothing can be removed from {folder}: no head, neuron, column or feature is zero as a whole. Prune with a "
            "structure that prunes whole ones, as Heads() or Neurons(). Nothing was written."
        )
    source = folder_of(folder)
    save(smaller, new_folder, [source / name for name in BESIDE if (source / name).is_file()])
    return ShrinkResult(_sizes(model, source), _sizes(smaller, Path(new_folder)))


def _shapes(model: nn.Module) -> dict[str, Sequence[int]]:
    return {name: tensor.shape for name, tensor in Weights(model).tensors.items()}
