"""One rank of a run under DDP; prints what its masks are, for the test to compare.

python ranks_run.py RANK WORLD_SIZE STORE
"""

import hashlib
import sys

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fineprune import L0, CubicSchedule, KaimingUniform, Movement, Pruner, PruningConfig, Random, SoftMovement, Uniform

STEPS = 12

RUNS = [
    (Random(), 0.25),
    (Movement(birth=KaimingUniform()), 0.25),
    (Movement(), 0.25),
    (SoftMovement(score_lr=0.4), 0.25),
    (SoftMovement(penalty=1.0, score_lr=0.4), None),
    (L0(birth=Uniform(3.0), score_lr=0.4), 0.25),
    (L0(penalty=1.0, birth=Uniform(3.0), score_lr=0.4), None),
]
"""Methods and densities."""


class Stack(nn.Module):
    """Two blocks of one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(2))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            features = block(features)
        return features.square().mean()


def weights_of(model: nn.Module) -> bytes:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).numpy().tobytes()


def main(rank: int, world_size: int, store: str) -> None:
    """Prunes with each method, from another seed and on other data on every rank."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    for method, density in RUNS:
        torch.manual_seed(100 + rank)
        model = DistributedDataParallel(Stack())
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        config = PruningConfig(method, density, schedule=CubicSchedule(2, 4), scope="global")
        seen = hashlib.sha256()
        with Pruner(model, optimizer, config, total_steps=STEPS) as pruner:
            for _ in range(STEPS):
                loss = model(torch.randn(8, 16))
                seen.update(weights_of(model))  # as they are in this step's forward pass
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                seen.update(weights_of(model))  # as they are between steps
        print(type(method).__name__, pruner.density(), seen.hexdigest())  # noqa: T201
    torch.distributed.barrier()  # a rank that leaves while another still talks to it can bring that one down
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
