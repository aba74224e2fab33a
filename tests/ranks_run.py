"""One rank of a run under DDP; prints what its masks are, for the test to compare.

python ranks_run.py RANK WORLD_SIZE STORE
"""

import hashlib
import sys

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fineprune import CubicSchedule, KaimingUniform, Movement, Pruner, PruningConfig, Random

STEPS = 12


class Stack(nn.Module):
    """Two blocks of one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(2))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            features = block(features)
        return features.square().mean()


def main(rank: int, world_size: int, store: str) -> None:
    """Prunes with each method that draws random numbers, from another seed and on other data on every rank."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    for method in (Random(), Movement(birth=KaimingUniform()), Movement()):
        torch.manual_seed(100 + rank)
        model = DistributedDataParallel(Stack())
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        config = PruningConfig(method, 0.25, schedule=CubicSchedule(2, 4), scope="global")
        with Pruner(model, optimizer, config, total_steps=STEPS) as pruner:
            for _ in range(STEPS):
                model(torch.randn(8, 16)).backward()
                optimizer.step()
                optimizer.zero_grad()
        weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        print(type(method).__name__, pruner.density(), hashlib.sha256(weights.numpy().tobytes()).hexdigest())  # noqa: T201
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
