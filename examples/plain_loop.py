"""Movement pruning in a plain training loop: two lines more than fine-tuning. Runs in seconds, on made-up data."""

import torch
from transformers import BertConfig, BertForSequenceClassification, get_linear_schedule_with_warmup

from fineprune import Movement, Pruner, PruningConfig

torch.manual_seed(0)
# Here stands your pretrained model: AutoModelForSequenceClassification.from_pretrained(...)
small = BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=200)
model = BertForSequenceClassification(small)
epochs, batches = 4, [torch.randint(0, 200, (16, 12)) for _ in range(50)]

optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
scheduler = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=20, num_training_steps=epochs * len(batches))
config = PruningConfig(method=Movement(), density=0.10)

with Pruner(model, optimizer, config, total_steps=epochs * len(batches), max_grad_norm=1.0) as pruner:
    for epoch in range(epochs):
        for tokens in batches:
            loss = model(input_ids=tokens, labels=tokens[:, 0] % 2).loss
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, density {pruner.density():.3f}")

print(pruner.summary())
