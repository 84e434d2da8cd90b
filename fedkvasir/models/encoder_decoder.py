"""Encoder-decoder networks for segmentation, from segmentation-models-pytorch."""

from collections.abc import Callable, Sequence

import segmentation_models_pytorch as smp
from torch import nn

from fedkvasir.errors import UserError
from fedkvasir.scenario import did_you_mean

ENCODER = "resnet34"


def check_encoder(name: str) -> None:
    """Raises UserError with the nearest spelling for an encoder that smp does not have (``tu-*`` is any timm one)."""
    known = smp.encoders.get_encoder_names()
    if name not in known and not name.startswith("tu-"):
        raise UserError(f"model.encoder: unknown encoder {name!r}{did_you_mean(name, known)}; see `fedkvasir models`")


def unet(
    classes: int,
    encoder: str = ENCODER,
    decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    depth: int = 5,
) -> nn.Module:
    """U-Net (Ronneberger et al., MICCAI 2015) on a classification encoder."""
    return smp.Unet(encoder, depth, None, decoder_channels=tuple(decoder_channels), classes=classes)


def unetplusplus(
    classes: int,
    encoder: str = ENCODER,
    decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    depth: int = 5,
) -> nn.Module:
    """U-Net++ (Zhou et al., DLMIA 2018): nested skip connections."""
    return smp.UnetPlusPlus(encoder, depth, None, decoder_channels=tuple(decoder_channels), classes=classes)


def fpn(
    classes: int, encoder: str = ENCODER, pyramid_channels: int = 256, segmentation_channels: int = 128
) -> nn.Module:
    """Feature pyramid network (Kirillov et al., Panoptic FPN, CVPR 2019)."""
    return smp.FPN(
        encoder,
        encoder_weights=None,
        decoder_pyramid_channels=pyramid_channels,
        decoder_segmentation_channels=segmentation_channels,
        classes=classes,
    )


def deeplabv3(classes: int, encoder: str = ENCODER, decoder_channels: int = 256) -> nn.Module:
    """DeepLabV3 (Chen et al., arXiv 1706.05587)."""
    return smp.DeepLabV3(encoder, encoder_weights=None, decoder_channels=decoder_channels, classes=classes)


def deeplabv3plus(classes: int, encoder: str = ENCODER, decoder_channels: int = 256) -> nn.Module:
    """DeepLabV3+ (Chen et al., ECCV 2018)."""
    return smp.DeepLabV3Plus(encoder, encoder_weights=None, decoder_channels=decoder_channels, classes=classes)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "unet": unet,
    "unetplusplus": unetplusplus,
    "fpn": fpn,
    "deeplabv3": deeplabv3,
    "deeplabv3plus": deeplabv3plus,
}
