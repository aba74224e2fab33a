"""Selects the rows of tokens in a model: in its table, its heads and its settings."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from ...errors import InvalidInputError, enumeration
from ...models.layers import own_buffer, own_parameter
from .tokenizer import IdPlaces

TOKEN_SETTINGS = ("_token_id", "_token_ids", "_token_index", "_to_id", "force_words_ids")
"""How the names of settings end that hold ids of tokens, alone, in lists or in mappings."""
PROHIBITIONS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids")
"""Settings that list tokens that a model must not write: those that are gone are left out."""
UNREADABLE = ("sequence_bias", "forced_decoder_ids", "vocab_size_per_layer_input")
"""Settings whose ids look like other numbers, or that mean a table of another form."""


def _parts(model: nn.Module) -> list[Any]:
    """Returns the modules of a model that are models of Transformers: itself, and an encoder or a decoder in it."""
    from transformers import PreTrainedModel

    return [module for module in model.modules() if isinstance(module, PreTrainedModel)]


def of_tokens(model: nn.Module) -> tuple[int, list[nn.Parameter]]:
    """Returns how many rows the table of tokens has, and the parameters with these rows: tables, heads and their biases.

    Raises InvalidInputError if there is no such table, several of different sizes, or one of a form that is not known.
    """
    tables, heads = [], []
    for part in _parts(model):
        with suppress(NotImplementedError, AttributeError):  # a part that sees images or sounds
            tables.append(part.get_input_embeddings())
        heads.append(part.get_output_embeddings())
    tables, heads = [m for m in tables if isinstance(m, nn.Embedding)], [m for m in heads if m is not None]
    if not tables:
        raise InvalidInputError(f"A {type(model).__name__} has no table with one row a token. Give a model that reads text.")
    strange = [
        m for m in (*tables, *heads) if not isinstance(m, nn.Embedding | nn.Linear) or own_parameter(m, "weight") is None
    ]
    if strange:
        kinds = enumeration(sorted({type(module).__name__ for module in strange}))
        raise InvalidInputError(f"A {type(model).__name__} scores its tokens with {kinds}, of which no rows can be taken.")
    rows = tables[0].weight.shape[0]
    around = [module for module in model.modules() if any(child in heads for child in module.children())]
    beside = [bias for module in around if (bias := own_parameter(module, "bias")) is not None and bias.shape == (rows,)]
    biases = [bias for head in heads if (bias := own_parameter(head, "bias")) is not None] + beside  # BERT's lie beside
    found = [*(module.get_parameter("weight") for module in (*tables, *heads)), *biases]
    known = {id(parameter): parameter for parameter in found}
    _check_clear(model, rows, known)
    return rows, list(known.values())


def _check_clear(model: nn.Module, rows: int, known: Mapping[int, nn.Parameter]) -> None:
    """Raises unless every table of tokens is known, and all have the number of rows that the config states."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    sizes = [f"{names[number]} ({len(parameter)})" for number, parameter in known.items()]
    if any(len(parameter) != rows for parameter in known.values()):
        raise InvalidInputError(f"The model has several vocabularies: {enumeration(sizes)}. Give one with a single one.")
    settings = _settings(model)
    if not any(getattr(setting, "vocab_size", None) == rows for setting in settings):
        raise InvalidInputError(f"No vocab_size in the config is the number of rows of {enumeration(sizes)}. Correct it.")
    unreadable = sorted({name for setting in settings for name in UNREADABLE if vars(setting).get(name)})
    if unreadable:
        raise InvalidInputError(
            f"The config sets {enumeration(unreadable)}, which cannot be rewritten. Unset it, if it can be missed."
        )
    others = {value for setting in settings for name, value in vars(setting).items() if name != "vocab_size" and _is_id(value)}
    alike = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding | nn.Linear) and len(module.weight) == rows and id(module.weight) not in known
    ]
    if alike and rows not in others:  # a setting of the same size explains them
        raise InvalidInputError(
            f"{enumeration(alike)} have {rows} rows, as the table of tokens, and the model does not say whether theirs are "
            "tokens too. Return the output head from get_output_embeddings."
        )


def _settings(model: nn.Module) -> list[Any]:
    """Returns each config in a model once: of its parts, those nested in them, and those for generation."""
    from transformers import PreTrainedConfig

    waiting = [part.config for part in _parts(model)]
    waiting += [part.generation_config for part in _parts(model) if vars(part).get("generation_config") is not None]
    found: dict[int, Any] = {}
    while waiting:
        config = waiting.pop()
        found[id(config)] = config
        waiting += [value for value in vars(config).values() if isinstance(value, PreTrainedConfig) and id(value) not in found]
    return list(found.values())


def _places(model: nn.Module) -> IdPlaces:
    """Returns where the configs and the modules of a model hold ids, each place once: two configs can share a list."""
    places = [place for config in _settings(model) for place in _places_in(vars(config))]
    for module in model.modules():
        for key in vars(module):
            if key == "padding_idx" or key.endswith(TOKEN_SETTINGS):
                places += _leaves(vars(module), key)
    return list({(id(container), key): (container, key) for container, key in places}.values())


def _places_in(settings: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    for key, value in settings.items():
        if str(key).endswith(TOKEN_SETTINGS):
            yield from _leaves(settings, key)
        elif isinstance(value, dict):
            yield from _places_in(value)


def _leaves(container: Any, key: Any) -> Iterator[tuple[Any, Any]]:
    value = container[key]
    if isinstance(value, tuple):
        value = container[key] = list(value)
    if isinstance(value, dict | list):
        for inner in value if isinstance(value, dict) else range(len(value)):
            yield from _leaves(value, inner)
    elif _is_id(value):
        yield container, key


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def named_ids(model: nn.Module, rows: int, parameters: list[nn.Parameter]) -> set[int]:
    """Returns the ids of rows that the model names: in its configs, and for padding.

    RoBERTa's family counts positions from behind the id of the padding, so there that id, and all before it, stay.
    """
    ids = {container[key] for container, key in _places(model)}
    known = {id(parameter) for parameter in parameters}
    for module in set(model.modules()).difference(_parts(model)):
        padding = vars(module).get("padding_idx")
        if padding is not None and id(own_parameter(module, "weight")) not in known:
            ids.update(range(padding + 1))
    return {number for number in ids if 0 <= number < rows}


def select_rows(model: nn.Module, rows: int, parameters: list[nn.Parameter], ids: Mapping[int, int]) -> None:
    """Keeps these rows in the parameters of a model, and renumbers the ids that it names."""
    kept = torch.tensor([old for old in ids if old < rows])
    chosen = {id(old): nn.Parameter(old.detach()[kept.to(old.device)], requires_grad=old.requires_grad) for old in parameters}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(parameter) in chosen:
                setattr(module, name, chosen[id(parameter)])
                size = {"num_embeddings": len(kept)} if isinstance(module, nn.Embedding) else {"out_features": len(kept)}
                vars(module).update({key: value for key, value in size.items() if key in vars(module)})
        bias = own_buffer(module, "final_logits_bias")
        if bias is not None and bias.shape[-1] == rows:  # of BART and its family
            module.final_logits_bias = bias[..., kept.to(bias.device)]
        if vars(module).get("vocab_size") == rows:
            vars(module)["vocab_size"] = len(kept)
    for container, key in _places(model):
        container[key] = ids.get(container[key], container[key])
    for settings in _settings(model):
        for name in ("vocab_size", "decoder_vocab_size"):  # Marian has both
            if getattr(settings, name, None) == rows:
                setattr(settings, name, len(kept))
        for name in PROHIBITIONS:
            if vars(settings).get(name):
                setattr(settings, name, _possible(vars(settings)[name], ids) or None)


def _possible(forbidden: list[Any], ids: Mapping[int, int]) -> list[Any]:
    """Returns those of the forbidden tokens, or sequences of tokens, that can still be written, renumbered."""
    sequences = [[entry] if _is_id(entry) else entry for entry in forbidden]
    left = [[ids[token] for token in entry] for entry in sequences if all(token in ids for token in entry)]
    return [entry[0] if _is_id(forbidden[0]) else entry for entry in left]
