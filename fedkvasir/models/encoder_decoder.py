"""Encoder-decoder networks for segmentation, from segmentation-models-pytorch.

``in_channels`` is for networks made of networks (TriUNet); scenarios do not set it.
"""

from collections.abc import Callable, Sequence

import segmentation_models_pytorch as smp
import timm
from torch import nn

from fedkvasir.errors import UserError, did_you_mean
from fedkvasir.models.network import only_size

ENCODER = "resnet34"


def check_encoder(name: str) -> None:
    """Raises UserError with the nearest spelling for an encoder that smp does not have (``tu-*`` is any timm one)."""
    known = smp.encoders.get_encoder_names()
    if name not in known and not (name.startswith("tu-") and timm.is_model(name[3:])):
        near = did_you_mean(name, [*known, *(f"tu-{model}" for model in timm.list_models())])
        raise UserError(f"model.encoder: unknown encoder {name!r}{near}; see `fedkvasir models`")


def check_sizes(body: nn.Module, encoder: str) -> None:
    """Raises UserError for an encoder that takes images of one size only (Swin, say)."""
    if sides := " x ".join(map(str, only_size(body))):
        raise UserError(f"model.encoder: {encoder} takes images of {sides} pixels only; choose another")


def unet(
    classes: int,
    encoder: str = ENCODER,
    decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    depth: int = 5,
    in_channels: int = 3,
) -> nn.Module:
    """U-Net (Ronneberger et al., MICCAI 2015) on a classification encoder."""
    return smp.Unet(
        encoder, depth, None, decoder_channels=tuple(decoder_channels), in_channels=in_channels, classes=classes
    )


def unetplusplus(
    classes: int,
    encoder: str = ENCODER,
    decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    depth: int = 5,
    in_channels: int = 3,
) -> nn.Module:
    """U-Net++ (Zhou et al., DLMIA 2018): nested skip connections."""
    return smp.UnetPlusPlus(
        encoder, depth, None, decoder_channels=tuple(decoder_channels), in_channels=in_channels, classes=classes
    )


def fpn(
    classes: int,
    encoder: str = ENCODER,
    pyramid_channels: int = 256,
    segmentation_channels: int = 128,
    in_channels: int = 3,
) -> nn.Module:
    """Feature pyramid network (Kirillov et al., Panoptic FPN, CVPR 2019)."""
    return smp.FPN(
        encoder,
        encoder_weights=None,
        decoder_pyramid_channels=pyramid_channels,
        decoder_segmentation_channels=segmentation_channels,
        in_channels=in_channels,
        classes=classes,
    )


def deeplabv3(classes: int, encoder: str = ENCODER, decoder_channels: int = 256, in_channels: int = 3) -> nn.Module:
    """DeepLabV3 (Chen et al., arXiv 1706.05587)."""
    return smp.DeepLabV3(
        encoder, encoder_weights=None, decoder_channels=decoder_channels, in_channels=in_channels, classes=classes
    )


def deeplabv3plus(classes: int, encoder: str = ENCODER, decoder_channels: int = 256, in_channels: int = 3) -> nn.Module:
    """DeepLabV3+ (Chen et al., ECCV 2018)."""
    return smp.DeepLabV3Plus(
        encoder, encoder_weights=None, decoder_channels=decoder_channels, in_channels=in_channels, classes=classes
    )


def pspnet(
    classes: int, encoder: str = ENCODER, pyramid_channels: int = 512, dropout: float = 0.2, in_channels: int = 3
) -> nn.Module:
    """PSPNet (Zhao et al., CVPR 2017): pyramid pooling at an eighth of the resolution."""
    return smp.PSPNet(
        encoder,
        encoder_weights=None,
        psp_out_channels=pyramid_channels,
        psp_dropout=dropout,
        in_channels=in_channels,
        classes=classes,
    )


def manet(
    classes: int,
    encoder: str = ENCODER,
    decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    attention_channels: int = 64,
    depth: int = 5,
    in_channels: int = 3,
) -> nn.Module:
    """MA-Net (Fan et al., IEEE Access 2020): attention over positions and scales."""
    return smp.MAnet(
        encoder,
        depth,
        None,
        decoder_channels=tuple(decoder_channels),
        decoder_pab_channels=attention_channels,
        in_channels=in_channels,
        classes=classes,
    )


def linknet(classes: int, encoder: str = ENCODER, depth: int = 5, in_channels: int = 3) -> nn.Module:
    """LinkNet (Chaurasia and Culurciello, VCIP 2017): skip connections are added."""
    return smp.Linknet(encoder, depth, None, in_channels=in_channels, classes=classes)


def pan(classes: int, encoder: str = ENCODER, decoder_channels: int = 32, in_channels: int = 3) -> nn.Module:
    """Pyramid attention network (Li et al., BMVC 2018)."""
    body = smp.PAN(
        encoder, encoder_weights=None, decoder_channels=decoder_channels, in_channels=in_channels, classes=classes
    )
    body.smallest = 128  # its attention halves the encoder's last map, of stride 16, three times more
    return body


def upernet(classes: int, encoder: str = ENCODER, decoder_channels: int = 256, in_channels: int = 3) -> nn.Module:
    """UPerNet (Xiao et al., ECCV 2018): a feature pyramid on top of pyramid pooling."""
    return smp.UPerNet(
        encoder, encoder_weights=None, decoder_channels=decoder_channels, in_channels=in_channels, classes=classes
    )


def segformer(
    classes: int, encoder: str = ENCODER, segmentation_channels: int = 256, in_channels: int = 3
) -> nn.Module:
    """SegFormer's decoder (Xie et al., NeurIPS 2021); with encoders mit_b0 to mit_b5 it is the paper's network."""
    return smp.Segformer(
        encoder,
        encoder_weights=None,
        decoder_segmentation_channels=segmentation_channels,
        in_channels=in_channels,
        classes=classes,
    )


def dpt(
    classes: int,
    encoder: str = "tu-vit_base_patch16_224.augreg_in21k",
    intermediate_channels: Sequence[int] = (256, 512, 1024, 1024),
    fusion_channels: int = 256,
    in_channels: int = 3,
) -> nn.Module:
    """Dense prediction transformer (Ranftl et al., ICCV 2021) on a vision transformer of timm's, ``tu-vit_...``."""
    try:
        body = smp.DPT(
            encoder,
            encoder_weights=None,
            decoder_intermediate_channels=tuple(intermediate_channels),
            decoder_fusion_channels=fusion_channels,
            in_channels=in_channels,
            classes=classes,
            dynamic_img_size=True,  # position embeddings follow the image's size
            num_classes=0,
        )
    except TypeError as error:  # what does not know dynamic_img_size
        raise ValueError(f"{encoder} is no vision transformer that takes images of any size") from error
    if any(32 % stride for stride in body.encoder.output_strides):
        raise ValueError(f"the patches of {encoder} are {body.encoder.output_stride} pixels, which do not divide 32")
    body.encoder.model.norm = nn.Identity()  # comes after all that the decoder reads: it would never be trained
    return body


MODELS: dict[str, Callable[..., nn.Module]] = {
    "unet": unet,
    "unetplusplus": unetplusplus,
    "fpn": fpn,
    "deeplabv3": deeplabv3,
    "deeplabv3plus": deeplabv3plus,
    "pspnet": pspnet,
    "manet": manet,
    "linknet": linknet,
    "pan": pan,
    "upernet": upernet,
    "segformer": segformer,
    "dpt": dpt,
}
