"""Default encoders and decoders for patterns of any shape.

The ``event_shape`` of a decoder is the shape of what the likelihood expects. It is that of a pattern, E, but for
likelihoods with several numbers for an entry: ``E + (num_classes,)`` for :class:`~pyro_kanerva.CategoricalLikelihood`.
"""

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from pyro_kanerva._checks import check_at_least


def event_shape_of_encoder(encoder: Callable[[Tensor], Tensor]) -> tuple[int, ...] | None:
    """The pattern shape E that an encoder declares as ``event_shape``; None if patterns need the full (B, T) + E."""
    shape = getattr(encoder, "event_shape", None)
    return None if shape is None else tuple(shape)


def _check_shape(
    name: str, event_shape: Sequence[int], code_size: int, rank: int | None = None, width: int = 1
) -> tuple[int, ...]:
    shape = tuple(int(size) for size in event_shape)
    if min(shape, default=1) < 1 or (rank is not None and len(shape) != rank):  # () is legal
        wanted = "(channels, height, width)" if rank == 3 else "positive sizes"
        raise ValueError(f"{name}: event_shape is {shape}; expected {wanted}.")
    check_at_least(name, 1, code_size=code_size, width=width)
    return shape


def _initialize(network: nn.Module) -> None:
    """He initialization; residual blocks are identities at first."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.ConvTranspose2d):
            # The fan-in of an output is (kernel / stride)^2 entries of every channel, not kernel^2.
            entries = (module.kernel_size[0] / module.stride[0]) ** 2
            nn.init.normal_(module.weight, std=(2 / (module.in_channels * entries)) ** 0.5)
    for module in network.modules():
        if isinstance(module, _Residual):
            nn.init.zeros_(module.second.weight)


def _layers(size_in: int, width: int, size_out: int) -> list[nn.Module]:
    """Two hidden layers of ``width`` units, and a linear output."""
    return [nn.Linear(size_in, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, size_out)]


class MLPEncoder(nn.Sequential):
    """Patterns (N,) + E -> codes (N, C), by two hidden layers of ``width`` units.

    :raises ValueError: if a size is not positive.
    """

    def __init__(self, event_shape: Sequence[int], code_size: int, width: int = 512) -> None:
        self.event_shape = _check_shape("MLPEncoder", event_shape, code_size, width=width)
        super().__init__(nn.Flatten(), *_layers(math.prod(self.event_shape), width, code_size))
        _initialize(self)


class MLPDecoder(nn.Sequential):
    """Codes (N, C) -> likelihood parameters (N,) + E, by two hidden layers of ``width`` units.

    :raises ValueError: if a size is not positive.
    """

    def __init__(self, code_size: int, event_shape: Sequence[int], width: int = 512) -> None:
        shape = _check_shape("MLPDecoder", event_shape, code_size, width=width)
        super().__init__(*_layers(code_size, width, math.prod(shape)), nn.Unflatten(-1, shape))
        _initialize(self)


class LinearEncoder(nn.Sequential):
    """Patterns (N,) + E -> codes (N, C), by one linear map.

    :raises ValueError: if a size is not positive.
    """

    def __init__(self, event_shape: Sequence[int], code_size: int) -> None:
        self.event_shape = _check_shape("LinearEncoder", event_shape, code_size)
        super().__init__(nn.Flatten(), nn.Linear(math.prod(self.event_shape), code_size))
        _initialize(self)


class ShortcutDecoder(nn.Module):
    """Codes (N, C) -> likelihood parameters (N,) + E: the sum of a linear map and of :class:`MLPDecoder`.

    :raises ValueError: if a size is not positive.
    """

    def __init__(self, code_size: int, event_shape: Sequence[int], width: int = 512) -> None:
        shape = _check_shape("ShortcutDecoder", event_shape, code_size, width=width)
        super().__init__()
        self.layers = MLPDecoder(code_size, shape, width)
        self.shortcut = nn.Linear(code_size, math.prod(shape), bias=False)
        _initialize(self)

    def forward(self, codes: Tensor) -> Tensor:
        output = self.layers(codes)
        return output + self.shortcut(codes).view_as(output)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return (images + self.second(self.first(images).relu())).relu()


class ConvEncoder(nn.Sequential):
    """Images (N, channels, height, width) -> codes (N, C), by two strided stages of residual blocks.

    :param width: channels of the first stage; the second has twice as many.
    :raises ValueError: if ``event_shape`` is not (channels, height, width), or a size is not positive.
    """

    def __init__(self, event_shape: Sequence[int], code_size: int, width: int = 32) -> None:
        self.event_shape = _check_shape("ConvEncoder", event_shape, code_size, 3, width)
        channels, rows, columns = self.event_shape
        size = 2 * width * _half(_half(rows)) * _half(_half(columns))  # after two strides of 2
        first = [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.ReLU(), _Residual(width)]
        second = [nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(), _Residual(2 * width)]
        super().__init__(*first, *second, nn.Flatten(), nn.Linear(size, code_size))
        _initialize(self)


class ConvDecoder(nn.Module):
    """Codes (N, C) -> likelihood parameters (N, channels, height, width), the mirror of :class:`ConvEncoder`.

    :param width: channels of the last stage; the one before has twice as many.
    :raises ValueError: if ``event_shape`` is not (channels, height, width), or a size is not positive.
    """

    def __init__(self, code_size: int, event_shape: Sequence[int], width: int = 32) -> None:
        super().__init__()
        channels, *self.full_size = _check_shape("ConvDecoder", event_shape, code_size, 3, width)
        self.half_size = [_half(size) for size in self.full_size]
        quarter = [_half(size) for size in self.half_size]
        self.start = nn.Sequential(
            nn.Linear(code_size, 2 * width * quarter[0] * quarter[1]),
            nn.Unflatten(-1, (2 * width, *quarter)),
            nn.ReLU(),
            _Residual(2 * width),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            nn.ReLU(),
        )
        self.finish = nn.Sequential(_Residual(width), nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1))
        _initialize(self)

    def forward(self, codes: Tensor) -> Tensor:
        # A transposed convolution doubles the size; odd sizes need a crop.
        images = self.start(codes)[..., : self.half_size[0], : self.half_size[1]]
        return self.finish(images)[..., : self.full_size[0], : self.full_size[1]]


def _half(size: int) -> int:
    """The size after a convolution with stride 2 and padding 1: half, rounded up."""
    return (size + 1) // 2
