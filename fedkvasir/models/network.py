"""What every architecture is wrapped in."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, as every pretrained encoder here expects."""


class Network(nn.Module):
    """Normalises, pads to the architecture's stride, crops the logits back.

    Inside, so that no caller can forget it: training, evaluation, prediction and export agree.
    """

    def __init__(self, body: nn.Module, stride: int = 32) -> None:
        super().__init__()
        self.body = body
        self.stride = stride
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) float32 in 0..1; logits: (B, 1, H, W), or (B, K) for classifiers."""
        height, width = images.shape[-2:]
        pixels = (images - self.mean) / self.std
        pixels = F.pad(pixels, (0, -width % self.stride, 0, -height % self.stride))
        logits = self.body(pixels)
        return logits[..., :height, :width] if logits.ndim == 4 else logits
