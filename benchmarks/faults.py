"""Does a run whose rank is killed end as if it had not been? Ten kills at random moments of each of three kinds of runs.

    python benchmarks/faults.py [--kinds trainer fsdp example] [--kills 10] [--seed 0] [--output FILE] [--csv FILE]

The kinds, each on two ranks under torchrun: `trainer` is the stock Trainer with PruningCallback (DDP), `fsdp` is a plain loop
under `fully_shard`, and `example` is examples/distributed_loop.py (DDP through Accelerate). The first and the last train a
small BERT with dropout; all save every 10 of 100 steps. A run that nobody disturbs tells what to end with, and when each step
was done. Then, for each kill: a moment is drawn uniformly over that time, from the first step to the end. The run is started
again, and when it has done the last step before the moment, one of its ranks gets SIGKILL from outside, as long after that step
as the moment is; torchrun takes the rest down; the same command is given again, and goes on from the last whole checkpoint.
Compared on each rank, bit for bit: weights, optimizer, scores, their moments, dense weights, masks. If a run ended before
it could be killed, another moment is drawn.
"""

import argparse
import bisect
import hashlib
import json
import os
import platform
import random
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from fineprune import Movement, Pruner, PruningConfig
from fineprune.distributed.process_group import local

PAGE = Path(__file__).parents[1] / "docs" / "measurements" / "faults.md"
RANKS, STEPS, SAVE_STEPS = 2, 100, 10
RANK = int(os.environ.get("RANK", "0"))


# The runs, each of which returns its pruner.


def example(folder: Path) -> Pruner:
    """The example of a loop with Accelerate."""
    sys.argv = ["distributed_loop.py", str(folder)]
    pruner: Pruner = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "distributed_loop.py"))["pruner"]
    return pruner


def trainer(folder: Path) -> Pruner:
    """The stock Trainer; each rank with random numbers of its own."""
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

    from fineprune.trainer.callback import PruningCallback
    from fineprune.trainer.checkpoints import last_whole_checkpoint

    set_seed(0)
    small = BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=200)
    data = [{"input_ids": row, "labels": int(row[0]) % 2} for row in torch.randint(0, 200, (400, 12))]
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        warmup_steps=10,
        save_steps=SAVE_STEPS,
        save_total_limit=2,
        report_to="none",
        use_cpu=True,
        ddp_backend="gloo",
        disable_tqdm=True,
    )
    callback = PruningCallback(PruningConfig(Movement(), 0.10))
    made = Trainer(BertForSequenceClassification(small), arguments, train_dataset=data, callbacks=[callback])
    torch.manual_seed(RANK)
    made.train(resume_from_checkpoint=last_whole_checkpoint(folder))
    assert callback.pruner is not None
    return callback.pruner


def fsdp(folder: Path) -> Pruner:
    """A plain loop whose weights are sharded by rows."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group("gloo")
    torch.manual_seed(0)
    mesh, options = init_device_mesh("cpu", (RANKS,)), StateDictOptions(full_state_dict=True, cpu_offload=True)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(6)))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    whole = None
    for checkpoint in sorted(folder.glob("step-*"), reverse=True):
        if (checkpoint / "pruner.json").is_file():
            whole = checkpoint
            break
        print(f"Passing over {checkpoint}: its save did not finish.")
    if whole is not None:  # before there is a pruner: PyTorch loads an optimizer by way of an empty step
        weights, state = torch.load(whole / "training.pt", weights_only=True)
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state, options=options)
    config = PruningConfig(Movement(), 0.10, scope="global", target_modules=[f"{place}.0" for place in range(len(model))])
    pruner = Pruner(model, optimizer, config, total_steps=STEPS, max_grad_norm=1.0)
    if whole is not None:
        pruner.load(whole)
    while pruner.step < STEPS:
        batch = torch.randn(RANKS, 16, 64, generator=torch.Generator().manual_seed(pruner.step))[RANK]
        (model(batch) - batch.roll(1, 1)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if pruner.step % SAVE_STEPS == 0:
            checkpoint = folder / f"step-{pruner.step:06}"
            saved = get_state_dict(model, optimizer, options=options)
            if RANK == 0:
                checkpoint.mkdir(exist_ok=True)
                torch.save(saved, checkpoint / "training.pt")
            pruner.save(checkpoint)
    pruner.detach()
    return pruner


KINDS: dict[str, Callable[[Path], Pruner]] = {"trainer": trainer, "fsdp": fsdp, "example": example}


def job(kind: str, folder: Path) -> None:
    """What each rank does: it runs, tells of each step, and at last what it holds."""
    torch.set_num_threads(1)
    steps: list[int] = []
    times: list[float] = []

    def tell(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        owners = [getattr(hook, "__self__", None) for hook in optimizer._optimizer_step_pre_hooks.values()]
        pruners = [owner for owner in owners if isinstance(owner, Pruner)]
        if pruners:  # it is not the optimizer of scores
            steps.append(pruners[0].step)
            times.append(time.monotonic())
            new = folder / f".progress-{RANK}"
            new.write_text(f"{os.getpid()} {steps[-1]}", encoding="utf-8")
            new.rename(folder / f"progress-{RANK}")

    register_optimizer_step_post_hook(tell)
    pruner = KINDS[kind](folder)
    times.append(time.monotonic())
    began = steps[0] - 1 if steps else STEPS
    ending = {"began": began, "times": [moment - times[0] for moment in times], "holds": _hashes(pruner)}
    (folder / f"ending-{RANK}").write_text(json.dumps(ending), encoding="utf-8")
    distributed.barrier()
    distributed.destroy_process_group()


def _hashes(pruner: Pruner) -> dict[str, str]:
    """The SHA-256 of everything that a rank holds."""
    held: dict[str, Tensor] = dict(pruner._masked.model.state_dict())
    for number, state in pruner._step.optimizer.state_dict()["state"].items():
        held |= {f"optimizer.{number}.{name}": value for name, value in state.items() if isinstance(value, Tensor)}
    held |= {f"mask.{weight.name}": weight.mask for weight in pruner._masked.weights}
    for site in pruner._masked.sites:
        held |= {f"pruner.{name}": tensor for name, tensor in site.tensors().items()}
    flat = {name: local(tensor).detach().contiguous().view(-1).view(torch.uint8) for name, tensor in held.items()}
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in flat.items()}


# The kills.


def _start(kind: str, folder: Path) -> "subprocess.Popen[str]":
    folder.mkdir(parents=True, exist_ok=True)
    for left in (*folder.glob("progress-*"), *folder.glob("ending-*")):
        left.unlink()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    return subprocess.Popen(
        [*launcher, __file__, "--job", kind, str(folder)],
        stdout=(folder.parent / f"{folder.name}.log").open("w"),
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _progress(folder: Path, rank: int) -> tuple[int, int]:
    """Returns the process of a rank, and how many steps it has done."""
    path = folder / f"progress-{rank}"
    process, step = path.read_text(encoding="utf-8").split() if path.is_file() else (0, 0)
    return int(process), int(step)


def _finish(run: "subprocess.Popen[str]", folder: Path) -> list[dict[str, Any]]:
    """Waits for the end of a run that must end well, and returns what its ranks hold."""
    if run.wait(300):
        raise RuntimeError((folder.parent / f"{folder.name}.log").read_text(encoding="utf-8"))
    return [json.loads((folder / f"ending-{rank}").read_text(encoding="utf-8")) for rank in range(RANKS)]


def kill(kind: str, folder: Path, rank: int, steps: int, after: float) -> int | None:
    """Kills a rank `after` seconds after `steps` steps; returns how many steps it has done, None if the run was over."""
    run = _start(kind, folder)
    while _progress(folder, rank)[1] < steps:
        if run.poll() is not None:
            raise RuntimeError((folder.parent / f"{folder.name}.log").read_text(encoding="utf-8"))
        time.sleep(0.001)
    time.sleep(after)
    process, step = _progress(folder, rank)
    over = (folder / f"ending-{rank}").is_file()
    if not over:
        os.kill(process, signal.SIGKILL)
    run.wait(300)
    return None if over else step


def row(kind: str, folder: Path, expected: list[dict[str, Any]], generator: random.Random) -> dict[str, Any]:
    """Kills once, resumes and compares."""
    step, tries = None, 0
    while step is None:
        tries += 1
        rank = generator.randrange(RANKS)
        times = expected[rank]["times"]
        moment = generator.uniform(0, times[-1])
        steps = bisect.bisect(times, moment)
        here = folder / f"{tries}"
        step = kill(kind, here, rank, steps, moment - times[steps - 1])
    ended = _finish(_start(kind, here), here)
    log = (folder / f"{tries}.log").read_text(encoding="utf-8")
    passed_over = sorted({Path(name).name for name in re.findall(r"Passing over (\S+?)[.:] ", log)})
    return {
        "kind": kind,
        "rank": rank,
        "moment": round(moment, 3),
        "step": step,
        "passed_over": passed_over,
        "resumed_from": ended[0]["began"],
        "equal": [end["holds"] for end in ended] == [end["holds"] for end in expected],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the runs of each kind as a Markdown table."""
    lines = ["| run | killed and resumed | checkpoints passed over | ended equal |", "|---|---|---|---|"]
    for kind in dict.fromkeys(each["kind"] for each in rows):
        here = [each for each in rows if each["kind"] == kind]
        counts = [len(here), sum(len(each["passed_over"]) for each in here), sum(each["equal"] for each in here)]
        lines.append(f"| {' | '.join([kind, *map(str, counts)])} |")
    return "\n".join(lines)


def every_row(rows: list[dict[str, Any]]) -> str:
    """Returns the kills as CSV."""
    lines = ["run,rank killed,moment s,steps done,passed over,resumed from step,ends equal"]
    for each in rows:
        cells = [each["kind"], each["rank"], f"{each['moment']:.2f}", each["step"], " ".join(each["passed_over"])]
        lines.append(",".join(map(str, [*cells, each["resumed_from"], "yes" if each["equal"] else "no"])))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Kills, resumes, compares and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--kills", type=int, default=10, help="of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the ranks")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "faults.json")
    parser.add_argument("--csv", type=Path, default=PAGE.with_suffix(".csv"), help="for every kill, beside the page")
    parser.add_argument("--job", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.job:
        job(chosen.job[0], Path(chosen.job[1]))
        return
    facts: dict[str, Any] = {
        "machine": {
            "processor": platform.machine(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "cores": os.cpu_count(),
        },
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate")},
        "date": date.today().isoformat(),
        "seed": chosen.seed,
        "ranks": RANKS,
        "seconds_undisturbed": {},
    }
    rows: list[dict[str, Any]] = []
    for kind in chosen.kinds:
        generator = random.Random(f"{chosen.seed} {kind}")
        with tempfile.TemporaryDirectory() as temporary:
            whole = Path(temporary) / "undisturbed"
            expected = _finish(_start(kind, whole), whole)
            facts["seconds_undisturbed"][kind] = round(expected[0]["times"][-1], 3)
            for number in range(chosen.kills):
                rows.append(row(kind, Path(temporary) / f"kill-{number}", expected, generator))
                print(rows[-1], flush=True)
                chosen.output.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    chosen.csv.write_text(every_row(rows), encoding="utf-8")
    print(table(rows))
    print(f"{sum(each['equal'] for each in rows)} of {len(rows)} ended equal.")


if __name__ == "__main__":
    main()
