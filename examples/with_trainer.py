"""Movement pruning with the stock Trainer: one callback. Runs in seconds, on made-up data."""

import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from fineprune import Movement, PruningConfig
from fineprune.trainer.callback import PruningCallback
from fineprune.trainer.checkpoints import last_whole_checkpoint

torch.manual_seed(0)
# Here stands your pretrained model: AutoModelForSequenceClassification.from_pretrained(...)
small = BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=200)
model = BertForSequenceClassification(small)
rows = [torch.randint(0, 200, (12,)) for _ in range(400)]
data = [{"input_ids": tokens, "labels": int(tokens[0]) % 2} for tokens in rows]

with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=4,
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        warmup_steps=0.1,
        logging_steps=25,
        save_steps=50,
        save_total_limit=1,
        report_to="none",
        dataloader_pin_memory=False,
    )
    callback = PruningCallback(PruningConfig(method=Movement(), density=0.10))
    trainer = Trainer(model=model, args=arguments, train_dataset=data, callbacks=[callback])
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(folder))  # None on the first start
    print(callback.summary)
