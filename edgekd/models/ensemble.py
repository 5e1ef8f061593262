"""A given teacher whose members take their own input and name their own classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from edgekd import models
from edgekd.artifacts import Member
from edgekd.models import weights
from edgekd.models.onnx_file import OnnxNetwork


class Reader(nn.Module):
    """One member: from the data's normalised images to its own outputs, (n, outputs) float32."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, member: Member, network: nn.Module) -> None:
        super().__init__()
        self.member = member
        self.network = network
        for name, figures in (("scale", member.scale), ("shift", member.shift)):
            column = torch.tensor(figures, dtype=torch.float32)[:, None, None]
            self.register_buffer(name, column, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Grey becomes three channels, then its own mean and deviation, then its own size."""
        if self.member.scale:
            x = x * self.scale + self.shift
        if x.shape[1] != self.member.channels:
            x = x.expand(-1, self.member.channels, -1, -1)
        size = tuple(x.shape[2:])
        if self.member.size and size != self.member.size:
            smaller = any(own < given for own, given in zip(self.member.size, size, strict=True))
            x = F.interpolate(x, self.member.size, mode="bilinear", antialias=smaller)
        out: torch.Tensor = self.network(x)
        return out.float()


class Ensemble(nn.Module):
    """Members as one network: (n, channels, h, w) as the data is normalised to (n, classes) logits.

    A class's logit is the weighted mean over the members that know it: the mean of logits where
    all know the same classes, the logits side by side where no class is shared. Outputs of one
    member that are one class are joined by log-sum-exp.

    Attributes:
        members: what they are.
        knows: bool (classes, classes); ``knows[y, c]``: a member that knows y knows c as well, so
            that on an image of class y its logits of these classes can be compared.
    """

    knows: torch.Tensor

    def __init__(self, readers: Sequence[Reader], classes: int) -> None:
        super().__init__()
        self.readers = nn.ModuleList(readers)
        self.members = members = [each.member for each in readers]
        known = torch.zeros(len(members), classes, dtype=torch.bool)
        for row, member in zip(known, members, strict=True):
            row[[each for each in member.outputs if each >= 0]] = True
        share = torch.tensor([each.weight for each in members])[:, None] * known
        self.register_buffer("share", share / share.sum(0), persistent=False)
        both = known.float().T @ known.float() > 0
        self.register_buffer("knows", both, persistent=False)
        for number, member in enumerate(members):
            index, held = _columns(member.outputs, classes)
            self.register_buffer(f"index{number}", index, persistent=False)
            self.register_buffer(f"held{number}", held, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        total = torch.zeros((), device=x.device)
        for number, reader in enumerate(self.readers):
            logits = reader(x)
            if self.members[number].log:
                logits = logits.clamp_min(torch.finfo(torch.float32).tiny).log()
            index, held = self.get_buffer(f"index{number}"), self.get_buffer(f"held{number}")
            if index.shape[1] == 1:
                logits = logits[:, index[:, 0]]
            else:
                logits = logits[:, index].masked_fill(~held, -torch.inf).logsumexp(2)
            total = total + logits * self.get_buffer("share")[number]
        return total

    def torch_networks(self) -> list[nn.Module]:
        """The members' networks, without those that ONNX Runtime runs."""
        return [
            each.network
            for each in self.readers
            if isinstance(each, Reader) and not each.member.onnx
        ]


def _columns(outputs: Sequence[int], classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For each class its outputs, (classes, most), and which of these entries are meant.

    A class without an output gets the first one, which then has no share.
    """
    groups = [[i for i, each in enumerate(outputs) if each == c] or [0] for c in range(classes)]
    most = max(map(len, groups))
    index = torch.tensor([group + [0] * (most - len(group)) for group in groups])
    held = torch.tensor([[i < len(group) for i in range(most)] for group in groups])
    return index, held


def ensemble(members: Sequence[Member], classes: int) -> Ensemble:
    """Loads the members, in eval mode, on the CPU."""
    return Ensemble([reader(each) for each in members], classes).eval()


def reader(member: Member) -> Reader:
    """Loads one member, in eval mode."""
    if member.onnx:
        return Reader(member, OnnxNetwork(member.weights, member.channels_last)).eval()
    network = models.create(member.model, len(member.outputs), member.channels)
    weights.fill(network, member.weights)
    return Reader(member, network).eval()
