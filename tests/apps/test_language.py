"""Language modelling: blocks that lose no token, perplexity against a plain loop, and whole runs."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
)

from conftest import config, training_arguments
from fineprune import InvalidInputError
from fineprune.apps.tasks import language
from fineprune.apps.tasks.language import LanguageModelling, collate, cut_blocks, join_documents, negative_log_likelihood
from fineprune.apps.training import run as training
from fineprune.apps.training.recipe import Recipe

END, VOCABULARY = 0, ["<end>", "<unknown>", *"abcdefgh", "<begin>"]
POSITIONS = 32


def tokenizer(**others: object) -> PreTrainedTokenizerFast:
    """Each letter is a token; the text ends, and is padded, with number 0, as with GPT-2's tokenizer."""
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(VOCABULARY)}, unk_token="<unknown>"))
    words.pre_tokenizer = WhitespaceSplit()
    special = {"eos_token": "<end>", "pad_token": "<end>", "unk_token": "<unknown>", "model_max_length": POSITIONS, **others}
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def gpt2() -> GPT2LMHeadModel:
    special = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": END}
    sizes = {"vocab_size": len(VOCABULARY), "n_positions": POSITIONS, "n_embd": 16, "n_layer": 1, "n_head": 2}
    return GPT2LMHeadModel(
        GPT2Config(**sizes, **special, initializer_range=0.2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    )


def llama() -> LlamaForCausalLM:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(VOCABULARY), max_position_embeddings=POSITIONS, **sizes))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(3)
    gpt2().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> LanguageModelling:
    """A text that goes round, to learn by heart: in 7 letters, so that their places in a block do not tell them."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "train.txt").write_text("a b c d e f g " * 140)
    (folder / "validation.txt").write_text("c d e f g a b " * 10 + "c d e")
    (folder / "other.txt").write_text("g a b")
    validation = [str(folder / "validation.txt"), str(folder / "other.txt")]
    return LanguageModelling(train=str(folder / "train.txt"), validation=validation)


def words(text: str) -> list[int]:
    return [VOCABULARY.index(word) for word in text.split()]


tokens = st.lists(st.integers(0, 9), min_size=2, max_size=40)


@given(tokens, st.integers(2, 45))
@example([4, 5, 6], 2)
def test_blocks_hold_every_token_once_in_order(stream: list[int], length: int) -> None:
    cut = cut_blocks(np.array(stream), length)
    whole = np.concatenate(cut).tolist()
    assert whole == (stream[:-1] if len(stream) % length == 1 else stream)
    assert all(len(block) == length for block in cut[:-1])
    assert 2 <= len(cut[-1]) <= length


def test_documents_are_joined_by_the_end_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = ["a b", "c", "d <end>", "e f"]
    expected = "a b <end> c <end> d <end> e f"
    for at_once in (1, 2, 1000):
        monkeypatch.setattr(language, "DOCUMENTS_AT_ONCE", at_once)
        assert join_documents(documents, tokenizer()).tolist() == words(expected)
    assert join_documents(["a b", "c"], tokenizer(eos_token=None)).tolist() == words("a b c")
    begins = tokenizer()
    begins.backend_tokenizer.post_processor = TemplateProcessing(single="<begin> $A", special_tokens=[("<begin>", 10)])
    assert join_documents(["a", "b"], begins).tolist() == words("<begin> a <end> <begin> b")


def test_a_batch_is_padded_on_the_right_and_keeps_real_ends_of_text() -> None:
    batch = collate([{"input_ids": [4, END]}, {"input_ids": [5, END, 6, 7]}])
    assert batch["input_ids"][0].tolist() == [4, END, 0, 0]
    assert batch["labels"].tolist() == [[4, END, -100, -100], [5, END, 6, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


rows = st.lists(st.integers(2, 12), min_size=1, max_size=4)


@settings(max_examples=40)
@given(rows, st.integers(1, 12), st.sampled_from([torch.float32, torch.bfloat16]), st.integers(0, 1000))
def test_the_sums_are_those_of_a_plain_loop(lengths: list[int], at_once: int, kind: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    batch = collate([{"input_ids": torch.randint(0, 7, (length,))} for length in lengths])
    logits = (5 * torch.randn(len(lengths), max(lengths), 7)).to(kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "POSITIONS_AT_ONCE", at_once)
        found = negative_log_likelihood((logits, torch.zeros(1)), batch["labels"])
    for row, length in enumerate(lengths):
        wanted = batch["labels"][row, 1:length]
        loss = nn.functional.cross_entropy(logits[row, : length - 1].double(), wanted, reduction="sum")
        assert found[row].tolist() == pytest.approx([loss.item(), length - 1], rel=1e-5, abs=1e-5)
    assert found.dtype == torch.float32


def plain_perplexity(model: nn.Module, documents: list[str], length: int) -> float:
    """The slow, obvious reference: block by block, without padding."""
    stream = words(" <end> ".join(documents))
    total, number = 0.0, 0
    for start in range(0, len(stream), length):
        block = torch.tensor(stream[start : start + length])
        with torch.no_grad():
            logits = model(input_ids=block[None]).logits[0, :-1].double()
        total += nn.functional.cross_entropy(logits, block[1:], reduction="sum").item()
        number += len(block) - 1
    return math.exp(total / number)


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("side", ["left", "right"])
def test_perplexity_is_exact_whatever_the_batches(make: type[nn.Module], side: str, tmp_path: Path) -> None:
    model = make().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)  # far from uniform
    documents = ["a b c d e f g h a", "b b b", "h g f e d c b a <unknown> c"]
    expected = plain_perplexity(model, documents, 5)  # 24 tokens: the last block has 4
    taking = tokenizer(padding_side=side)
    prepared = LanguageModelling().prepare(None, {"": documents}, taking, 5)
    losses = set()
    for rows_at_once in (1, 2, 3, 8):
        arguments = training_arguments(tmp_path, per_device_eval_batch_size=rows_at_once)
        trainer = Trainer(
            model,
            arguments,
            data_collator=prepared.collator,
            eval_dataset=prepared.validation[""],
            compute_metrics=prepared.metrics,
            preprocess_logits_for_metrics=prepared.reduce,
        )
        figures = trainer.evaluate()
        assert figures["eval_perplexity"] == pytest.approx(expected, rel=1e-6)
        losses.add(round(figures["eval_loss"], 5))
    assert len(losses) > 1  # which is why perplexity is not made of the loss


def test_a_model_that_went_astray_has_no_finite_perplexity() -> None:
    for total, expected in ((1e6, math.inf), (math.nan, math.nan)):
        figures = language.perplexity(SimpleNamespace(predictions=np.array([[total, 2.0], [1.0, 2.0]])))
        assert figures["perplexity"] == pytest.approx(expected, nan_ok=True)


def documents_of(path: Path, **others: object) -> list[str]:
    return LanguageModelling(validation=str(path), **others).load_validation(())[""]


def test_reads_documents_from_every_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffa b\n\nc", encoding="utf-8")
    (tmp_path / "b.csv").write_text('text,other\n"d, e",1\n  ,2\nf,3\n')
    (tmp_path / "c.jsonl").write_text(json.dumps({"content": "g"}) + "\n")
    assert documents_of(tmp_path / "a.txt") == ["a b\n\nc"]
    assert documents_of(tmp_path / "b.csv") == ["d, e", "f"]
    assert documents_of(tmp_path / "c.jsonl", text="content") == ["g"]
    both = LanguageModelling(train=[str(tmp_path / "a.txt"), str(tmp_path / "b.csv")], validation=str(tmp_path / "a.txt"))
    assert both.load().train == ["a b\n\nc", "d, e", "f"]
    assert both.load().validation == {"": ["a b\n\nc"]}
    assert both.load().classes == ()


def test_reads_a_data_set_as_from_the_hub(tmp_path: Path) -> None:
    for split, rows_of_split in (("train", ["", "a b", " \n", "c"]), ("test", ["d"])):
        datasets.Dataset.from_dict({"text": rows_of_split}).to_parquet(tmp_path / f"{split}-0.parquet")
    read = LanguageModelling(dataset=str(tmp_path), validation_split="test").load()
    assert read.train == ["a b", "c"]
    assert read.validation == {"": ["d"]}


def test_trains_on_the_first_blocks(task: LanguageModelling) -> None:
    few = replace(task, max_train_samples=3)
    read = few.load()
    prepared = few.prepare(read.train, read.validation, tokenizer(), 8)
    text = words("a b c d e f g " * 4)
    assert [block["input_ids"] for block in prepared.train] == [text[:8], text[8:16], text[16:24]]
    assert len(prepared.validation[""]) == math.ceil((75 + 1 + 3) / 8)


WRONG = [
    ({}, "takes either files"),
    ({"train": "a.txt", "dataset": "b"}, "takes either files"),
    ({"train": "a.txt"}, "no validation file"),
    ({"train": [], "validation": "a.txt"}, "no train file"),
    ({"train": "none.txt", "validation": "a.txt"}, "none.txt could not be read: No such file"),
    ({"train": "bytes.txt", "validation": "a.txt"}, "bytes.txt is not text in UTF-8"),
    ({"train": "a.md", "validation": "a.txt"}, "A data file must end in .*, got a.md"),
    ({"train": "blank.txt", "validation": "a.txt"}, "train data holds no text"),
    ({"train": "a.csv", "validation": "a.txt"}, "a.csv has no column 'text'; did you mean 'texts'"),
    ({"train": "a.txt", "validation": "a.txt", "max_train_samples": 0}, "max_train_samples must be 1 or more, got 0"),
]


@pytest.mark.parametrize(("given_settings", "message"), WRONG)
def test_wrong_data_raises(
    given_settings: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (("a.txt", b"a b"), ("bytes.txt", b"\xff\xfe\xff"), ("blank.txt", b" \n"), ("a.csv", b"texts\na\n")):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match=message):
        LanguageModelling(**given_settings).load()


def test_an_unusable_length_or_text_raises() -> None:
    for length in (1, POSITIONS + 1):
        with pytest.raises(InvalidInputError, match=rf"max_length must be from 2 to 32, .* got {length}"):
            LanguageModelling().prepare(None, {"": ["a b c"]}, tokenizer(), length)
    with pytest.raises(InvalidInputError, match=r"The text must have 2 tokens or more, .* got 1"):
        LanguageModelling().prepare(None, {"": ["a"]}, tokenizer(), 8)


def recipe(model: Path, task: LanguageModelling, output: Path, **others: object) -> Recipe:
    arguments = training_arguments(
        output,
        num_train_epochs=3,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        eval_strategy="epoch",
        logging_steps=5,
    )
    return Recipe(str(model), task, arguments, pruning=config(density=0.5), max_length=16, **others)


@pytest.fixture(scope="module")
def run(pretrained: Path, task: LanguageModelling, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, training.Result]:
    wanted = recipe(pretrained, task, tmp_path_factory.mktemp("runs") / "movement")
    return wanted, training.train(wanted)


def test_training_lowers_perplexity(run: tuple[Recipe, training.Result], pretrained: Path) -> None:
    wanted, result = run
    before = training.evaluate(str(pretrained), wanted.task, 16, replace(wanted.training))
    assert tuple(result.metrics) == ("perplexity", "loss")
    assert before.metrics["perplexity"] > 8
    assert result.metrics["perplexity"] < 4
    assert result.inspection.density == 0.5
    facts = json.loads(Path(wanted.training.output_dir, "result.json").read_text())
    assert facts["headline"] == {"metric": "perplexity", "greater_is_better": False}


def test_the_saved_model_evaluates_to_the_same(run: tuple[Recipe, training.Result]) -> None:
    wanted, result = run
    folder = str(wanted.training.output_dir)
    again = training.evaluate(folder, wanted.task, 16, replace(wanted.training))
    assert again.metrics == pytest.approx(result.metrics, rel=1e-6)
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    documents = wanted.task.load_validation(())[""]
    assert again.metrics["perplexity"] == pytest.approx(plain_perplexity(model, documents, 16), rel=1e-6)


def test_a_teacher_teaches(
    run: tuple[Recipe, training.Result], pretrained: Path, task: LanguageModelling, tmp_path: Path
) -> None:
    wanted = recipe(pretrained, task, tmp_path / "taught", teacher=str(run[0].training.output_dir))
    result = training.train(wanted)
    assert any("loss_kd" in entry for entry in result.history)
    assert result.metrics["perplexity"] < 5
