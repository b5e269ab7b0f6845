"""Default networks: any size of image, gradients everywhere, and clear errors."""

import pytest
import torch

from pyro_kanerva import ConvDecoder, ConvEncoder, GaussianMemory, KanervaMachine, MLPDecoder, MLPEncoder


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
        (lambda: MLPDecoder(0, (3,)), "MLPDecoder: code_size is 0"),
    ],
)
def test_bad_shapes(build, message):
    with pytest.raises(ValueError, match=message):
        build()
