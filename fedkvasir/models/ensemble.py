"""Ensembles: several networks on the same image, their answers fused into one.

Thambawita et al., DivergentNets: Medical Image Segmentation by Network Ensemble, EndoCV 2021, section 2.2 and figure 3.
Every member is trained on its own, one after another; the ensemble is formed from their selected checkpoints.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from fedkvasir.ensembles import Fusion

WEIGHTS = "fusion.weights"
"""Of the members, under ``mean`` and ``weighted``: the name of the tensor."""


class WeightedMean(nn.Module):
    """The members' probabilities, averaged by fixed weights; back to logits, so that what follows need not know."""

    weights: Tensor

    def __init__(self, members: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.full((members,), 1 / members))

    def forward(self, logits: Sequence[Tensor]) -> Tensor:
        """M tensors (B, K, H, W) or (B, K) -> one; a class a pixel of its own, or one class an image."""
        stacked = torch.stack(tuple(logits)).float()
        weights = self.weights.log().view(-1, *[1] * (stacked.ndim - 1))
        if stacked.ndim == 3:
            return (weights + stacked.log_softmax(dim=-1)).logsumexp(dim=0)
        # The means of p and of 1 - p, in logarithms: the log-odds stay finite however sure the members are.
        inside, outside = ((weights + logsigmoid(part)).logsumexp(dim=0) for part in (stacked, -stacked))
        return inside - outside


class Learned(nn.Module):
    """A small network on the members' logits: one 1 x 1 convolution for maps, a perceptron with one hidden layer for
    classes (Borgli et al., HyperKvasir, Scientific Data 2020). It begins as the mean of the logits."""

    def __init__(self, members: int, classes: int, task: str) -> None:
        super().__init__()
        width = members * classes
        mean = torch.eye(classes).repeat(1, members) / members
        if task == "segmentation":
            self.layers = nn.Sequential(nn.Conv2d(width, classes, 1))
            start = mean[:, :, None, None]
        else:
            # relu(x) - relu(-x) = x: the hidden layer holds both signs, so the start is the mean exactly.
            self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, classes))
            both = torch.cat([torch.eye(width), -torch.eye(width)])
            self.layers[0].load_state_dict({"weight": both, "bias": torch.zeros(2 * width)})
            start = torch.cat([mean, -mean], dim=1)
        self.layers[-1].load_state_dict({"weight": start, "bias": torch.zeros(classes)})

    def forward(self, logits: Sequence[Tensor]) -> Tensor:
        """As :class:`WeightedMean`."""
        return self.layers(torch.cat(tuple(logits), dim=1))


class OneAtATime(nn.Module):
    """A member that is loaded for every batch and forgotten after it: one is in memory, never all."""

    def __init__(self, load: Callable[[], nn.Module]) -> None:
        super().__init__()
        self._load = load

    def forward(self, images: Tensor) -> Tensor:
        return self._load().to(images.device).eval()(images)


class Ensemble(nn.Module):
    """Members whose weights no longer change, and a fusion."""

    def __init__(self, members: Mapping[str, nn.Module], fusion: Fusion, classes: int, task: str) -> None:
        super().__init__()
        self.members = nn.ModuleDict()
        # Not by its own way: a hospital may be called as one of its methods is, `train` or `double`.
        self.members._modules.update(members)
        self.members.requires_grad_(False)
        learned = fusion.name == "learned"
        self.weighted = fusion.name == "weighted"
        self.fusion = Learned(len(members), classes, task) if learned else WeightedMean(len(members))

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) float32 in 0..1; logits: (B, C, H, W) or (B, K), as of one network."""
        with torch.no_grad():
            logits = [member(images) for member in self.members.values()]
        return self.fusion(logits)

    def train(self, mode: bool = True) -> "Ensemble":
        """Only the fusion is trained: the members' running statistics stay as they are."""
        super().train(mode)
        self.members.eval()
        return self

    @property
    def frozen(self) -> set[str]:
        """Names of the members' tensors: they are sent to hospitals and never back."""
        return {name for name in self.state_dict() if name.startswith("members.")}
