"""Default networks: any size of image, gradients everywhere, and clear errors."""

import math

import pytest
import torch

from pyro_kanerva import (
    ConvDecoder,
    ConvEncoder,
    GaussianMemory,
    KanervaMachine,
    LinearEncoder,
    MLPDecoder,
    MLPEncoder,
    ShortcutDecoder,
)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 14), (2, 1, 5), (1, 33, 7), (1, 1, 1)])
def test_convolutions_fit_any_image(shape):
    encoder, decoder = ConvEncoder(shape, 6, 8), ConvDecoder(6, shape, 8)
    images = (torch.rand(4, *shape) < 0.5).float()
    codes = encoder(images)
    assert codes.shape == (4, 6)
    output = decoder(codes)
    assert output.shape == images.shape
    machine = KanervaMachine(encoder, decoder, memory_prior=GaussianMemory(3, 6))
    machine.bound(images.unsqueeze(0)).bound.sum().backward()
    assert all(parameter.grad is not None for parameter in machine.parameters())


@pytest.mark.parametrize("shape", [(5,), (1, 4, 3), (2, 3, 4, 5)])
def test_mlps_fit_any_shape(shape):
    codes = MLPEncoder(shape, 6, 16)(torch.rand(4, *shape))
    assert codes.shape == (4, 6)
    assert MLPDecoder(6, shape, 16)(codes).shape == (4, *shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5,), (1, 4, 3), (2, 3, 4, 5)])
def test_a_linear_encoder_is_one_linear_map(shape, dtype):
    encoder, x = LinearEncoder(shape, 6).to(dtype), torch.rand(4, *shape, dtype=dtype)
    assert encoder.event_shape == shape
    weight, bias = encoder[-1].weight, encoder[-1].bias
    assert (weight.shape, bias.shape) == ((6, math.prod(shape)), (6,))
    assert encoder(x).dtype == dtype
    torch.testing.assert_close(encoder(x), x.flatten(1) @ weight.mT + bias, rtol=1e-5, atol=1e-5)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 6 * math.prod(shape) + 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5,), (1, 4, 3), (2, 3, 4, 5)])
def test_a_shortcut_decoder_adds_a_linear_map(shape, dtype):
    decoder, codes = ShortcutDecoder(6, shape, 16).to(dtype), torch.randn(4, 6, dtype=dtype)
    output = decoder(codes)
    assert (output.shape, output.dtype) == ((4, *shape), dtype)
    linear = (codes @ decoder.shortcut.weight.mT).view(4, *shape)
    torch.testing.assert_close(output - linear, decoder.layers(codes), rtol=1e-5, atol=1e-5)
    assert linear.abs().max() > 0.1
    with torch.no_grad():
        decoder.layers[-2].weight.zero_()
        decoder.layers[-2].bias.zero_()
    torch.testing.assert_close(decoder(codes), linear)
    torch.testing.assert_close(decoder(2 * codes), 2 * linear)


def test_a_machine_of_linear_encoder_and_shortcut_decoder():
    """A gradient everywhere, and patterns without the dimension of channels."""
    machine = KanervaMachine(
        LinearEncoder((4, 3), 6), ShortcutDecoder(6, (4, 3), 16), memory_prior=GaussianMemory(3, 6)
    )
    machine.bound((torch.rand(2, 5, 4, 3) < 0.5).float()).bound.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in machine.parameters())


def test_codes_start_at_the_scale_of_the_memory():
    """A start far from it costs hundreds of training steps."""
    images = (torch.rand(64, 1, 28, 28) < 0.2).float()
    codes = ConvEncoder((1, 28, 28), 50)(images)
    assert 0.2 < codes.std() < 5
    memory = GaussianMemory(32, 50)()
    read = torch.randn(64, 32) @ memory.rsample()
    assert 0.5 < read.std() < 3
    assert ConvDecoder(50, (1, 28, 28))(read).abs().max() < 30


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: ConvEncoder((28, 28), 10),
            r"ConvEncoder: event_shape is \(28, 28\); expected \(channels, height, width\)",
        ),
        (lambda: ConvDecoder(10, (1, 28, 28, 1)), "ConvDecoder: event_shape"),
        (lambda: MLPEncoder((0,), 10), r"MLPEncoder: event_shape is \(0,\); expected positive sizes"),
        (lambda: LinearEncoder((3, 0), 10), r"LinearEncoder: event_shape is \(3, 0\); expected positive sizes"),
        (lambda: LinearEncoder((3,), 0), "LinearEncoder: code_size is 0; expected at least 1"),
        (lambda: ShortcutDecoder(0, (3,)), "ShortcutDecoder: code_size is 0; expected at least 1"),
        (lambda: ShortcutDecoder(10, (0, 3)), r"ShortcutDecoder: event_shape is \(0, 3\); expected positive sizes"),
        (lambda: MLPDecoder(0, (3,)), "MLPDecoder: code_size is 0"),
    ],
)
def test_bad_shapes(build, message):
    with pytest.raises(ValueError, match=message):
        build()
