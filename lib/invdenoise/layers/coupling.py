"""Downsampling without loss, and affine coupling (InvDN, Section 3.4)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdenoise.layers.invertible import Invertible, gradients

NUM_LOW = 3  # channels of the low-resolution picture: red, green, blue


class HaarDownsampling(Invertible):
    """The Haar transform of one scale: half the size, four times the channels (InvDN, Figure 2).

    `forward` maps `(B, C, H, W)` with even H and W to `(B, 4C, H/2, W/2)`: subband LL of all channels, then LH, HL, HH; the
    first letter is the filter along the height. LL is the mean of 2x2 pixels, so it keeps the range of the picture.
    """

    def forward(self, x: Tensor) -> tuple[Tensor]:
        top_left, top_right, bottom_left, bottom_right = _corners(x)
        left, right = top_left + bottom_left, top_right + bottom_right
        left_edge, right_edge = top_left - bottom_left, top_right - bottom_right
        return (torch.cat([left + right, left - right, left_edge + right_edge, left_edge - right_edge], 1) / 4,)

    def inverse(self, x: Tensor) -> tuple[Tensor]:
        LL, LH, HL, HH = x.chunk(4, 1)
        top, bottom, top_edge, bottom_edge = LL + HL, LL - HL, LH + HH, LH - HH
        return (_from_corners(top + top_edge, top - top_edge, bottom + bottom_edge, bottom - bottom_edge),)

    def log_det(self, x: Tensor) -> Tensor:
        # The 4x4 matrix of one pixel block has entries of +-1/4 and orthogonal rows: |det| = 16 / 4**4.
        return x.new_full((len(x),), math.log(1 / 16) * x[0].numel() / 4)


class Squeeze(Invertible):
    """The checkerboard rearrangement of Glow: half the size, four times the channels, nothing computed (InvDN, Figure 2).

    `forward` maps `(B, C, H, W)` with even H and W to `(B, 4C, H/2, W/2)`: the top left pixels of all channels, then top
    right, bottom left, bottom right.
    """

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (torch.cat(_corners(x), 1),)

    def inverse(self, x: Tensor) -> tuple[Tensor]:
        return (_from_corners(*x.chunk(4, 1)),)

    def log_det(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x))


def _corners(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four pixels of each 2x2 block, each `(B, C, H/2, W/2)`."""
    if x.shape[-2] % 2 or x.shape[-1] % 2:
        raise ValueError(f"height and width are {tuple(x.shape[-2:])}; expected even numbers, pad the picture")
    return x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]


def _from_corners(top_left: Tensor, top_right: Tensor, bottom_left: Tensor, bottom_right: Tensor) -> Tensor:
    batch, channels, height, width = top_left.shape
    rows = torch.stack([torch.stack([top_left, top_right], -1), torch.stack([bottom_left, bottom_right], -1)], 3)
    return rows.view(batch, channels, 2 * height, 2 * width)


class ResidualSubnet(nn.Module):
    """Three 3x3 convolutions; the last one sees the input again (InvDN's released code).

    Maps `(B, in_channels, H, W)` to `(B, out_channels, H, W)`. LeakyReLU with slope 0.2, zero padding. The paper calls it a
    residual block; its skip connection is a concatenation.

    Args:
        in_channels, out_channels: channels of the part that is read and of the part that is changed.
        num_features: channels in between (paper: 64).
        identity_start: the last convolution starts at zero, so a fresh coupling is the identity. False: PyTorch's default.
    """

    def __init__(self, in_channels: int, out_channels: int, num_features: int = 64, identity_start: bool = True):
        super().__init__()
        self.first = nn.Conv2d(in_channels, num_features, 3, padding=1)
        self.second = nn.Conv2d(num_features, num_features, 3, padding=1)
        self.last = _last(nn.Conv2d(in_channels + num_features, out_channels, 3, padding=1), identity_start)

    def forward(self, x: Tensor) -> Tensor:
        features = F.leaky_relu(self.second(F.leaky_relu(self.first(x), 0.2)), 0.2)
        return self.last(torch.cat([x.to(features.dtype), features], 1))


class DenseSubnet(nn.Module):
    """Five 3x3 convolutions, each of which sees the input and all features before it (Xiao et al., ECCV 2020).

    Shapes and arguments as `ResidualSubnet`, with `num_features` channels more after each convolution (paper: 32).
    """

    def __init__(self, in_channels: int, out_channels: int, num_features: int = 32, identity_start: bool = True):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(in_channels + k * num_features, num_features, 3, padding=1) for k in range(4)
        )
        for conv in self.convs:  # the released code: Xavier, a tenth of its size
            nn.init.xavier_normal_(conv.weight, gain=0.1)
            nn.init.zeros_(conv.bias)
        self.last = _last(nn.Conv2d(in_channels + 4 * num_features, out_channels, 3, padding=1), identity_start)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            features = F.leaky_relu(conv(x), 0.2)
            x = torch.cat([x.to(features.dtype), features], 1)
        return self.last(x)


def _last(conv: nn.Conv2d, identity_start: bool) -> nn.Conv2d:
    if identity_start:
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    return conv


SUBNETS = {"residual": ResidualSubnet, "dense": DenseSubnet}


class AffineCoupling(Invertible):
    """Affine coupling of the low-resolution picture with all other channels (InvDN, Table 1 and Eq. 2).

        a' = a + phi2(b),  b' = b * exp(s) + phi4(a')    with s = 2 * sigmoid(phi3(a')) - 1

    a are the first three channels of `(B, C, H, W)`, b the others. The log-scale s stays within -1 and 1, so a layer scales
    by 0.37 to 2.72 (the bound is the released code's). The subnets are used in one direction only, so they may be anything.

    Args:
        num_channels: C, more than 3.
        subnet: "residual" or "dense".
        identity_start: the fresh layer is the identity.
    """

    def __init__(self, num_channels: int, subnet: str = "residual", identity_start: bool = True):
        super().__init__()
        num_high = num_channels - NUM_LOW
        if subnet not in SUBNETS:
            raise ValueError(f"subnet is {subnet!r}; expected one of {', '.join(SUBNETS)}")
        if num_high < 1:
            raise ValueError(f"num_channels is {num_channels}; expected more than {NUM_LOW}")
        make = SUBNETS[subnet]
        self.phi2 = make(num_high, NUM_LOW, identity_start=identity_start)
        self.phi3 = make(NUM_LOW, num_high, identity_start=identity_start)
        self.phi4 = make(NUM_LOW, num_high, identity_start=identity_start)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return self._forward(x)[0]

    def inverse(self, x: Tensor) -> tuple[Tensor]:
        a, b = _split(x)
        b = (b - self.phi4(a)) * torch.exp(-self.log_scale(a))
        return (torch.cat([a - self.phi2(b), b], 1),)

    def log_det(self, x: Tensor) -> Tensor:
        return self.forward_log_det(x)[1]

    def forward_log_det(self, x: Tensor) -> tuple[tuple[Tensor], Tensor]:
        y, log_scale = self._forward(x)
        return y, log_scale.flatten(1).sum(1)

    def backward_from(self, method, outputs, grads):
        """See `Invertible.backward_from`. Each subnet runs once: the way back evaluates it where the way forth did."""
        ((a, b), (grad_a, grad_b)) = _split(outputs[0]), _split(grads[0])
        if method != "inverse":  # from a', b'
            log_det_grad = grads[1] if method == "forward_log_det" else None
            a, b, grad_a, grad_b, found = self._undo_scaling(a, b, grad_a, grad_b, -1, log_det_grad)
            a, grad_b, own = self._undo_shift(a, b, grad_a, grad_b, -1)
        else:  # from a, b
            a, grad_b, own = self._undo_shift(a, b, grad_a, grad_b, 1)
            a, b, grad_a, grad_b, found = self._undo_scaling(a, b, grad_a, grad_b, 1)
        return (torch.cat([a, b], 1),), (torch.cat([grad_a, grad_b], 1),), found | own

    def _undo_shift(self, a, b, grad_a, grad_b, sign):
        """Undo a + phi2(b) (sign -1) or a - phi2(b) (sign 1): the other a, the whole gradient of b, and those of phi2."""
        with torch.enable_grad():
            b = b.detach().requires_grad_()
            shift = self.phi2(b)
        (more,), found = gradients([shift], [(-sign * grad_a).to(shift.dtype)], [b], self.phi2.parameters())
        return a + sign * shift.detach(), grad_b + more, found

    def _undo_scaling(self, a, b, grad_a, grad_b, sign, log_det_grad=None):
        """Undo b * exp(s) + phi4(a) (sign -1) or its inverse (sign 1): a, the other b, their gradients, those of phi3 and phi4.

        The log-determinant is the sum of s, so each s has its gradient too, if there is one.
        """
        with torch.enable_grad():
            a = a.detach().requires_grad_()
            log_scale, shift = self.log_scale(a), self.phi4(a)
        s, t = log_scale.detach(), shift.detach()
        if sign < 0:
            b = (b - t) * torch.exp(-s)
            grad_t, grad_b = grad_b, grad_b * torch.exp(s)
            grad_s = grad_b * b
            if log_det_grad is not None:
                grad_s = grad_s + log_det_grad[:, None, None, None]
        else:
            grad_s = -grad_b * b
            grad_b = grad_b * torch.exp(-s)
            grad_t = -grad_b
            b = b * torch.exp(s) + t
        parameters = (*self.phi3.parameters(), *self.phi4.parameters())
        (more,), found = gradients(
            [log_scale, shift], [grad_s.to(log_scale.dtype), grad_t.to(shift.dtype)], [a], parameters
        )
        return a.detach(), b, grad_a + more, grad_b, found

    def log_scale(self, a: Tensor) -> Tensor:
        """s of the updated low-resolution picture; the same in both directions."""
        return torch.tanh(self.phi3(a).to(a.dtype) / 2)  # = 2 * sigmoid(phi3) - 1

    def _forward(self, x: Tensor) -> tuple[tuple[Tensor], Tensor]:
        a, b = _split(x)
        a = a + self.phi2(b)
        log_scale = self.log_scale(a)
        return (torch.cat([a, b * torch.exp(log_scale) + self.phi4(a)], 1),), log_scale


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, :NUM_LOW], x[:, NUM_LOW:]
