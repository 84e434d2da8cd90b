"""TriUNet: two networks in parallel on the image, a third on what they say; trained as one.

Thambawita et al., DivergentNets: Medical Image Segmentation by Network Ensemble, EndoCV 2021, section 2.1 and figure 2.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedkvasir.errors import UserError, did_you_mean
from fedkvasir.models import encoder_decoder


class TriUNet(nn.Module):
    """Logits of ``head`` on the two branches' softmax maps, side by side."""

    def __init__(self, branches: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.head = head

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: (B, 3, H, W); logits: (B, classes, H, W)."""
        return self.head(torch.cat([branch(pixels).softmax(dim=1) for branch in self.branches], dim=1))


def check_nodes(nodes: Any) -> None:
    """Raises UserError unless there are three names of the encoder-decoder family."""
    if not isinstance(nodes, list | tuple) or len(nodes) != 3:
        raise UserError(f"model.nodes = {nodes!r}: give three names, e.g. [unet, unet, unet]")
    known = list(encoder_decoder.MODELS)
    for node in nodes:
        if node not in known:
            near = did_you_mean(str(node), known)
            raise UserError(f"model.nodes: unknown node {node!r}{near}; known: {', '.join(known)}")


def triunet(
    classes: int,
    encoder: str = encoder_decoder.ENCODER,
    nodes: Sequence[str] = ("unet", "unet", "unet"),
    branch_channels: int | None = None,
    decoder_channels: Sequence[int] | None = None,
) -> nn.Module:
    """TriUNet (Thambawita et al., EndoCV 2021): two networks side by side, a third on their maps.

    nodes: two branches and the head; the paper's are U-Nets, and three unetplusplus make its TriUNet++.
    branch_channels: maps of a branch, at least 2. The paper does not say; the authors' code gives one a class, the
    background included, and a softmax over them: null does so, with 2 where ``classes`` is 1.
    decoder_channels: for the nodes that take a list of them (unet, unetplusplus, manet).
    """
    check_nodes(nodes)
    channels = max(classes, 2) if branch_channels is None else branch_channels
    if channels < 2:
        raise UserError(f"model.branch_channels = {channels}: a softmax over the maps of a branch needs at least 2")

    def build(node: str, outputs: int, inputs: int) -> nn.Module:
        builder = encoder_decoder.MODELS[node]
        default = inspect.signature(builder).parameters.get("decoder_channels")
        lists = decoder_channels is not None and default is not None and isinstance(default.default, tuple)
        chosen = {"decoder_channels": decoder_channels} if lists else {}
        return builder(outputs, encoder, in_channels=inputs, **chosen)

    branches = [build(node, channels, 3) for node in nodes[:2]]
    return TriUNet(branches, build(nodes[2], classes, 2 * channels))


MODELS = {"triunet": triunet}
