"""Vocabulary selection: the same tokens and outputs on the corpus, with a smaller table; and what is refused."""

import argparse
import copy
import inspect
import json
import logging
import string
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, TokenizersBackend

from fineprune.apps.quickstart import minilm
from fineprune.compress import vocabulary
from fineprune.compress.vocabulary.select import select_vocabulary
from fineprune.errors import InvalidInputError

PLAIN = [
    sentence
    for module in (argparse, copy, inspect, json, logging, string)
    for _, thing in sorted(vars(module).items())
    if inspect.isroutine(thing) or inspect.isclass(thing)
    for sentence in (inspect.getdoc(thing) or "").split("\n\n")
    if sentence
]
"""A few hundred sentences."""

STRANGE = ["", " ", "naïve café", "日本語 and кириллица", "🙂🙃 a\tb\r\nc", "qqxzz" * 30, "A  B", "zz!?zz", "<pad>[SEP]</s> x"]
CORPUS = [*PLAIN[::16], *STRANGE]


@cache
def wordpiece() -> PreTrainedTokenizerBase:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return transformers.BertTokenizer(vocab=dict(_trained(models.WordPiece(unk_token="[UNK]"), special)["vocab"]))


@cache
def gpt2() -> PreTrainedTokenizerBase:
    model = _trained(models.BPE(), ["<|endoftext|>"], pre_tokenizers.ByteLevel(add_prefix_space=False))
    return transformers.GPT2Tokenizer(**_bpe(model), pad_token="<|endoftext|>")


@cache
def roberta() -> PreTrainedTokenizerBase:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    return transformers.RobertaTokenizer(**_bpe(_trained(models.BPE(), special, pre_tokenizers.ByteLevel())))


@cache
def llama() -> PreTrainedTokenizerBase:
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    model = _trained(models.BPE(), special, pre_tokenizers.Metaspace())
    return transformers.LlamaTokenizer(**_bpe(model), add_bos_token=True, pad_token="</s>")


@cache
def t5() -> PreTrainedTokenizerBase:
    model = _trained(models.Unigram(), ["<pad>", "</s>", "<unk>"], pre_tokenizers.Metaspace())
    return transformers.T5Tokenizer(vocab=[tuple(piece) for piece in model["vocab"]], extra_ids=5)


@cache
def xlm_roberta() -> PreTrainedTokenizerBase:
    model = _trained(models.Unigram(), ["<s>", "<pad>", "</s>", "<unk>"], pre_tokenizers.Metaspace())
    return transformers.XLMRobertaTokenizer(vocab=[tuple(piece) for piece in model["vocab"]])


@cache
def word_level() -> PreTrainedTokenizerBase:
    """Words, with BertProcessing inside a Sequence, and an added token that is not special."""
    backend = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.train_from_iterator(PLAIN, trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"]))
    ends = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), ends])
    tokenizer = TokenizersBackend(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", bos_token=None, eos_token=None
    )
    tokenizer.add_tokens(["new word"])
    return tokenizer


@cache
def suffixed() -> PreTrainedTokenizerBase:
    """BPE that marks the ends of words, and knows no bytes."""
    backend = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["[UNK]", "[PAD]"], end_of_word_suffix="</w>")
    backend.train_from_iterator(PLAIN, trainer)
    return TokenizersBackend(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", bos_token=None, eos_token=None)


@cache
def prefixed() -> PreTrainedTokenizerBase:
    """BPE that marks what goes on inside a word, and lowers case."""
    backend = Tokenizer(models.BPE(unk_token="[UNK]", continuing_subword_prefix="##", fuse_unk=True))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["[UNK]", "[PAD]"], continuing_subword_prefix="##")
    backend.train_from_iterator(PLAIN, trainer)
    return TokenizersBackend(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", bos_token=None, eos_token=None)


def _trained(
    model: models.Model, special: list[str], steps: pre_tokenizers.PreTokenizer | None = None, size: int = 1500
) -> dict:
    """Returns the model of a tokenizer trained on all sentences, as its JSON."""
    backend = Tokenizer(model)
    backend.pre_tokenizer = steps or pre_tokenizers.BertPreTokenizer()
    if isinstance(model, models.WordPiece):
        backend.normalizer = normalizers.BertNormalizer()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if isinstance(steps, pre_tokenizers.ByteLevel) else []
    kind = {
        models.BPE: trainers.BpeTrainer,
        models.Unigram: trainers.UnigramTrainer,
        models.WordPiece: trainers.WordPieceTrainer,
    }
    more = {"unk_token": "<unk>"} if isinstance(model, models.Unigram) else {}
    trainer = kind[type(model)](vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False, **more)
    backend.train_from_iterator(PLAIN, trainer)
    return json.loads(backend.to_str())["model"]


def _bpe(model: dict) -> dict:
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


KINDS = [wordpiece, gpt2, roberta, llama, t5, xlm_roberta, word_level, suffixed, prefixed]

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
SEQ2SEQ = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
BART = SEQ2SEQ | {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 600}
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 1000}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}

MODELS: dict[str, tuple[Callable[[], PreTrainedTokenizerBase], str, str, dict]] = {
    "bert, classes": (wordpiece, "bert", "AutoModelForSequenceClassification", SIZES),
    "bert, masked": (wordpiece, "bert", "AutoModelForMaskedLM", SIZES),
    "bert, masked, apart": (wordpiece, "bert", "AutoModelForMaskedLM", SIZES | {"tie_word_embeddings": False}),
    "electra": (wordpiece, "electra", "AutoModelForMaskedLM", SIZES),
    "roberta": (roberta, "roberta", "AutoModelForMaskedLM", SIZES | {"max_position_embeddings": 600}),
    "xlm-roberta": (xlm_roberta, "xlm-roberta", "AutoModelForTokenClassification", SIZES | {"max_position_embeddings": 600}),
    "gpt2": (gpt2, "gpt2", "AutoModelForCausalLM", GPT2),
    "llama": (llama, "llama", "AutoModelForCausalLM", SIZES),
    "qwen3": (
        gpt2,
        "qwen3",
        "AutoModelForCausalLM",
        SIZES | {"num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": True},
    ),
    "t5": (t5, "t5", "AutoModelForSeq2SeqLM", T5),
    "t5, apart": (t5, "t5", "AutoModelForSeq2SeqLM", T5 | {"tie_word_embeddings": False}),
    "bart": (roberta, "bart", "AutoModelForSeq2SeqLM", BART),
}
"""Name -> the tokenizer, the type, the class that loads it, and settings."""


def build(name: str, more_rows: int = 3, **changes: object) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Returns a random model, whose table has a few rows too many, and its tokenizer."""
    make, kind, head, sizes = MODELS[name]
    tokenizer = copy.deepcopy(make())
    special = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("pad", "bos", "eos", "cls", "sep")}
    special |= {"decoder_start_token_id": tokenizer.pad_token_id} if kind in ("t5", "bart") else {}
    config = transformers.AutoConfig.for_model(kind, vocab_size=len(tokenizer) + more_rows, **special, **{**sizes, **changes})
    model = getattr(transformers, head).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
        for module in model.modules():
            if "final_logits_bias" in module._buffers:
                module.final_logits_bias.normal_()
    return model, tokenizer


def encodings(tokenizer: PreTrainedTokenizerBase, texts: list) -> list[dict]:
    """Returns all that an encoding holds but the ids, of which it holds the tokens."""
    whole = {"return_offsets_mapping": True, "return_token_type_ids": True, "return_special_tokens_mask": True}
    found = []
    for text in texts:
        encoding = dict(tokenizer(*text, **whole) if isinstance(text, tuple) else tokenizer(text, **whole))
        found.append({**encoding, "input_ids": tokenizer.convert_ids_to_tokens(encoding["input_ids"])})
    return found


def outputs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> torch.Tensor:
    batch = tokenizer(texts, padding=True, truncation=True, max_length=60, return_tensors="pt")
    if model.config.is_encoder_decoder:
        batch["labels"] = batch["input_ids"]
    with torch.no_grad():
        found = model(**batch)
    return found.last_hidden_state if "last_hidden_state" in found else found.logits


def assert_same(old: tuple, new: tuple, texts: list[str]) -> None:
    """Raises unless tokens and outputs are the same; of logits over the vocabulary, those of the kept tokens."""
    assert encodings(new[1], texts) == encodings(old[1], texts)
    before, after = outputs(*old, texts[-30:]), outputs(*new, texts[-30:])
    if after.shape != before.shape:
        names = new[1].convert_ids_to_tokens(range(after.shape[-1]))
        before = before[..., [old[1].get_vocab()[name] for name in names]]
    torch.testing.assert_close(after, before)


def reloaded(folder: Path, head: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    loaded, report = getattr(transformers, head).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return loaded.eval(), AutoTokenizer.from_pretrained(folder)


# The tokenizer.


def selected(tokenizer: PreTrainedTokenizerBase, texts: list) -> PreTrainedTokenizerBase:
    """Returns the new tokenizer, selected beside a model of the least size."""
    config = transformers.BertConfig(vocab_size=len(tokenizer), **SIZES, pad_token_id=None)
    with torch.device("meta"):
        model = transformers.BertModel(config)
    return select_vocabulary(model, tokenizer, texts)[1]


@pytest.mark.parametrize("make", KINDS)
def test_the_corpus_has_the_same_tokens_and_a_second_selection_changes_nothing(make: Callable, tmp_path: Path) -> None:
    old = make()
    before = (old.backend_tokenizer.to_str(), encodings(old, CORPUS))
    new = selected(old, iter(CORPUS))
    assert type(new) is type(old)
    assert len(new) < 0.9 * len(old)
    assert encodings(new, CORPUS) == before[1]
    assert (old.backend_tokenizer.to_str(), encodings(old, CORPUS)) == before
    assert [new.decode(new(text)["input_ids"]) for text in CORPUS] == [old.decode(old(text)["input_ids"]) for text in CORPUS]
    assert sorted(new.get_vocab().values()) == list(range(len(new)))
    kept = sorted(new.get_vocab(), key=new.get_vocab().__getitem__)
    assert kept == sorted(kept, key=old.get_vocab().__getitem__), "the order is another"
    assert selected(new, CORPUS).backend_tokenizer.to_str() == new.backend_tokenizer.to_str()
    new.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert encodings(again, CORPUS) == before[1]
    assert again.get_vocab() == new.get_vocab()


@pytest.mark.parametrize("make", KINDS)
def test_any_text_of_any_corpus_has_the_same_tokens(make: Callable) -> None:
    words = st.sampled_from([word for sentence in PLAIN for word in sentence.split()])
    pieces = (
        words
        | st.text(alphabet="aenrst'-Z\u00e9\u4e2d\U0001f642 ", max_size=8)
        | st.sampled_from(["[UNK]", "</s>", "new word"])
    )
    text = st.lists(pieces, max_size=6).map(lambda parts: " ".join(parts)) | st.lists(pieces, max_size=3).map("".join)
    old = make()

    @settings(max_examples=20, deadline=None, derandomize=True, database=None)
    @given(st.lists(text | st.tuples(text, text), min_size=1, max_size=8))
    def check(texts: list) -> None:
        texts = [*texts, "some text"]
        assert encodings(selected(old, texts), texts) == encodings(old, texts)

    check()


@pytest.mark.parametrize("make", [gpt2, roberta, llama])
def test_bytes_stay_so_that_any_text_can_still_be_written(make: Callable) -> None:
    old = make()
    new = selected(old, ["the"])
    for text in STRANGE[:-1]:
        ids = new(text)["input_ids"]
        assert new.decode(ids, skip_special_tokens=True) == old.decode(old(text)["input_ids"], skip_special_tokens=True)
        assert old.unk_token_id is None or old.unk_token == old.pad_token or new.unk_token_id not in ids


def bert_of(*pieces: str) -> PreTrainedTokenizerBase:
    return transformers.BertTokenizer(
        vocab={piece: number for number, piece in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces))}
    )


@pytest.mark.parametrize("text", ["abc", "[UNK]abc[MASK]", "a[UNK]", ("a", "abc")])
def test_an_unknown_word_stays_unknown_though_a_shorter_piece_would_lead_further(text: object) -> None:
    old = bert_of("a", "x", "ab", "##bc", "zz")
    new = selected(old, ["a", "xbc", text])
    assert encodings(new, [text, "xbc"]) == encodings(old, [text, "xbc"])
    assert "zz" not in new.get_vocab()
    assert ("ab" in new.get_vocab()) == ("abc" in text)


@pytest.mark.parametrize("text", ["zz[UNK]abc", "zz[MASK]abc", "zz abc"])
def test_unknown_words_beside_tokens_that_are_written_out(text: str) -> None:
    """Only blanks part the words, so a token that is written out inside one is what parts it."""
    old = copy.deepcopy(bert_of("a", "x", "ab", "##bc", "zz"))
    old.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    new = selected(old, ["a", "xbc", text])
    assert encodings(new, [text]) == encodings(old, [text])
    assert "ab" in new.get_vocab()


def test_the_parts_of_a_token_stay_with_all_its_merges() -> None:
    """Without "ab", which is in no encoding, "abc" could not be built, and without ("b", "c") it would have another tree."""
    vocab = ["[UNK]", "a", "b", "c", "d", "ab", "bc", "abc", "ad"]
    merges = [("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc"), ("a", "d")]
    backend = Tokenizer(models.BPE({token: number for number, token in enumerate(vocab)}, merges, unk_token="[UNK]"))
    old = TokenizersBackend(tokenizer_object=backend, unk_token="[UNK]", bos_token=None, eos_token=None)
    new = selected(old, ["abc"])
    assert set(new.get_vocab()) == {"[UNK]", "a", "b", "c", "ab", "bc", "abc"}
    assert json.loads(new.backend_tokenizer.to_str())["model"]["merges"] == [list(pair) for pair in merges[:4]]
    assert new.tokenize("abc") == ["abc"]


def test_the_worst_piece_of_unigram_stays_since_the_unknown_is_priced_by_it() -> None:
    score = -3.6959690309388957  # the reader of JSON makes ...896 of it
    pieces = dict.fromkeys(("<s>", "<pad>", "</s>", "<unk>"), 0.0) | {"\u2581": -2.0, "a": score, "worst": -90.0, "z": -5.0}
    new = selected(transformers.XLMRobertaTokenizer(vocab=list(pieces.items())), ["a"])
    assert {"worst", "a"} <= new.get_vocab().keys()
    assert ["a", score] in json.loads(new.backend_tokenizer.to_str())["model"]["vocab"]
    assert "z" not in new.get_vocab()


def test_the_unknown_token_keeps_a_place_that_its_class_states() -> None:
    pieces = [
        ("<s>", 0.0),
        ("<pad>", 0.0),
        ("odd", -9.0),
        ("<unk>", 0.0),
        ("</s>", 0.0),
        ("\u2581", -2.0),
        ("a", -1.0),
        ("z", -99.0),
    ]
    old = transformers.XLMRobertaTokenizer(vocab=pieces)
    new = selected(old, ["a b a"])
    assert new.unk_token_id == old.unk_token_id == 3
    assert encodings(new, ["a b a"]) == encodings(old, ["a b a"])


def test_special_tokens_are_split_where_the_tokenizer_splits_them() -> None:
    old = copy.deepcopy(wordpiece())
    old.backend_tokenizer.encode_special_tokens = old.split_special_tokens = True
    new = selected(old, ["[MASK] a"])
    assert new.split_special_tokens
    assert new.backend_tokenizer.encode_special_tokens
    assert encodings(new, ["[MASK] a"]) == encodings(old, ["[MASK] a"])
    assert new.mask_token_id not in new("[MASK] a")["input_ids"]


def test_texts_count_in_full_length_whatever_truncation_is_set() -> None:
    old = copy.deepcopy(wordpiece())
    old.backend_tokenizer.enable_truncation(4)
    old.backend_tokenizer.enable_padding(length=9)
    new = selected(old, PLAIN[:20])
    assert new.backend_tokenizer.truncation["max_length"] == old.backend_tokenizer.truncation["max_length"] == 4
    assert new.backend_tokenizer.padding["length"] == old.backend_tokenizer.padding["length"] == 9
    assert encodings(new, PLAIN[:20]) == encodings(old, PLAIN[:20])


def test_a_tokenizer_keeps_its_settings() -> None:
    old = copy.deepcopy(roberta())
    old.padding_side, old.truncation_side, old.model_max_length = "left", "left", 77
    old.chat_template = "{{ messages }}"
    old.add_special_tokens({"additional_special_tokens": ["<extra>"]})
    new = selected(old, CORPUS)
    for name in ("padding_side", "truncation_side", "model_max_length", "chat_template", "name_or_path", "special_tokens_map"):
        assert getattr(new, name) == getattr(old, name), name
    assert new.model_input_names == old.model_input_names
    assert new.all_special_tokens == old.all_special_tokens
    assert new.convert_ids_to_tokens(new.all_special_ids) == old.convert_ids_to_tokens(old.all_special_ids)


# The model.


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_the_same_now_and_after_plain_loading(name: str, tmp_path: Path) -> None:
    old = build(name)
    frozen = old[0].get_input_embeddings().weight.requires_grad_(False)
    before = {key: value.clone() for key, value in old[0].state_dict().items()}
    new = select_vocabulary(*old, iter(CORPUS))
    assert type(new[0]) is type(old[0])
    assert not new[0].get_input_embeddings().weight.requires_grad
    assert not frozen.requires_grad
    assert old[0].state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in old[0].state_dict().items())
    assert len(new[1]) == new[0].config.vocab_size == new[0].get_input_embeddings().num_embeddings < len(old[1])
    assert [len(names) for names in shared(new[0])] == [len(names) for names in shared(old[0])]
    assert_same(old, new, CORPUS)
    assert_same(old, reloaded(tmp_path, MODELS[name][2], *new), CORPUS)
    again = select_vocabulary(*new, CORPUS)
    assert all(torch.equal(value, new[0].state_dict()[key]) for key, value in again[0].state_dict().items())
    assert again[0].config.to_dict() == new[0].config.to_dict()


def shared(model: nn.Module) -> list[set[str]]:
    """Returns the names of each parameter that has several."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return [several for several in names.values() if len(several) > 1]


def test_minilm_keeps_its_outputs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = minilm.folder()
    old = transformers.AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    caplog.set_level(logging.INFO, vocabulary.__name__)
    new = select_vocabulary(*old, CORPUS)
    rows = new[0].config.vocab_size
    assert rows < 3000
    assert caplog.messages == [f"Kept {rows} of 30522 tokens: {(30522 - rows) * 384} parameters fewer."]
    assert_same(old, new, CORPUS)
    assert_same(old, reloaded(tmp_path, "AutoModel", *new), CORPUS)
    assert select_vocabulary(*new, CORPUS)[0].config.vocab_size == rows


def test_a_decoder_writes_the_same_text() -> None:
    old = build("gpt2", more_rows=0)
    old[0].generation_config.suppress_tokens = [old[1].get_vocab()[token] for token in ("\u0120the", "\u0120object")]
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": None}

    def written(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        ids = model.generate(**tokenizer("A class that", return_tensors="pt"), **settings)[0]
        return tokenizer.convert_ids_to_tokens(ids)

    tokens = written(*old)
    new = select_vocabulary(*old, [old[1].convert_tokens_to_string([token]) for token in tokens])
    assert set(tokens) <= new[1].get_vocab().keys()
    assert "\u0120object" not in new[1].get_vocab()
    assert written(*new) == tokens
    assert len(new[1]) < 0.5 * len(old[1])


def test_ids_in_the_configs_are_renumbered_and_their_tokens_stay() -> None:
    model, tokenizer = build("bart")
    word, gone = (tokenizer.get_vocab()[token] for token in ("\u0120argument", "\u0120class"))
    model.config.forced_bos_token_id = word
    model.config.task_specific_params = {"summary": {"eos_token_id": (word, 2), "max_length": word}}
    generation = model.generation_config
    generation.eos_token_id = model.config.eos_token_id = [tokenizer.eos_token_id, word]
    generation.suppress_tokens, generation.begin_suppress_tokens = [word, gone, -1], [gone]
    generation.bad_words_ids = [[word, word], [word, gone]]
    model.config.sep_token_id = 50265
    new, small = select_vocabulary(model, tokenizer, ["x"])
    place = small.get_vocab()["\u0120argument"]
    assert "\u0120class" not in small.get_vocab()
    assert place < word
    assert new.config.forced_bos_token_id == place
    assert new.config.task_specific_params == {"summary": {"eos_token_id": [place, 2], "max_length": word}}
    assert new.config.eos_token_id == new.generation_config.eos_token_id == [small.eos_token_id, place]
    assert new.generation_config.suppress_tokens == [place]
    assert new.generation_config.begin_suppress_tokens is None
    assert new.generation_config.bad_words_ids == [[place, place]]
    assert new.config.sep_token_id == 50265, "an id that names no row stays"
    assert model.config.eos_token_id == [tokenizer.eos_token_id, word]
    assert generation.suppress_tokens == [word, gone, -1]


def test_padding_from_which_positions_count_keeps_its_id() -> None:
    """RoBERTa whose padding is the last token but a few: the tokens before it must stay, or every position moves."""
    tokenizer = copy.deepcopy(gpt2())
    tokenizer.add_special_tokens({"pad_token": "\u0120argument"})
    place = tokenizer.pad_token_id
    assert place > 300, "the bytes stay anyhow"
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer), **SIZES, pad_token_id=place, max_position_embeddings=place + 200, initializer_range=0.3
    )
    old = transformers.RobertaModel(config).eval(), tokenizer
    new = select_vocabulary(*old, CORPUS)
    assert new[1].pad_token_id == new[0].config.pad_token_id == place
    assert len(new[1]) < len(tokenizer)
    assert_same(old, new, CORPUS)


def test_ids_and_sizes_that_modules_remember_are_renumbered() -> None:
    tokenizer = copy.deepcopy(gpt2())
    tokenizer.pad_token, tokenizer.sep_token = "\u0120argument", "\u0120class"
    special = {"pad_token_id": tokenizer.pad_token_id, "sep_token_id": tokenizer.sep_token_id}
    for kind, head in (("big_bird", "QuestionAnswering"), ("qwen2", "CausalLM")):
        config = transformers.AutoConfig.for_model(kind, vocab_size=len(tokenizer), **SIZES, num_key_value_heads=2, **special)
        old = getattr(transformers, f"AutoModelFor{head}").from_config(config)
        new, small = select_vocabulary(old, tokenizer, ["x"])
        assert small.pad_token_id == new.config.pad_token_id < tokenizer.pad_token_id
        assert small.convert_ids_to_tokens(new.get_input_embeddings().padding_idx) == "\u0120argument"
        assert small.convert_ids_to_tokens(vars(new).get("sep_token_id", small.sep_token_id)) == "\u0120class"
        assert {vars(module).get("vocab_size", len(small)) for module in new.modules()} == {len(small)}


def test_both_sizes_of_a_model_that_states_two_are_changed() -> None:
    config = transformers.MarianConfig(**BART, vocab_size=len(wordpiece()), pad_token_id=0, decoder_start_token_id=0)
    new = select_vocabulary(transformers.MarianMTModel(config), wordpiece(), CORPUS)
    assert new[0].config.vocab_size == new[0].config.decoder_vocab_size == len(new[1])


def test_a_word_too_long_to_be_tried_keeps_no_pieces() -> None:
    assert "##q" not in selected(bert_of("q", "##q", "a"), ["a", "q" * 101]).get_vocab()
    assert "##q" in selected(bert_of("q", "##q", "a"), ["a", "q" * 100]).get_vocab()


def test_a_token_that_is_special_in_name_only_stays() -> None:
    old = copy.deepcopy(gpt2())
    old.mask_token = "\u0120argument"
    assert selected(old, ["x"]).mask_token_id is not None
    assert "\u0120argument" in selected(old, ["x"]).get_vocab()


def test_modules_stay_with_their_hooks_and_a_table_of_fewer_columns_with_its_columns() -> None:
    old = build("bert, classes")
    table = old[0].get_input_embeddings()
    table.weight = nn.Parameter(table.weight[:, :10].detach().to(torch.bfloat16).clone())
    table.register_forward_hook(widen)
    new = select_vocabulary(*old, CORPUS)
    assert new[0].get_input_embeddings().weight.shape == (len(new[1]), 10)
    assert new[0].get_input_embeddings().weight.dtype == torch.bfloat16
    assert_same(old, new, CORPUS)


def widen(module: nn.Module, arguments: tuple, output: torch.Tensor) -> torch.Tensor:
    return nn.functional.pad(output.float(), (0, 6))


# What is refused.


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("some text", r"The texts are of the type str; give a list of str"),
        ({"text": "a"}, r"The texts are of the type dict; give a list"),
        (7, r"The texts are of the type int; give a list"),
        (["a", b"b"], r"Text 1 is of the type bytes: b'b'\. Give a str, or a pair"),
        ([("a", "b", "c")], r"Text 0 is of the type tuple"),
        (["a", "b\ud800"], r"Text 1 holds half of a surrogate pair"),
        ([], r"The texts hold no token but special ones"),
        (iter(["", "[MASK]"]), r"The texts hold no token but special ones"),
    ],
)
def test_other_texts_are_refused(texts: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        select_vocabulary(*build("bert, classes"), texts)


def test_other_tokenizers_are_refused() -> None:
    model, tokenizer = build("gpt2")
    slow = transformers.ByT5Tokenizer()
    with pytest.raises(InvalidInputError, match=r"The tokenizer is a ByT5Tokenizer; give a fast one"):
        select_vocabulary(model, slow, CORPUS)
    with pytest.raises(InvalidInputError, match=r"The tokenizer is a Tokenizer; give a fast one"):
        select_vocabulary(model, tokenizer.backend_tokenizer, CORPUS)
    tokenizer.backend_tokenizer.model.dropout = 0.1
    with pytest.raises(InvalidInputError, match=r"drops merges at random.*Set its dropout to None"):
        select_vocabulary(model, tokenizer, CORPUS)


def test_a_tokenizer_that_its_class_loads_otherwise_is_refused() -> None:
    pieces = [("<pad>", 0.0), ("<s>", 0.0), ("<unk>", 0.0), ("</s>", 0.0), ("a", -1.0), ("b", -2.0), ("\u2581", -2.0)]
    tokenizer = transformers.XLMRobertaTokenizer(vocab=pieces)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["unk_id"] = 2
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    with pytest.raises(InvalidInputError, match=r"that its class loads from its own files differs"):
        selected(tokenizer, ["a"])


def test_other_models_are_refused() -> None:
    model, tokenizer = build("bert, classes")
    with pytest.raises(InvalidInputError, match=r"The model is a Linear; give a PreTrainedModel"):
        select_vocabulary(nn.Linear(2, 2), tokenizer, CORPUS)
    image = transformers.ViTModel(transformers.ViTConfig(**SIZES, image_size=8, patch_size=4))
    with pytest.raises(InvalidInputError, match=r"A ViTModel has no table with one row a token"):
        select_vocabulary(image, tokenizer, CORPUS)
    model.resize_token_embeddings(40)
    with pytest.raises(InvalidInputError, match=r"use the token '.*' with the id \d+, and the model's table has 40 rows"):
        select_vocabulary(model, tokenizer, CORPUS)
    model.config.vocab_size = 41
    with pytest.raises(InvalidInputError, match=r"No vocab_size in the config is the number of rows of .*weight \(40\)"):
        select_vocabulary(model, tokenizer, CORPUS)


def test_other_heads_are_refused() -> None:
    model, tokenizer = build("bert, masked")
    odd = copy.deepcopy(model)
    odd.set_output_embeddings(nn.Linear(16, 50))
    with pytest.raises(
        InvalidInputError, match=r"several vocabularies: .*word_embeddings\.weight \(\d+\).*decoder\.weight \(50\)"
    ):
        select_vocabulary(odd, tokenizer, CORPUS)
    odd.cls.predictions.decoder = nn.AdaptiveLogSoftmaxWithLoss(16, len(tokenizer), [20])
    with pytest.raises(InvalidInputError, match=r"scores its tokens with AdaptiveLogSoftmaxWithLoss, of which no rows"):
        select_vocabulary(odd, tokenizer, CORPUS)
    model.second = nn.Linear(16, model.config.vocab_size)
    with pytest.raises(InvalidInputError, match=r"second have \d+ rows, as the table of tokens"):
        select_vocabulary(model, tokenizer, CORPUS)
    model.generation_config = transformers.GenerationConfig(sequence_bias=[[[5], 1.0]])
    with pytest.raises(InvalidInputError, match=r"The config sets sequence_bias, which cannot be rewritten"):
        select_vocabulary(model, tokenizer, CORPUS)


def test_a_second_vocabulary_is_refused() -> None:
    sizes = SIZES | {"is_decoder": True, "add_cross_attention": True}
    encoder, decoder = transformers.BertConfig(**SIZES, vocab_size=800), transformers.BertConfig(**sizes, vocab_size=900)
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    with pytest.raises(InvalidInputError, match=r"several vocabularies"):
        select_vocabulary(transformers.EncoderDecoderModel(config), wordpiece(), CORPUS)
