"""How dense a model is: counted on its weights, layer by layer, read-only."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from ..distributed import process_group
from ..errors import InvalidInputError, enumeration
from .targets import inside_blocks, unwrap


@dataclass(frozen=True)
class Count:
    """How many of a set of weights are not zero."""

    name: str
    shape: tuple[int, ...]
    weights: int
    kept: int

    @property
    def density(self) -> float:
        return self.kept / self.weights


@dataclass(frozen=True)
class Inspection:
    """The density of a model.

    Args:
        layers: a count for each pruned (or prunable) weight.
        whole_model: a count over every parameter, each shared one once.
        remaining_weights: the paper's "remaining weights %" as a fraction: kept weights plus all the
            other parameters of the transformer blocks, over all parameters of the blocks. None for
            a model without blocks.
    """

    layers: tuple[Count, ...]
    whole_model: Count
    remaining_weights: float | None

    @property
    def weights(self) -> int:
        return sum(layer.weights for layer in self.layers)

    @property
    def kept(self) -> int:
        return sum(layer.kept for layer in self.layers)

    @property
    def density(self) -> float:
        """Fraction of the prunable weights kept."""
        return self.kept / self.weights

    def __str__(self) -> str:
        width = max(len(layer.name) for layer in self.layers)
        lines = [f"{'weight':{width}}  {'shape':>13}  {'kept':>12}  density"]
        for layer in self.layers:
            shape = " x ".join(map(str, layer.shape))
            lines.append(f"{layer.name:{width}}  {shape:>13}  {layer.kept:12,}  {layer.density:7.4f}")
        return "\n".join([*lines, *self.totals()])

    def totals(self) -> list[str]:
        """Returns the closing lines: the density under each of its names."""
        return [f"{name}: {figure}" for name, figure in self.densities()]

    def densities(self) -> list[tuple[str, str]]:
        """Returns the density under each of its names, as text with what it counts."""
        model = self.whole_model
        rows = [("density of the prunable weights", f"{self.density:.6f} ({self.kept:,} of {self.weights:,})")]
        if self.remaining_weights is not None:
            rows.append(("remaining weights of the blocks, as the paper counts", f"{self.remaining_weights:.6%}"))
        return [*rows, ("density of the whole model", f"{model.density:.6f} ({model.kept:,} of {model.weights:,})")]


def inspect(model: nn.Module, names: Iterable[str]) -> Inspection:
    """Counts the weights that are not zero.

    Args:
        model: any module.
        names: the parameters to list one by one, at least one, as `targets.find` or a pruner names them.

    Raises:
        InvalidInputError: if there is no name, or one that the model does not have.
    """
    model, names = unwrap(model), list(names)
    parameters = dict(model.named_parameters())
    unknown = [name for name in names if name not in parameters]
    if unknown or not names:
        raise InvalidInputError(f"The model has no parameter {enumeration(unknown)}. Take the names from targets.find().")
    counts = {name: int(process_group.of(p).total(process_group.local(p).count_nonzero())) for name, p in parameters.items()}

    def count(name: str) -> Count:
        return Count(name, tuple(parameters[name].shape), parameters[name].numel(), counts[name])

    layers = tuple(count(name) for name in names)
    listed = {layer.name for layer in layers}
    in_blocks = inside_blocks(model, parameters)
    total = sum(parameters[name].numel() for name in in_blocks)
    remaining = sum(counts[name] if name in listed else parameters[name].numel() for name in in_blocks)
    whole_model = Count("the whole model", (), sum(p.numel() for p in parameters.values()), sum(counts.values()))
    return Inspection(layers, whole_model, remaining / total if total else None)
