"""What every architecture is wrapped in, and what becomes of its logits at native size."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import timm
import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn
from torch.nn import functional as F

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's own, for encoders that timm does not know."""
STRIDE = 32
"""Of the deepest feature map: a multiple of every architecture's here."""
AT_TIMM = {"inceptionv4": "inception_v4", "inceptionresnetv2": "inception_resnet_v2", "xception": "legacy_xception"}
"""Names of segmentation-models-pytorch's for weights that want other colours -> timm's."""


class Network(nn.Module):
    """Normalises, pads to the architecture's stride, crops the logits back.

    Inside, so that no caller can forget it: training, evaluation, prediction and export agree.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, encoder: str, softmax: bool = False) -> None:
        """softmax: the body's first channel is the background, see :func:`log_odds`."""
        super().__init__()
        self.body = body
        self.softmax = softmax
        self.encoder = encoder
        # What takes one size only is not padded beyond it: the 518 pixels of DINOv2, patches of 14, stay 518.
        self.stride = math.gcd(STRIDE, *only_size(body))
        self.smallest: int = max(getattr(part, "smallest", self.stride) for part in body.modules())
        """Smaller images are padded to this side in pixels, where an architecture asks for it."""
        # The colours the encoder was pretrained with: EfficientNet-Lite0, say, wants 0.5 and 0.5.
        pretrained = at_timm(encoder)
        mean, std = (pretrained.mean, pretrained.std) if pretrained else _colours(body)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) float32 in 0..1; logits: (B, C, H, W), or (B, K) for classifiers."""
        height, width = images.shape[-2:]
        pixels = (images - self.mean) / self.std
        right, bottom = (max(-side % self.stride, self.smallest - side) for side in (width, height))
        if right or bottom:  # an exporter of a size that needs no padding then knows every size
            pixels = F.pad(pixels, (0, right, 0, bottom))
        logits = self.body(pixels)
        if logits.ndim == 2:
            return logits
        logits = logits[..., :height, :width]
        return log_odds(logits) if self.softmax else logits


def at_timm(encoder: str) -> Any:
    """What timm knows of an encoder's pretrained weights: colours, size and more; None for what it does not know."""
    name = encoder.removeprefix("timm-").removeprefix("tu-")
    return timm.models.get_pretrained_cfg(AT_TIMM.get(name, name))


def only_size(body: nn.Module) -> tuple[int, ...]:
    """Height and width of the only pictures that an architecture takes; empty for one that takes others as well."""
    strict = (part for part in body.modules() if isinstance(part, PatchEmbed) and part.strict_img_size)
    return next((part.img_size for part in strict if part.img_size is not None), ())


def _colours(body: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation by what timm built, which it knows under a name of before as well; else ImageNet's."""
    known: Iterator[Any] = (getattr(part, "pretrained_cfg", None) for part in body.modules())
    built = next(filter(None, known), None)
    return (built["mean"], built["std"]) if built else (MEAN, STD)


def log_odds(logits: Tensor) -> Tensor:
    """(B, 1 + K, H, W), the background first -> (B, K, H, W), whose sigmoid is the softmax of the K classes.

    So a softmax over classes that exclude each other and independent sigmoids look alike from outside: the same
    losses, thresholds and records serve both.
    """
    logits = logits.float()
    channels = range(1, logits.shape[1])
    others = [torch.cat([logits[:, :k], logits[:, k + 1 :]], dim=1).logsumexp(dim=1) for k in channels]
    return logits[:, 1:] - torch.stack(others, dim=1)


def native_logits(logits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(K, S, S) logits -> (K, H, W) float32 for ``shape`` (H, W): back to the native size bilinearly."""
    return F.interpolate(logits[None].float(), shape, mode="bilinear", align_corners=False)[0]


def native_mask(logits: Tensor, shape: tuple[int, ...], threshold: float) -> np.ndarray:
    """(K, S, S) logits -> uint8 of ``shape`` (H, W): back to the native size bilinearly, then :func:`mask_of`."""
    return mask_of(native_logits(logits, shape), threshold)


def mask_of(logits: Tensor, threshold: float) -> np.ndarray:
    """(K, H, W) logits -> uint8 (H, W): 0, or the likeliest class of those that pass the threshold, 1 to K."""
    native, least = logits.numpy(), math.log(threshold / (1 - threshold))
    if len(native) == 1:  # a hundred times faster than asking which class is the likeliest
        return (native[0] > least).astype(np.uint8)
    return np.where(native.max(axis=0) > least, native.argmax(axis=0) + 1, 0).astype(np.uint8)
