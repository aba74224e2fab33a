"""How a weight is cut into groups."""

import torch
from torch import Tensor, nn

from fineprune import Unstructured
from fineprune.structures import Structure


class Pairs(Structure):
    """Neighbours fall together; what is not written here is the base's."""

    def groups(self, shape: torch.Size) -> torch.Size:
        return torch.Size([*shape[:-1], shape[-1] // 2])

    def reduce(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(-1, (-1, 2)).sum(-1)

    def expand(self, groups: Tensor, shape: torch.Size) -> Tensor:
        return groups.repeat_interleave(2, -1)


def test_unstructured_changes_nothing() -> None:
    cut, weight = Unstructured(), torch.randn(3, 4)
    assert cut.groups(weight.shape) == weight.shape
    assert cut.size(weight.shape) == 1
    assert torch.equal(cut.reduce(weight), weight)
    assert torch.equal(cut.expand(weight, weight.shape), weight)
    assert torch.equal(cut.magnitude(weight), weight.abs())


def test_the_base_counts_a_group_and_takes_its_root_mean_square() -> None:
    weight = torch.tensor([[3.0, 4.0, 0.0, 2.0]])
    assert Pairs().size(weight.shape) == 2
    assert torch.allclose(Pairs().magnitude(weight), torch.tensor([[12.5**0.5, 2.0**0.5]]))


def test_reducing_is_the_transpose_of_expanding() -> None:
    """<reduce(a), s> = <a, expand(s)>: the gradient of the scores is that of the mask."""
    for cut in (Unstructured(), Pairs()):
        tensor = torch.randn(3, 4, dtype=torch.float64)
        groups = torch.randn(cut.groups(tensor.shape), dtype=torch.float64)
        left, right = (cut.reduce(tensor) * groups).sum(), (tensor * cut.expand(groups, tensor.shape)).sum()
        assert torch.allclose(left, right)


def test_each_weight_is_a_site_of_its_own() -> None:
    cut, weights = Pairs(), {"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)}
    assert cut.link(nn.Linear(2, 2), weights) == [{"a": cut}, {"b": cut}]
