"""Old checkpoints, with `mask_scores` beside the weights, become plain ones with zeros.

The paper's released code (`examples/research_projects/movement-pruning` of Transformers: `masked_nn.py`,
`binarizer.py` and `bertarize.py`) masked the weights in every forward pass, so that its checkpoints
load only with that code. Its names for the methods are kept here as they are, `sigmoied_threshold` too.
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

SAFE, PICKLED, CONFIG = "model.safetensors", "pytorch_model.bin", "config.json"

TOKENIZER = ("vocab.txt", "added_tokens.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json")
"""Files of a BERT tokenizer, copied where the old folder holds them."""

OLD_SETTINGS = ("pruning_method", "mask_init", "mask_scale")
"""What a masked BERT's config holds beside a BERT's."""

MATRIX = re.compile(r"(.+\.)?encoder\.layer\.\d+\..+\.weight")
"""Names of the weights inside the blocks. Those with two dimensions are the linear layers."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


ANOTHER_METHOD = "Give the method with which the checkpoint was trained."


@dataclass(frozen=True)
class Threshold:
    """What a method of that code called its threshold.

    Args:
        meaning: what it is and what is allowed, in words.
        allows: whether a number is allowed.
    """

    meaning: str
    allows: Callable[[float], bool]


@dataclass(frozen=True)
class OldMethod:
    """How that code turned one matrix into its mask.

    Args:
        gate: scores (or weights, where it has no scores) and threshold -> True where kept; for L0 a gate from 0 to 1.
        threshold: None for a method without one, which is then handed 0.
        scored: whether a `mask_scores` lies beside each weight.
    """

    gate: Callable[[Tensor, float], Tensor]
    threshold: Threshold | None
    scored: bool = True


def _highest(scores: Tensor, kept: float) -> Tensor:
    """The floor(kept * n) highest. Where that code left equal scores to chance, the lower index is kept."""
    return keep_local([scores], [1], kept)[0]


def _above(values: Tensor, cut: float, scores: Tensor) -> Tensor:
    """Those above the cut; where they are fewer, the floor(0.005 * n) + 1 with the highest scores."""
    mask = values > cut
    least = math.floor(0.005 * scores.numel()) + 1
    return mask if int(mask.sum()) >= least else keep_highest([scores], [1], least)[0]


def _hard_concrete(scores: Tensor, _: float) -> Tensor:
    """The gate without noise, clamp(sigmoid(S) * (r - l) + l, 0, 1) with l = -0.1 and r = 1.1."""
    low, high = -0.1, 1.1
    return (torch.sigmoid(scores) * (high - low) + low).clamp(0.0, 1.0)


KEPT = Threshold("the fraction of the weights kept, above 0 and at most 1, so 0.15 for 15 %", lambda v: 0 < v <= 1)
CUT = Threshold("the cut above which a score is kept, any finite number", lambda _: True)
TAU = Threshold("the cut tau above which sigmoid(score) is kept, from 0 to below 1, 0.1 in the paper", lambda v: 0 <= v < 1)

METHODS = {
    "magnitude": OldMethod(lambda W, v: _highest(W.abs(), v), KEPT, scored=False),
    "topK": OldMethod(_highest, KEPT),
    "threshold": OldMethod(lambda S, cut: _above(S, cut, S), CUT),
    "sigmoied_threshold": OldMethod(lambda S, tau: _above(torch.sigmoid(S), tau, S), TAU),
    "l0": OldMethod(_hard_concrete, None),
}


def convert(source: str | Path, target: str | Path, method: str | None = None, threshold: float | None = None) -> None:
    """Turns a checkpoint of the paper's released code into a plain pruned BERT.

    Reads `config.json` and `model.safetensors` or, where there is none, `pytorch_model.bin`, of which only tensors are
    read and no code is run. Writes `model.safetensors`, `config.json`, a model card and the tokenizer's files, all or nothing.

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
    method = _method_of(config, method, source)
    weights = _plain_names(apply_masks(_read_weights(source), method, threshold))
    plain = _plain_config(config, source)
    density = sum(int(tensor.count_nonzero()) for tensor in weights.values()) / sum(t.numel() for t in weights.values())
    head = (plain.get("architectures") or ["AutoModel"])[0]
    _write(target, weights, plain, source, model_card.imported(target.resolve().name, head, method, threshold, density))


def apply_masks(weights: Mapping[str, Tensor], method: str, threshold: float | None = None) -> dict[str, Tensor]:
    """Multiplies the weights of an old state dict by their masks, W' = W * M, and leaves the scores out.

    Args:
        weights: the state dict: `X.weight`, and `X.mask_scores` of the same shape beside each matrix of the blocks. For
            magnitude there are no scores: the matrices of `encoder.layer` are pruned.
        method, threshold: as in `convert`.

    Returns:
        New tensors by their old names; a pruned weight is +0.0.

    Raises:
        InvalidInputError: for a method or a threshold that cannot be, scores that are missing or do not fit their weight,
            NaN, and a matrix that would keep nothing.
    """
    chosen, value = _settings(method, threshold)
    judged = _judged(weights, method)
    plain = {}
    for name, tensor in weights.items():
        if name in judged:
            plain[name] = _masked(name, tensor, judged[name], weights[judged[name]], chosen, value)
        elif not _is_score(name):
            plain[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    return plain


def _settings(method: str, threshold: float | None) -> tuple[OldMethod, float]:
    if method not in METHODS:
        raise InvalidInputError(f"There is no old method {method!r}; {nearest(method, METHODS)}")
    chosen = METHODS[method]
    if chosen.threshold is None:
        if threshold is not None:
            raise InvalidInputError(f"{method} was given threshold={threshold!r}, and has none: leave it out.")
        return chosen, 0.0
    if threshold is None:
        raise InvalidInputError(f"{method} needs a threshold: {chosen.threshold.meaning}. Give the run's final_threshold.")
    if not is_number(threshold) or not math.isfinite(threshold) or not chosen.threshold.allows(threshold):
        raise InvalidInputError(f"threshold was given as {threshold!r}; for {method} it is {chosen.threshold.meaning}.")
    return chosen, threshold


def _judged(weights: Mapping[str, Tensor], method: str) -> dict[str, str]:
    """Returns the name of each weight to prune -> the name of the tensor that decides what is kept of it."""
    matrices = [name for name, tensor in weights.items() if MATRIX.fullmatch(name) and tensor.dim() == 2]
    scored = {f"{name.removesuffix('mask_scores')}weight": name for name in weights if _is_score(name)}
    if METHODS[method].scored:
        _check_whole(weights, method, matrices, scored)
        return scored
    if scored:
        held = enumeration(scored.values(), most=2)
        raise InvalidInputError(f"{method} has no scores, and the checkpoint holds {held}. {ANOTHER_METHOD}")
    if not matrices:
        raise InvalidInputError(f"The checkpoint holds no matrix encoder.layer.N.X.weight that {method} could prune.")
    return {name: name for name in matrices}


def _check_whole(weights: Mapping[str, Tensor], method: str, matrices: list[str], scored: dict[str, str]) -> None:
    if not scored:
        raise InvalidInputError(f"{method} needs scores, and the checkpoint holds no X.mask_scores. {ANOTHER_METHOD}")
    if alone := [score for name, score in scored.items() if name not in weights]:
        raise InvalidInputError(f"Scores without a weight beside them: {enumeration(alone)}. Choose a whole checkpoint.")
    if bare := [name for name in matrices if name not in scored]:
        raise InvalidInputError(
            f"With {method} each matrix of the blocks has scores, and these have none: {enumeration(bare)}. "
            "Choose a whole checkpoint."
        )


def _is_score(name: str) -> bool:
    return name.rpartition(".")[2] == "mask_scores"


def _masked(name: str, weight: Tensor, judge: str, values: Tensor, method: OldMethod, threshold: float) -> Tensor:
    """Returns W * M."""
    if weight.shape != values.shape:
        shapes = f"{tuple(values.shape)} and {name} {tuple(weight.shape)}"
        raise InvalidInputError(f"{judge} has the shape {shapes}: scores have the shape of their weight.")
    for part, tensor in ((name, weight), (judge, values)):
        _check_fit(part, tensor)
    gate = method.gate(values.detach(), threshold)
    if gate.dtype == torch.bool and not gate.any():
        raise InvalidInputError(
            f"threshold={threshold} keeps none of the {weight.numel()} weights of {name}. Give a larger one."
        )
    return torch.where(gate == 0, 0.0, weight.detach() * gate).to(weight.dtype).contiguous()


def _check_fit(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in FLOATS or tensor.numel() == 0:
        kind = f"{tensor.numel()} numbers of type {str(tensor.dtype).removeprefix('torch.')}"
        raise InvalidInputError(f"{name} holds {kind}; a weight and its scores are floating-point numbers, at least one.")
    if bool(tensor.isnan().any()):
        raise InvalidInputError(f"{name} holds NaN: its run went wrong, or the file is damaged. Choose a whole checkpoint.")


def _read_config(source: Path) -> dict[str, Any]:
    path = source / CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path} could not be read: {error}. Give the folder of an old checkpoint.") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "masked_bert":
        raise InvalidInputError(
            f"{path} says model_type {kind!r}; only checkpoints of the paper's code, 'masked_bert', need an import and get one."
        )
    return config


def _method_of(config: dict[str, Any], given: str | None, source: Path) -> str:
    """Returns the method that was given, or that the config says; they may not contradict each other."""
    said = given if config.get("pruning_method") is None else config["pruning_method"]
    if not isinstance(said, str):
        raise InvalidInputError(
            f"{source / CONFIG} says pruning_method {said!r}, which is no method. Give one: {enumeration(METHODS)}."
        )
    if given is not None and given in METHODS and given != said:
        raise InvalidInputError(
            f"The method was given as {given!r}, and {source / CONFIG} says {said!r}. Leave the method out, or mend the file."
        )
    return given or said


def _plain_config(config: dict[str, Any], source: Path) -> dict[str, Any]:
    """Returns the config of a BERT."""
    classes = config.get("architectures") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InvalidInputError(f"{source / CONFIG} says architectures {classes!r}; they are a list of class names.")
    kept = {key: value for key, value in config.items() if key not in OLD_SETTINGS}
    return {**kept, "model_type": "bert", "architectures": [name.removeprefix("Masked") for name in classes]}


def _read_weights(source: Path) -> dict[str, Tensor]:
    """Reads the state dict, without ever running code that a file holds."""
    if (source / SAFE).is_file():
        check_safetensors(source / SAFE)
        return safetensors.torch.load_file(source / SAFE)
    path = source / PICKLED
    if not path.is_file():
        parts = [name for name in (f"{SAFE}.index.json", f"{PICKLED}.index.json") if (source / name).is_file()]
        why = f" It is in several parts ({parts[0]}), which are not read: save it as one file." if parts else ""
        raise InvalidInputError(
            f"{source} holds neither {SAFE} nor {PICKLED}.{why or ' Give the folder of an old checkpoint.'}"
        )
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything, and PyTorch's own words advise to run its code
        raise InvalidInputError(
            f"{path} is damaged, or holds more than tensors, such as code, which is never run "
            f"({type(error).__name__}). Choose a whole checkpoint that holds a state dict."
        ) from error
    _check_are_tensors(path, weights)
    return dict(weights)


def _check_are_tensors(path: Path, weights: object) -> None:
    if not isinstance(weights, dict):
        raise InvalidInputError(f"{path} holds a {type(weights).__name__}; a checkpoint is a state dict, name -> tensor.")
    for name, tensor in weights.items():
        if not isinstance(name, str) or not _is_whole_tensor(tensor):
            raise InvalidInputError(
                f"{path} holds under {name!r} a {type(tensor).__name__} that is no plain tensor with all its numbers; "
                "a checkpoint is a state dict, name -> tensor."
            )


def _is_whole_tensor(tensor: object) -> bool:
    """Whether it is a plain tensor, with as many numbers in the file as its shape says: no terabytes out of one number."""
    if not isinstance(tensor, Tensor) or type(tensor) not in (Tensor, nn.Parameter):
        return False
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    return plain and tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()


def _plain_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gives LayerNorm's parameters their names of today, and leaves out the numbering of positions, no parameter."""
    plain: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        module, _, last = name.rpartition(".")
        if last == "position_ids":
            continue
        if module.rpartition(".")[2] == "LayerNorm":
            name = f"{module}.{ {'gamma': 'weight', 'beta': 'bias'}.get(last, last) }"
        if name in plain:
            raise InvalidInputError(f"The checkpoint holds {name} twice, under its old name and its new one. Remove one.")
        plain[name] = tensor
    return plain


def _write(target: Path, weights: dict[str, Tensor], config: dict[str, Any], source: Path, card: str) -> None:
    """Writes the new folder beside its final name and renames it, so that it is whole or not there."""
    with new_folder(target) as temporary:
        safetensors.torch.save_file(weights, temporary / SAFE, metadata={"format": "pt"})
        (temporary / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (temporary / model_card.FILE).write_text(card, encoding="utf-8")
        for name in TOKENIZER:
            if (source / name).is_file():
                shutil.copyfile(source / name, temporary / name)
