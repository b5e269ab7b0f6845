"""The baselines: what a reader of the paper would write in plain torch, without this library and without Pyro."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_kanerva import KanervaMachine, MatrixNormal, OnlineWriter
from pyro_kanerva.conjugate import address_posterior


def write_one_at_a_time(codes: Tensor, loc: Tensor, row_scale: Tensor, noise_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Mean R (B, K, C) and row covariance U (B, K, K) of q(M) after codes (B, T, C), by the paper's online rule.

    ::

        w = (R R^T + sigma^2 I)^-1 R z,   u = U w,   s = w^T u + sigma^2
        R <- R + u (z - R^T w)^T / s,     U <- U - u u^T / s
    """
    batch, slots = codes.shape[0], loc.shape[0]
    variance = noise_scale.square()
    mean = loc.expand(batch, *loc.shape)
    covariance = row_scale.square().diag().expand(batch, slots, slots)
    ridge = variance * torch.eye(slots, dtype=codes.dtype)
    for code in codes.unbind(1):  # (B, C)
        code = code.unsqueeze(-1)
        address = torch.linalg.solve(mean @ mean.mT + ridge, mean @ code)  # (B, K, 1)
        direction = covariance @ address
        total = address.mT @ direction + variance
        residual = code - mean.mT @ address  # (B, C, 1)
        mean = mean + direction @ residual.mT / total
        covariance = covariance - direction @ direction.mT / total
    return mean, covariance


def write_and_read(codes: Tensor, loc: Tensor, log_row_scale: Tensor, log_noise_scale: Tensor) -> Tensor:
    """Write, draw M, read every address exactly, draw it; the sum of divergences and squared error of the codes, ()."""
    (patterns, size), slots = codes.shape[1:], loc.shape[0]
    row_scale, noise_scale = log_row_scale.exp(), log_noise_scale.exp()
    mean, covariance = write_one_at_a_time(codes, loc, row_scale, noise_scale)
    matrix = mean + torch.linalg.cholesky(covariance) @ torch.randn_like(mean)

    precision = torch.eye(slots, dtype=codes.dtype) + matrix @ matrix.mT / noise_scale.square()
    address_covariance = torch.linalg.inv(precision)
    address_mean = codes @ matrix.mT / noise_scale.square() @ address_covariance  # (B, T, K)
    factor = torch.linalg.cholesky(address_covariance)
    address = address_mean + torch.randn_like(address_mean) @ factor.mT

    trace = address_covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    address_kl = patterns * (trace - slots + torch.logdet(precision)) + address_mean.square().sum((-2, -1))
    trace = (covariance.diagonal(dim1=-2, dim2=-1) / row_scale.square()).sum(-1)
    squared = ((mean - loc) / row_scale.unsqueeze(-1)).square().sum((-2, -1))
    memory_kl = size * (trace - slots + 2 * log_row_scale.sum() - torch.logdet(covariance)) + squared
    error = (codes - address @ matrix).square().sum((-2, -1))
    return 0.5 * (address_kl + memory_kl + error).sum()


def training_loss(machine: KanervaMachine, patterns: Tensor, *, closed_form: bool) -> Tensor:
    """The loss of ``machine.training_pair()`` by hand, for images (B, T, 1, H, W) and a machine of default parts.

    The divergences are in closed form as in ``TraceMeanField_ELBO``, or estimated as in ``Trace_ELBO``.
    """
    batch, length = patterns.shape[:2]
    noise_scale, prior_loc = machine.log_code_scale.exp(), machine.memory_prior.loc
    log_row_scale = machine.memory_prior.log_scale
    row_scale = log_row_scale.exp()

    codes = machine.encoder(patterns.flatten(0, 1)).view(batch, length, -1)
    prior = MatrixNormal(prior_loc, row_scale.diag(), validate_args=False)
    posterior = OnlineWriter(block_size=8, sweeps=1)(codes, prior, noise_scale).memory
    mean, factor = posterior.loc, posterior.scale_tril_row
    memory_noise = torch.randn_like(mean)
    matrix = mean + factor @ memory_noise
    address_mean, address_factor = address_posterior(codes, matrix, noise_scale)
    address_noise = torch.randn_like(address_mean)
    address = address_mean + address_noise @ address_factor.mT

    log_ratio = log_row_scale - factor.diagonal(dim1=-2, dim2=-1).log()  # (B, K)
    log_determinant = -address_factor.diagonal(dim1=-2, dim2=-1).log()  # (B, K), of half the precision
    if closed_form:
        trace = (factor / row_scale.unsqueeze(-1)).square().sum((-2, -1)) - len(row_scale)
        squared = ((mean - prior_loc) / row_scale.unsqueeze(-1)).square().sum((-2, -1))
        memory_kl = 0.5 * (mean.shape[-1] * trace + squared)
        trace = address_factor.square().sum((-2, -1)) - len(row_scale)
        address_kl = 0.5 * (length * trace + address_mean.square().sum((-2, -1)))
    else:
        squared = ((matrix - prior_loc) / row_scale.unsqueeze(-1)).square().sum((-2, -1))
        memory_kl = 0.5 * (squared - memory_noise.square().sum((-2, -1)))
        address_kl = 0.5 * (address.square().sum((-2, -1)) - address_noise.square().sum((-2, -1)))
    divergence = memory_kl + address_kl + mean.shape[-1] * log_ratio.sum(-1) + length * log_determinant.sum(-1)

    images = patterns.flatten(0, 1)
    loss = divergence.sum()
    for decoded in (address @ matrix, codes):  # the reconstruction, and the autoencoder term
        logits = machine.decoder(decoded.flatten(0, 1))
        loss = loss + F.binary_cross_entropy_with_logits(logits, images, reduction="sum")
    return loss
