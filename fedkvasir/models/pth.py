"""PyTorch's own files, .pth and .pt: read without running anything in them, their tensors named as here."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedkvasir.errors import UserError

KEYS = ("state_dict", "model_state_dict", "model")
"""Under which a checkpoint keeps its tensors, if it holds more."""
WRAPPERS = r"^(module\.|_orig_mod\.|model\.)+"
"""What DataParallel, torch.compile and Lightning put before the names of the network that they hold."""
TRIUNET = {"in_model_1.": "branches.0.", "in_model_2.": "branches.1.", "out_model.": "head."}
"""The names in the code of TriUNet's authors."""
DEEPLABV3 = {"decoder.0.": "decoder.aspp.", "decoder.1.": "decoder.conv.", "decoder.2.": "decoder.bn."}
"""The names in segmentation-models-pytorch when that decoder was a list of layers, 0.1.3 for one."""


def read_pth(path: Path) -> dict[str, Tensor]:
    """The tensors of a saved state_dict, by their names in a :class:`~fedkvasir.models.network.Network`.

    It is a state_dict of a segmentation-models-pytorch or timm network, by itself or out of one of :data:`WRAPPERS`, of
    the TriUNet of https://github.com/vlbthambawita/divergent-nets, or a dictionary that holds one under one of
    :data:`KEYS`. Raises UserError for a file that holds other objects, a whole pickled model say: to open it is to run
    it.
    """
    content = _load(path)
    for key in KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"model.weights: {path} holds no state_dict, neither by itself nor as {', '.join(KEYS)}")
    return {f"body.{name}": value for name, value in _translate(content).items()}


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is no pickle raises whatever its bytes happen to mean
        refused = re.search(r"nsupported (?:global: )?GLOBAL (\S+)", str(error))
        if refused is None:
            raise UserError(f"model.weights: {path} is cut short or no state_dict of torch.save") from error
        raise UserError(
            f"model.weights: {path} holds not tensors alone but {refused[1]}, and to open such a pickle is to run it; "
            "who trusts it can save the tensors with torch.save(model.state_dict(), FILE)"
        ) from error


def _translate(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {re.sub(WRAPPERS, "", name): value for name, value in state.items()}
    if any(name.startswith("in_model_1.") for name in state):
        # Their class inherits a U-Net that it never calls: its tensors lie beside those of the three.
        state = {name: value for name, value in state.items() if name.startswith(tuple(TRIUNET))}
    for theirs, ours in (TRIUNET | DEEPLABV3).items():
        state = {name.replace(theirs, ours): value for name, value in state.items()}
    return state
