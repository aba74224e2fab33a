"""Packs a saved model: `fineprune pack FOLDER NEW_FOLDER`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from ...compress.loading import from_pretrained
from ...compress.packing.header import DenseEntry, RawEntry, SparseEntry
from ...compress.packing.load import is_packed
from ...compress.packing.values import VALUES
from ...compress.packing.write import PACKED, Written, save
from ...compress.resizing.building import GENERATION, folder_of
from ...compress.resizing.weights import Weights
from ...errors import InvalidInputError
from ...files import check_free
from .shrink import BESIDE


@dataclass(frozen=True)
class Size:
    """The bytes of one kind of tensors, or of all.

    Args:
        name: of the kind.
        before: bytes in the model.
        after: bytes in the packed file.
        bound: the information bound in bytes: for n weights of which a fraction d is kept, with b bits a value,
            n (H(d) + d b) / 8, H the binary entropy; for all other numbers their own size.
    """

    name: str
    before: int
    after: int
    bound: float

    def row(self) -> Sequence[str]:
        """Returns the cells of its row in a table."""
        ratio = f"{self.after / self.bound:.4f}" if self.bound else ""
        return self.name, f"{self.before:,}", f"{self.after:,}", f"{self.bound:,.0f}", ratio


HEADINGS = ("bytes of", "before", "after", "bound", "after / bound")


def pack_folder(folder: str, new_folder: str, values: Literal["int8", "fp16", "fp32"] = "int8") -> Sequence[Size]:
    """Writes a saved model as a packed one, with its tokenizer.

    Args:
        folder: a saved model, shrunken or not.
        new_folder: for the packed model, its tokenizer and its recipe; it must not exist.
        values: how values of matrices are stored: int8 with a scale for each row, fp16, or fp32 as they are.

    Returns:
        The bytes of its matrices, of its other tensors, and of the file as a whole.

    Raises:
        InvalidInputError: if the new folder is occupied, the model cannot be loaded, or has values that cannot be stored so.
        FileError: if the new folder cannot be written; nothing of it is left then.
    """
    if is_packed(folder):
        raise InvalidInputError(f"{folder} is packed already. Give the folder of the model that it was packed from.")
    check_free(new_folder)
    model, source = from_pretrained(folder), folder_of(folder)
    beside = [source / name for name in (*BESIDE, GENERATION) if (source / name).is_file()]
    written = save(model, new_folder, VALUES[values], beside)
    return compared_sizes(Weights(model).tensors, written, (Path(new_folder) / PACKED).stat().st_size)


def compared_sizes(tensors: Mapping[str, Tensor], written: Mapping[str, Written], file: int) -> Sequence[Size]:
    """Compares the bytes of tensors before and after, by kind.

    Args:
        tensors: that were packed, by name.
        written: the entry and the bytes of each in the packed file.
        file: bytes of the whole file.
    """
    kinds = {SparseEntry: "matrices with zeros left out", DenseEntry: "other matrices", RawEntry: "vectors and others"}
    rows = []
    for kind, title in kinds.items():
        names = [name for name, one in written.items() if type(one.entry) is kind]
        before = sum(tensors[name].nbytes for name in names)
        after, bound = sum(written[name].nbytes for name in names), sum(written[name].entry.bound for name in names)
        rows.append(Size(title, before, after, bound / 8))
    return [*rows, Size("the whole file", sum(row.before for row in rows), file, sum(row.bound for row in rows))]
