"""Small models, and ways to look inside a pruner, for all tests."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing asks the Hub, nor waits for it where there is no network
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start, too: as many tests as processors run at once
# Numba's index of what it compiled has no lock, so that processes that compile at once may mistake each other's code.
os.environ["NUMBA_CACHE_DIR"] = str(Path(__file__).parents[1] / "build/numba" / os.environ.get("PYTEST_XDIST_WORKER", "alone"))

import hypothesis
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer, TrainingArguments

from fineprune import CubicSchedule, Movement, Pruner, PruningConfig

torch.set_num_threads(1)
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")  # a machine may be busy
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it forks a process full of threads, to tell of its use


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(92)


class Block(nn.Module):
    """A residual feed-forward block."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.down(torch.tanh(self.up(features)))


class Stack(nn.Module):
    """Blocks and a head, over features as they are; float64, so that differences of method show and rounding does not."""

    def __init__(self, width: int = 8, inner: int = 12, blocks: int = 2, classes: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, inner) for _ in range(blocks))
        self.head = nn.Linear(width, classes)
        self.double()

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        for block in self.blocks:
            features = block(features)
        return nn.functional.cross_entropy(self.head(features), labels)


Batch = dict[str, Tensor]


def stack_batches(number: int, rows: int = 6, width: int = 8) -> list[Batch]:
    """Returns batches for a Stack, with something to learn in them."""
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(number, rows, width, generator=generator, dtype=torch.float64)
    labels = (features[..., -3:].argmax(-1) + (features[..., 3] > 1)) % 3
    return [{"features": f, "labels": label} for f, label in zip(features, labels, strict=True)]


def tiny_bert(dropout: float = 0.0, **settings: object) -> BertForSequenceClassification:
    """Returns a random BERT with 12 matrices in 2 layers: 16,384 prunable weights."""
    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        **settings,
    )
    return BertForSequenceClassification(config).train()


def bert_batches(number: int, rows: int = 4, length: int = 8) -> list[Batch]:
    """Returns batches for a tiny BERT with two classes."""
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(0, 100, (number, rows, length), generator=generator)
    return [{"input_ids": t, "attention_mask": torch.ones_like(t), "labels": t[:, 0] % 2} for t in tokens]


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Runs a model of either kind forward."""
    output = model(**batch)
    return output if isinstance(output, Tensor) else output.loss


def adamw(model: nn.Module, **settings: object) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), **{"lr": 1e-3, "weight_decay": 0.0, **settings})


def config(**settings: object) -> PruningConfig:
    """Returns a config with a short warmup and cooldown, for runs of ten steps and more."""
    settings = {"method": Movement(), "density": 0.3, "schedule": CubicSchedule(0.1, 0.3), **settings}
    return PruningConfig(**settings)


def training_arguments(output: Path, **settings: object) -> TrainingArguments:
    """Returns Trainer's arguments for a quick run on the CPU that reports nothing and saves no checkpoints."""
    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    return TrainingArguments(str(output), **{**quiet, "use_cpu": True, "dataloader_pin_memory": False, **settings})


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Batch]) -> list[Tensor]:
    """The plain loop of the README; returns the losses."""
    losses = []
    for batch in batches:
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return losses


def scores(pruner: Pruner) -> dict[str, Tensor]:
    return {site.name: site.value().clone() for site in pruner._masked.sites if site.scores is not None}


def dense(pruner: Pruner) -> dict[str, Tensor]:
    return {weight.name: weight.dense.clone() for site in pruner._masked.sites for weight in site.weights}


def masks(pruner: Pruner) -> dict[str, Tensor]:
    return {weight.name: weight.mask.clone() for site in pruner._masked.sites for weight in site.weights}


def everything(pruner: Pruner) -> dict[str, Tensor]:
    """Copies every tensor and number that a step may change: model, gradients, optimizer, and the pruner's own."""
    model, optimizer = pruner._masked.model, pruner._step.optimizer
    held = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    held |= {f"gradient.{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    held |= {
        f"optimizer.{number}.{key}": torch.as_tensor(value)
        for number, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }
    held |= {f"mask.{name}": mask for name, mask in masks(pruner).items()}
    held |= {name: tensor for site in pruner._masked.sites for name, tensor in site.tensors().items()}
    held["step"] = torch.tensor(pruner.step)
    return {name: tensor.detach().clone() for name, tensor in held.items()}


def differences(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """Returns the names under which two collections of tensors are not the same bit for bit (NaN equals NaN)."""

    def same(a: Tensor, b: Tensor) -> bool:
        return a.dtype == b.dtype and a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)

    return [
        name for name in {**first, **second} if name not in first or name not in second or not same(first[name], second[name])
    ]


@pytest.fixture
def attach() -> Iterator[Callable[..., Pruner]]:
    """Makes pruners whose hooks are removed at the end of the test."""
    made = []

    def new(model: nn.Module, optimizer: torch.optim.Optimizer, total_steps: int = 10, **settings: object) -> Pruner:
        max_grad_norm = settings.pop("max_grad_norm", None)
        made.append(Pruner(model, optimizer, config(**settings), total_steps=total_steps, max_grad_norm=max_grad_norm))
        return made[-1]

    yield new
    for pruner in made:
        pruner.detach()


WORDS = ("good", "fine", "bad", "poor", "film", "book", "the", "a")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pretrained model with its tokenizer, as on the Hub; the same whichever test asks first, and quick to learn."""
    torch.manual_seed(92)
    folder = tmp_path_factory.mktemp("model")
    vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS))}
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    tiny_bert(initializer_range=0.2).bert.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.csv and validation.csv: texts that say good or bad, labelled so."""
    folder = tmp_path_factory.mktemp("reviews")
    generator = torch.Generator().manual_seed(5)
    for name, rows in (("train", 64), ("validation", 16)):
        lines = ["text,label"]
        for row in range(rows):
            adjective = WORDS[int(torch.randint(0, 2, (), generator=generator)) + 2 * (row % 2)]
            lines.append(f'"the {adjective}, {WORDS[4 + row % 2]}",{"bad" if row % 2 else "good"}')
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder
