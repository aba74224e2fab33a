"""Imports checkpoints of the paper's released code, with `mask_scores` beside the weights, as plain pruned models.

That code (`examples/research_projects/movement-pruning` of Transformers: `masked_nn.py`, `binarizer.py` and
`bertarize.py`) masked the weights in every forward pass, so its checkpoints load only with it. Its names for the
methods are kept as they are, `sigmoied_threshold` too.
"""

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ...errors import InvalidInputError, enumeration, is_number, nearest
from ...files import check_free, check_safetensors, new_folder
from ...selection.scopes import keep_local
from ...selection.topk import keep_highest
from ..training import model_card
from .shrink import BESIDE

SAFE, PICKLED, CONFIG = "model.safetensors", "pytorch_model.bin", "config.json"

MASKED_BERT_SETTINGS = ("pruning_method", "mask_init", "mask_scale")
"""Settings that a masked BERT's config has, and a BERT's has not."""

MATRIX = re.compile(r"(.+\.)?encoder\.layer\.\d+\..+\.weight")
"""The names of weights inside the blocks. Those with two dimensions are the linear layers."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class PrunebertMethod:
    """The mask of one matrix by a method of that code.

    Args:
        gate: (scores, threshold) -> True where kept; for L0 a gate from 0 to 1. For magnitude the scores are the weights.
        threshold: describes the threshold and its range; empty for a method without one, which gets 0.
        allows: whether a threshold is in this range.
        scored: whether a `mask_scores` lies beside each weight.
    """

    gate: Callable[[Tensor, float], Tensor]
    threshold: str = ""
    allows: Callable[[float], bool] = lambda _: True
    scored: bool = True


def _highest(scores: Tensor, density: float) -> Tensor:
    """Keeps the floor(density * n) highest. Of equal scores, among which that code chose at random, the lower index."""
    return keep_local([scores], [1], density)[0]


def _above(values: Tensor, cut: float, scores: Tensor) -> Tensor:
    """Keeps those above the cut, but at least the floor(0.005 * n) + 1 with the highest scores."""
    mask = values > cut
    least = math.floor(0.005 * scores.numel()) + 1
    return mask if int(mask.sum()) >= least else keep_highest([scores], [1], least)[0]


def _hard_concrete(scores: Tensor, _: float) -> Tensor:
    """Returns the gate without noise, clamp(sigmoid(S) * (r - l) + l, 0, 1) with l = -0.1 and r = 1.1."""
    low, high = -0.1, 1.1
    return (torch.sigmoid(scores) * (high - low) + low).clamp(0.0, 1.0)


DENSITY = "the fraction of the weights kept, above 0 and at most 1, so 0.15 for 15 %"
CUT = "the cut above which a score is kept, any finite number"
TAU = "the cut tau above which sigmoid(score) is kept, from 0 to below 1, 0.1 in the paper"

METHODS = {
    "magnitude": PrunebertMethod(lambda W, v: _highest(W.abs(), v), DENSITY, lambda v: 0 < v <= 1, scored=False),
    "topK": PrunebertMethod(_highest, DENSITY, lambda v: 0 < v <= 1),
    "threshold": PrunebertMethod(lambda S, cut: _above(S, cut, S), CUT),
    "sigmoied_threshold": PrunebertMethod(lambda S, tau: _above(torch.sigmoid(S), tau, S), TAU, lambda tau: 0 <= tau < 1),
    "l0": PrunebertMethod(_hard_concrete),
}


def convert(source: str | Path, target: str | Path, method: str | None = None, threshold: float | None = None) -> None:
    """Turns a checkpoint of the paper's released code into a plain pruned BERT.

    Reads `config.json` and `model.safetensors` or, where there is none, the tensors of `pytorch_model.bin`, without
    running code. Writes `model.safetensors`, `config.json`, a model card and the tokenizer's files, all or nothing.

    Args:
        source: folder of the old checkpoint.
        target: new folder for the plain one.
        method: that code's name of the method: magnitude, topK, threshold, sigmoied_threshold or l0. None: as
            config.json says.
        threshold: the final_threshold of the run, which its config does not say. For magnitude and topK the fraction of
            the weights kept, for threshold the cut on the scores, for sigmoied_threshold the cut on their sigmoid; l0 has
            none.

    Raises:
        InvalidInputError: if the target is occupied, or the checkpoint, the method and the threshold do not fit together;
            before anything is written.
        FileError: if the new folder cannot be written; nothing of it is left then.
    """
    source, target = Path(source), Path(target)
    check_free(target)
    config = _read_config(source)
    method = _method_name(config, method, source)
    weights = _renamed(apply_masks(_read_weights(source), method, threshold))
    plain = _bert_config(config, source)
    density = sum(int(tensor.count_nonzero()) for tensor in weights.values()) / sum(t.numel() for t in weights.values())
    head = (plain.get("architectures") or ["AutoModel"])[0]
    card = model_card.imported(target.resolve().name, head, method, threshold, density)
    with new_folder(target) as temporary:
        safetensors.torch.save_file(weights, temporary / SAFE, metadata={"format": "pt"})
        (temporary / CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (temporary / model_card.FILE).write_text(card, encoding="utf-8")
        for name in BESIDE:
            if (source / name).is_file():
                shutil.copyfile(source / name, temporary / name)


def apply_masks(weights: Mapping[str, Tensor], method: str, threshold: float | None = None) -> dict[str, Tensor]:
    """Multiplies the weights of an old state dict by their masks, W' = W * M, and leaves the scores out.

    Args:
        weights: the state dict: `X.weight`, and `X.mask_scores` of the same shape beside each matrix of the blocks. For
            magnitude there are no scores: the matrices of `encoder.layer` are pruned.
        method, threshold: as in `convert`.

    Returns:
        New tensors by their old names; a pruned weight is +0.0.

    Raises:
        InvalidInputError: for an unknown method, a threshold out of range, missing scores or scores of another shape, NaN,
            and a matrix that would keep nothing.
    """
    if method not in METHODS:
        raise InvalidInputError(f"There is no old method {method!r}; {nearest(method, METHODS)}")
    chosen = METHODS[method]
    value = _checked_threshold(method, chosen, threshold)
    scores = _scores_by_weight(weights, method)
    plain = {}
    for name, tensor in weights.items():
        if name in scores:
            plain[name] = _masked(name, tensor, scores[name], weights[scores[name]], chosen, value)
        elif not _is_score(name):
            plain[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    return plain


def _checked_threshold(name: str, method: PrunebertMethod, threshold: float | None) -> float:
    if not method.threshold:
        if threshold is not None:
            raise InvalidInputError(f"{name} has no threshold, got {threshold!r}. Leave it out.")
        return 0.0
    if threshold is None:
        raise InvalidInputError(f"{name} needs a threshold: {method.threshold}. Give the run's final_threshold.")
    if not is_number(threshold) or not math.isfinite(threshold) or not method.allows(threshold):
        raise InvalidInputError(f"threshold must be, for {name}, {method.threshold}, got {threshold!r}.")
    return threshold


def _scores_by_weight(weights: Mapping[str, Tensor], method: str) -> dict[str, str]:
    """Returns the name of each weight to prune -> the name of its scores; for magnitude, its own."""
    matrices = [name for name, tensor in weights.items() if MATRIX.fullmatch(name) and tensor.dim() == 2]
    scores = {f"{name.removesuffix('mask_scores')}weight": name for name in weights if _is_score(name)}
    if bool(scores) != METHODS[method].scored:
        needs = "has no scores" if scores else "needs scores"
        held = enumeration(scores.values(), most=2) if scores else "no X.mask_scores"
        raise InvalidInputError(
            f"{method} {needs}, and the checkpoint holds {held}. Give the method with which the checkpoint was trained."
        )
    if not scores:
        if not matrices:
            raise InvalidInputError(f"The checkpoint holds no matrix encoder.layer.N.X.weight that {method} could prune.")
        return {name: name for name in matrices}
    if alone := [score for name, score in scores.items() if name not in weights]:
        raise InvalidInputError(f"Scores without a weight beside them: {enumeration(alone)}. Choose a whole checkpoint.")
    if bare := [name for name in matrices if name not in scores]:
        raise InvalidInputError(f"Matrices of the blocks without scores: {enumeration(bare)}. Choose a whole checkpoint.")
    return scores


def _is_score(name: str) -> bool:
    return name.rpartition(".")[2] == "mask_scores"


def _masked(name: str, weight: Tensor, scores_name: str, scores: Tensor, method: PrunebertMethod, threshold: float) -> Tensor:
    """Returns W * M."""
    if weight.shape != scores.shape:
        shapes = f"{tuple(scores.shape)} and {name} {tuple(weight.shape)}"
        raise InvalidInputError(f"{scores_name} has the shape {shapes}: they must be equal. Choose a whole checkpoint.")
    _check_values(name, weight)
    _check_values(scores_name, scores)
    gate = method.gate(scores.detach(), threshold)
    if gate.dtype == torch.bool and not gate.any():
        raise InvalidInputError(
            f"threshold={threshold} keeps none of the {weight.numel()} weights of {name}. Give a larger one."
        )
    return torch.where(gate == 0, 0.0, weight.detach() * gate).to(weight.dtype).contiguous()


def _check_values(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in FLOATS or tensor.numel() == 0:
        kind = f"{tensor.numel()} numbers of type {str(tensor.dtype).removeprefix('torch.')}"
        raise InvalidInputError(
            f"{name} must hold floating-point numbers, at least one, got {kind}. Choose a whole checkpoint."
        )
    if bool(tensor.isnan().any()):
        raise InvalidInputError(f"{name} holds NaN: its run diverged, or the file is damaged. Choose a whole checkpoint.")


def _read_config(source: Path) -> dict[str, Any]:
    path = source / CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path} could not be read: {error}. Give the folder of an old checkpoint.") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "masked_bert":
        raise InvalidInputError(
            f"{path} must have the model_type 'masked_bert' of the paper's code, got {kind!r}. Others need no import."
        )
    return config


def _method_name(config: dict[str, Any], given: str | None, source: Path) -> str:
    """Returns the given method, or else the config's; they may not contradict each other."""
    configured = given if config.get("pruning_method") is None else config["pruning_method"]
    if not isinstance(configured, str):
        raise InvalidInputError(
            f"{source / CONFIG} has pruning_method {configured!r}, which is no method. Give one: {enumeration(METHODS)}."
        )
    if given in METHODS and given != configured:
        raise InvalidInputError(
            f"The method must be {configured!r}, as {source / CONFIG} says, got {given!r}. Leave it out, or correct the file."
        )
    return given or configured


def _bert_config(config: dict[str, Any], source: Path) -> dict[str, Any]:
    classes = config.get("architectures") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InvalidInputError(f"{source / CONFIG} must have a list of class names as architectures, got {classes!r}.")
    kept = {key: value for key, value in config.items() if key not in MASKED_BERT_SETTINGS}
    return {**kept, "model_type": "bert", "architectures": [name.removeprefix("Masked") for name in classes]}


def _read_weights(source: Path) -> dict[str, Tensor]:
    """Reads the state dict, without running code that a file holds."""
    if (source / SAFE).is_file():
        check_safetensors(source / SAFE)
        return safetensors.torch.load_file(source / SAFE)
    path = source / PICKLED
    if not path.is_file():
        shards = [name for name in (f"{SAFE}.index.json", f"{PICKLED}.index.json") if (source / name).is_file()]
        remedy = f"Save its shards ({shards[0]}) as one file." if shards else "Give the folder of an old checkpoint."
        raise InvalidInputError(f"{source} holds neither {SAFE} nor {PICKLED}. {remedy}")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything, and PyTorch's own message advises to run its code
        raise InvalidInputError(
            f"{path} is damaged, or holds more than tensors, such as code, which is never run "
            f"({type(error).__name__}). Choose a whole checkpoint that holds a state dict."
        ) from error
    _check_state_dict(path, weights)
    return dict(weights)


def _check_state_dict(path: Path, weights: object) -> None:
    if not isinstance(weights, dict):
        raise InvalidInputError(f"{path} must hold a state dict, name -> tensor, got a {type(weights).__name__}.")
    for name, tensor in weights.items():
        if not isinstance(name, str) or not _is_complete(tensor):
            raise InvalidInputError(
                f"{path} must hold a state dict, name -> plain tensor with all its numbers, got a {type(tensor).__name__} "
                f"under {name!r}. Choose a whole checkpoint."
            )


def _is_complete(tensor: object) -> bool:
    """Whether it is a plain tensor with all the numbers of its shape in the file; a view of one could claim terabytes."""
    if not isinstance(tensor, Tensor) or type(tensor) not in (Tensor, nn.Parameter):
        return False
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    return plain and tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()


def _renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gives LayerNorm's parameters their present names, and leaves out the buffer `position_ids`."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        module, _, last = name.rpartition(".")
        if last == "position_ids":
            continue
        if module.rpartition(".")[2] == "LayerNorm":
            name = f"{module}.{ {'gamma': 'weight', 'beta': 'bias'}.get(last, last) }"
        if name in renamed:
            raise InvalidInputError(f"The checkpoint holds {name} twice, under its old name and its new one. Remove one.")
        renamed[name] = tensor
    return renamed
