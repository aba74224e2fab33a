"""The shape of a model's input, and random input of that shape."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...errors import InvalidInputError
from ..training.pretrained import learned_positions

Batch = dict[str, Tensor]
"""Input of a model, by the names of its forward method's arguments."""

IMAGES = "pixel_values"


@dataclass(frozen=True)
class Shape:
    """The shape of a model's input: texts and their tokens, or images, whose size is the model's own."""

    batch: int
    tokens: int | None = None

    def __post_init__(self) -> None:
        if self.batch < 1 or (self.tokens is not None and self.tokens < 1):
            raise InvalidInputError(f"A shape must have numbers of 1 or more, got {self}.")

    def __str__(self) -> str:
        return str(self.batch) if self.tokens is None else f"{self.batch}x{self.tokens}"


def read_shapes(text: str) -> list[Shape]:
    """Reads `1x128,8x128`: batch x tokens, or of images the batch alone. Raises InvalidInputError for any other text."""
    try:
        numbers = [[int(number) for number in part.split("x", maxsplit=1)] for part in text.lower().split(",")]
    except ValueError as error:
        raise InvalidInputError(
            f"shapes must be batch x tokens, separated by commas, as 1x128,8x128, or for images the batch alone, as 1,8; got "
            f"{text!r}."
        ) from error
    return list(dict.fromkeys(Shape(*one) for one in numbers))


def random_batch(model: PreTrainedModel, shape: Shape) -> Batch:
    """Returns random input: texts of tokens from the vocabulary, all of them attended to, or images.

    Raises:
        InvalidInputError: if the model takes neither, the shape is of the other kind, or a text is too long for it.
    """
    generator = torch.Generator().manual_seed(0)
    main = model.main_input_name
    if main not in ("input_ids", IMAGES) or model.config.is_encoder_decoder:
        raise InvalidInputError(
            f"A {model.config.model_type} model takes {main}{' and a target text' if model.config.is_encoder_decoder else ''}; "
            "the bench measures models that take one text, or images."
        )
    if (main == IMAGES) != (shape.tokens is None):
        wanted = "the batch alone, as 1,8" if main == IMAGES else "batch x tokens, as 1x128,8x128"
        raise InvalidInputError(f"A shape for a {model.config.model_type} model must be {wanted}, got {shape}.")
    if shape.tokens is None:
        size = model.config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return {IMAGES: torch.randn(shape.batch, model.config.num_channels, height, width, generator=generator)}
    most = learned_positions(model)
    if most is not None and shape.tokens > most:
        raise InvalidInputError(
            f"A shape must have at most {most} tokens, the positions of the model, got {shape}. Give {most} at most."
        )
    words = model.get_input_embeddings().get_parameter("weight").shape[0]
    ids = torch.randint(0, words, (shape.batch, shape.tokens), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
