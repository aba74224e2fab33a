"""Two processes under DDP hold the same masks and weights, whatever their own seeds and data."""

import subprocess
import sys
from pathlib import Path


def test_every_rank_holds_the_same_pruned_weights(tmp_path: Path) -> None:
    script = Path(__file__).with_name("ranks_run.py")
    commands = [[sys.executable, str(script), str(rank), "2", str(tmp_path / "store")] for rank in range(2)]
    ranks = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for command in commands]
    results = [rank.communicate(timeout=200) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], results
    first, second = (output for output, _ in results)
    assert first == second
    methods, densities, weights = zip(*(line.split() for line in first.splitlines()), strict=True)
    assert methods == ("Random", "Movement", "Movement", "SoftMovement", "SoftMovement", "L0", "L0")
    assert densities[:4] == ("0.25",) * 4
    assert all(0 < float(density) < 0.95 for density in densities[4:]), densities
    assert len(set(weights)) == 7
