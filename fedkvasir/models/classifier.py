"""Classifiers: HyperKvasir's baselines by their plain names, and any other timm model by timm's name."""

from collections.abc import Callable

import timm
from torch import nn


def timm_classifier(classes: int, *, name: str) -> nn.Module:
    """A timm model with a fresh head of ``classes`` logits."""
    return timm.create_model(name, pretrained=False, num_classes=classes)


def resnet50(classes: int) -> nn.Module:
    """ResNet-50 (He et al., CVPR 2016), one of HyperKvasir's baselines."""
    return timm_classifier(classes, name="resnet50")


def resnet152(classes: int) -> nn.Module:
    """ResNet-152 (He et al., CVPR 2016), one of HyperKvasir's baselines."""
    return timm_classifier(classes, name="resnet152")


def densenet161(classes: int) -> nn.Module:
    """DenseNet-161 (Huang et al., CVPR 2017), one of HyperKvasir's baselines."""
    return timm_classifier(classes, name="densenet161")


def any_timm(name: str) -> Callable[..., nn.Module] | None:
    """The builder of a timm model, or None if timm does not know the name."""
    if not timm.is_model(name):
        return None

    def build(classes: int) -> nn.Module:
        return timm_classifier(classes, name=name)

    return build


MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet50": resnet50,
    "resnet152": resnet152,
    "densenet161": densenet161,
}
