"""Movement pruning in a loop on several processes; started again, it goes on from the last whole checkpoint.

    torchrun --nproc-per-node 2 examples/distributed_loop.py [FOLDER]
    accelerate launch --multi_gpu --num_processes 2 examples/distributed_loop.py [FOLDER]

Runs in seconds, on made-up data, with or without GPUs, and alone too. The checkpoints go into the folder, or `checkpoints`.
"""

import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import BertConfig, BertForSequenceClassification, get_linear_schedule_with_warmup

from fineprune import Movement, Pruner, PruningConfig

torch.manual_seed(0)  # the same model and the same data on every process
accelerator = Accelerator(cpu=not torch.cuda.is_available(), step_scheduler_with_optimizer=False)
checkpoints = Path(*sys.argv[1:] or ["checkpoints"])
# Here stands your pretrained model: AutoModelForSequenceClassification.from_pretrained(...)
small = BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=200)
model = BertForSequenceClassification(small)
batches = torch.randint(0, 200, (100, 16, 12))

optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
scheduler = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=10, num_training_steps=len(batches))
model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
config = PruningConfig(method=Movement(), density=0.10)

whole = None
for folder in sorted(checkpoints.glob("step-*"), reverse=True):
    if (folder / "pruner.json").is_file():  # it is written last
        whole = folder
        accelerator.load_state(str(folder))
        break
    accelerator.print(f"Passing over {folder}: its save did not finish.")

with Pruner(model, optimizer, config, total_steps=len(batches), max_grad_norm=1.0) as pruner:
    if whole is not None:
        pruner.load(whole)
    model.train()
    for batch in batches[pruner.step :]:
        tokens = batch.tensor_split(accelerator.num_processes)[accelerator.process_index].to(accelerator.device)
        loss = model(input_ids=tokens, labels=tokens[:, 0] % 2).loss
        accelerator.backward(loss)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if pruner.step % 10 == 0:
            folder = checkpoints / f"step-{pruner.step:06}"
            accelerator.save_state(str(folder))
            os.sync()  # onto the disk, should the machine die
            accelerator.wait_for_everyone()
            pruner.save(folder)  # every process calls it, the first one writes
            accelerator.print(f"step {pruner.step}: loss {loss.item():.3f}, density {pruner.density():.3f}")
