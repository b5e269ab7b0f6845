"""Writers: how an episode becomes q(M), the amortized variational guide of the memory.

A writer is any callable ``(codes (B, T, C), prior: MatrixNormal, code_scale) -> WriteResult``. One that also
has a method ``refine(machine, patterns, codes, result, prior) -> WriteResult`` is shown the patterns afterwards.
One that does not keep what a memory held has the attribute ``forgets = True``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_kanerva.conjugate import (
    NaturalParameters,
    add_evidence,
    address_posterior,
    block_update,
    evidence,
)
from pyro_kanerva.factorization import cholesky
from pyro_kanerva.matrix_normal import MatrixNormal
from pyro_kanerva.priors import Prior, as_distribution, gaussian_memory, is_real, point_address
from pyro_kanerva.readers import LaplaceReader, apply_network
from pyro_kanerva.sequential import write_sequence

if TYPE_CHECKING:
    from pyro_kanerva.machine import KanervaMachine


class WriteResult(NamedTuple):
    """What a writer returns: q(M) and the addresses under which the patterns were stored.

    ``memory`` has batch (B,) and event (K, C); ``addresses`` (B, T, K) are the means E[w_t], and
    ``address_scale_tril`` (B, K, K) the Cholesky factor of their covariance where it entered the update.
    ``evidence`` is what they added to the natural parameters, where the writer happens to know it.
    """

    memory: MatrixNormal
    addresses: Tensor
    address_scale_tril: Tensor | None = None
    evidence: NaturalParameters | None = None


class OnlineWriter(nn.Module):
    """Dynamic addressing: each block's addresses are inferred from the memory as it stands, then written.

    ::

        for each block Z of block_size patterns:
            W <- E[w | Z, R]                            exact address posterior given the mean
            MN(R, U) <- block update with (W, Z)        Bayes' rule
        then sweeps times: all q(w_t) given q(M), and q(M) given all q(w_t)     coordinate ascent

    ``block_size=1, sweeps=0`` is the paper's rule. Larger blocks are faster, since the addresses of a
    block do not wait for each other; sweeps raise the bound.

    :param block_size: patterns written at once.
    :param sweeps: coordinate-ascent sweeps over the episode after the last block.
    :raises ValueError: if ``block_size < 1`` or ``sweeps < 0``.

    The addresses have the surrogate prior Normal(0, I). Source: Wu et al. 2018 (arXiv 1811.09556),
    section 3.3.
    """

    def __init__(self, block_size: int = 1, sweeps: int = 0) -> None:
        super().__init__()
        _check("OnlineWriter", block_size, sweeps)
        self.block_size, self.sweeps = block_size, sweeps

    def extra_repr(self) -> str:
        return f"block_size={self.block_size}, sweeps={self.sweeps}"

    def forward(self, codes: Tensor, prior: MatrixNormal, code_scale: Tensor) -> WriteResult:
        """Write ``codes`` (B, T, C) into ``prior``; its batch shape is () or (B,)."""
        memory, addresses, factor, part = write_sequence(prior, codes, code_scale, self.block_size, self.sweeps)
        return WriteResult(memory.expand(codes.shape[:-2]), addresses, factor, part)


class ReadingWriter(nn.Module):
    """Dynamic addressing with a reader of your choice, for address priors on a part of R^K, such as the simplex.

    ::

        for each block Z of block_size patterns:
            W <- the point address of reader(Z, R, address_prior)
            MN(R, U) <- block update with (W, Z)
        then sweeps times: all W from the whole memory, and q(M) from all W

    :param address_prior: that of the machine; the same object, where it is learned.
    :param reader: by default :class:`LaplaceReader`.
    :param block_size: patterns written at once.
    :param sweeps: repetitions over the whole episode after the last block.
    :raises ValueError: if ``block_size < 1`` or ``sweeps < 0``.
    """

    def __init__(
        self,
        address_prior: Prior,
        reader: Callable[[Tensor, Tensor, dist.TorchDistribution, Tensor], dist.TorchDistribution] | None = None,
        block_size: int = 8,
        sweeps: int = 1,
    ) -> None:
        super().__init__()
        _check("ReadingWriter", block_size, sweeps)
        self.address_prior = address_prior
        self.reader = LaplaceReader() if reader is None else reader
        self.block_size, self.sweeps = block_size, sweeps

    def forward(self, codes: Tensor, prior: MatrixNormal, code_scale: Tensor) -> WriteResult:
        """Write ``codes`` (B, T, C) into ``prior``; its batch shape is () or (B,)."""
        address_prior = as_distribution(self.address_prior)
        empty = prior.expand(codes.shape[:-2])
        memory, written = empty, []
        for block in codes.split(self.block_size, dim=-2):
            addresses = point_address(self.reader(block, memory.loc, address_prior, code_scale))
            memory = block_update(memory, addresses, block, code_scale)
            written.append(addresses)
        result = WriteResult(memory, torch.cat(written, dim=-2))
        for _ in range(self.sweeps):
            addresses = point_address(self.reader(codes, result.memory.loc, address_prior, code_scale))
            result = WriteResult(block_update(empty, addresses, codes, code_scale), addresses)
        return result


class SlotWriter(nn.Module):
    r"""Each pattern goes to one slot, uncertain to which: Bayesian clustering of the codes.

    With the weights ``r[t, k] = q(w_t = e_k)`` the slots are independent, and ``U`` is diagonal::

        one after the other:   r[t] is proportional to p(e_k) Normal(z_t; R[k], (U[k, k] + sigma^2) I)
                               1 / U[k, k] += r[t, k] / sigma^2,   R[k] += U[k, k] r[t, k] (z_t - R[k]) / sigma^2
        then sweeps times:     r[t] is proportional to p(e_k) exp E[log Normal(z_t; M[k], sigma^2 I)]
                               and q(M) from all r

    A slot that is still free predicts broadly, so that a code unlike all others takes one.

    :param sweeps: of coordinate ascent over the whole episode; the bound of the surrogate never falls from
        one to the next.
    :param address_prior: that of the machine, a ``OneHotCategorical``; by default all slots are equally likely.
    :raises ValueError: if ``sweeps < 0``.

    The addresses of the result are the weights r. Slots that the prior correlates are written as if they were
    not. Source: Bishop 2006, "Pattern Recognition and Machine Learning", section 10.2.
    """

    def __init__(self, sweeps: int = 2, address_prior: Prior | None = None) -> None:
        super().__init__()
        _check("SlotWriter", 1, sweeps)
        self.sweeps, self.address_prior = sweeps, address_prior

    def forward(self, codes: Tensor, prior: MatrixNormal, code_scale: Tensor) -> WriteResult:
        """Write ``codes`` (B, T, C) into ``prior``; its batch shape is () or (B,)."""
        variance, size = code_scale**2, codes.shape[-1]
        logits = 0.0 if self.address_prior is None else as_distribution(self.address_prior).logits
        start = prior.expand(codes.shape[:-2])
        start_precision = start.variance[..., 0].reciprocal()  # (B, K)
        loc, precision, weights = start.loc, start_precision, []
        for code in codes.unbind(-2):
            difference = code.unsqueeze(-2) - loc  # (B, K, C)
            spread = precision.reciprocal() + variance
            fit = -0.5 * (difference.square().sum(-1) / spread + size * spread.log())
            weight = (fit + logits).softmax(-1)
            precision = precision + weight / variance
            loc = loc + (weight / (variance * precision)).unsqueeze(-1) * difference
            weights.append(weight)
        addresses = torch.stack(weights, -2)  # (B, T, K)
        for _ in range(self.sweeps):
            # E |z - M[k]|^2 = |z - R[k]|^2 + C U[k, k], less |z|^2
            fit = codes @ loc.mT - 0.5 * (loc.square().sum(-1) + size / precision).unsqueeze(-2)
            addresses = (fit / variance + logits).softmax(-1)
            precision = start_precision + addresses.sum(-2) / variance
            information = start_precision.unsqueeze(-1) * start.loc + addresses.mT @ codes / variance
            loc = information / precision.unsqueeze(-1)
        factor = precision.rsqrt().diag_embed()
        return WriteResult(MatrixNormal(loc, factor, validate_args=False), addresses)


class FrameWriter(nn.Module):
    r"""All addresses in one frame, whatever a memory holds, so that writes commute and memories merge exactly.

    ::

        W = Z R0^T (R0 R0^T + sigma^2 I)^-1         the addresses that the frame's mean R0 would give
        q(M) = the exact posterior given W

    Patterns written in any order, in any number of parts or by any number of processes give the same memory. What is
    lost against :class:`OnlineWriter`: an address does not make use of what is stored already.

    :param frame: usually the memory prior of the machine, the same object; its mean is R0.
    """

    def __init__(self, frame: Prior) -> None:
        super().__init__()
        self.frame = frame

    def forward(self, codes: Tensor, prior: MatrixNormal, code_scale: Tensor) -> WriteResult:
        """Write ``codes`` (B, T, C) into ``prior``; its batch shape is () or (B,)."""
        addresses = address_posterior(codes, gaussian_memory(self.frame).loc, code_scale).loc
        part = evidence(addresses, codes, code_scale)
        return WriteResult(add_evidence(prior, part).expand(codes.shape[:-2]), addresses, evidence=part)


class AmortizedWriter(nn.Module):
    """A network reads the addresses off the codes, and the memory is the exact posterior given them: the 2018
    Kanerva Machine.

    :param network: codes (N, C) -> addresses (N, K); of (N, 2 K), as :class:`AmortizedReader` wants it, the
        first half is taken, so that both can share one network.

    Source: Wu, Wayne, Graves, Lillicrap 2018, "The Kanerva Machine" (arXiv 1804.01756), section 3.3.
    """

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network

    def forward(self, codes: Tensor, prior: MatrixNormal, code_scale: Tensor) -> WriteResult:
        """Write ``codes`` (B, T, C) into ``prior``; its batch shape is () or (B,).

        :raises ValueError: if the network returns another shape.
        """
        slots = prior.event_shape[0]
        addresses = apply_network("AmortizedWriter", self.network, codes, (slots, 2 * slots))[..., :slots]
        memory = block_update(prior.expand(codes.shape[:-2]), addresses, codes, code_scale)
        return WriteResult(memory, addresses)


class PseudoInverseWriter(nn.Module):
    r"""Two least-squares problems instead of Bayes' rule: the Generative Pseudo-Inverse Memory.

    ::

        W = Z R0^+,      R = W^+ Z,      q(M) = MatrixNormal(R, diag(scale^2), I)

    with the prior's mean R0, pseudo-inverses with a small ridge, and learned scales of the slots. What a memory
    held before is not in W: a written memory cannot be continued, and :meth:`Memory.write` says so.

    :param num_slots: K.
    :param scale: where the standard deviations of the slots start.
    :param ridge: relative to the mean eigenvalue of the matrix that is inverted.
    :raises ValueError: if an argument is not positive.

    Source: Pham, Le, Ngo, Tran, Venkatesh 2022, "Generative Pseudo-Inverse Memory" (ICLR), section 3; there
    the memory is a point.
    """

    forgets = True

    def __init__(self, num_slots: int, scale: float = 0.1, ridge: float = 1e-3) -> None:
        super().__init__()
        for name, value in (("num_slots", num_slots), ("scale", scale), ("ridge", ridge)):
            if not 0 < value < math.inf:
                raise ValueError(f"PseudoInverseWriter: {name} is {value}; expected a positive number.")
        self.ridge = ridge
        self.log_scale = nn.Parameter(torch.full((num_slots,), math.log(scale)))

    def _solve(self, design: Tensor, targets: Tensor) -> Tensor:
        """``(D^T D + ridge)^-1 D^T targets`` for a design D (..., n, m)."""
        gram = design.mT @ design
        ridge = self.ridge * gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        return torch.cholesky_solve(design.mT @ targets, cholesky(gram + ridge * identity, "the normal matrix"))

    def forward(self, codes: Tensor, prior: MatrixNormal, code_scale: Tensor) -> WriteResult:
        """Write ``codes`` (B, T, C); of ``prior`` only the mean is used.

        :raises ValueError: if the memory has another number of slots.
        """
        if prior.event_shape[0] != len(self.log_scale):
            raise ValueError(
                f"PseudoInverseWriter: the memory has {prior.event_shape[0]} slots; expected {len(self.log_scale)}, "
                "num_slots of the writer."
            )
        start = prior.expand(codes.shape[:-2]).loc
        addresses = self._solve(start.mT, codes.mT).mT  # (B, T, K)
        factor = self.log_scale.exp().diag_embed()
        return WriteResult(MatrixNormal(self._solve(addresses, codes), factor, validate_args=False), addresses)


class RefinedWriter(nn.Module):
    r"""A writer whose q(M) is improved by gradient steps on the machine's own bound, for every episode.

    From the closed-form start ``(R, L)`` of ``writer``, with the decoder's true likelihood instead of the
    surrogate's::

        minimize over R and the diagonal of L:      -E_q log p(X | M) + KL(q(M) || p(M)),      by Adam

    The correction is a constant for the gradient of training: a semi-amortized guide.

    :param writer: where to start from.
    :param num_steps: of Adam, each a pass forward and backward through the decoder.
    :param learning_rate: relative to the standard deviations of the slots.
    :raises ValueError: if ``num_steps < 1``, or the learning rate is not positive.

    Source: Kim, Wiseman, Miller, Sontag, Rush 2018, "Semi-Amortized Variational Autoencoders"
    (arXiv 1802.02550).
    """

    def __init__(
        self,
        writer: Callable[[Tensor, MatrixNormal, Tensor], WriteResult],
        num_steps: int = 5,
        learning_rate: float = 0.1,
    ) -> None:
        super().__init__()
        if num_steps < 1 or not 0 < learning_rate < math.inf:
            raise ValueError(
                f"RefinedWriter: num_steps is {num_steps}, learning_rate {learning_rate}; expected at least 1, and a "
                "positive number."
            )
        self.writer, self.num_steps, self.learning_rate = writer, num_steps, learning_rate

    def forward(self, codes: Tensor, prior: MatrixNormal, code_scale: Tensor) -> WriteResult:
        """The start."""
        return self.writer(codes, prior, code_scale)

    def refine(
        self,
        machine: KanervaMachine,
        patterns: Tensor,
        codes: Tensor,
        result: WriteResult,
        prior: MatrixNormal | None,
    ) -> WriteResult:
        """``result`` with a better q(M) for ``patterns`` (B, T) + E, written into ``prior``, or the memory prior."""
        memory = result.memory
        loc, factor = memory.loc, memory.scale_tril_row.expand(*memory.batch_shape, -1, -1)
        deviation = factor.square().sum(-1, keepdim=True).sqrt()  # (B, K, 1)
        with torch.inference_mode(False), torch.enable_grad():
            # clones: tensors of inference mode would have no gradients
            start, shape, width = (part.detach().clone() for part in (loc, factor, deviation))
            patterns, codes = patterns.clone(), codes.detach().clone()
            target = as_distribution(machine.memory_prior)
            if prior is not None:
                target = MatrixNormal(prior.loc.clone(), prior.scale_tril_row.clone(), validate_args=False)
            shift, stretch = (torch.zeros_like(part).requires_grad_() for part in (start, width))
            optimizer = torch.optim.Adam([shift, stretch], lr=self.learning_rate)
            for _ in range(self.num_steps):
                moved = MatrixNormal(start + width * shift, shape * stretch.exp().mT, validate_args=False)
                loss = -machine.bound_of(patterns, codes, moved, target).bound.sum()
                shift.grad, stretch.grad = torch.autograd.grad(loss, [shift, stretch])
                optimizer.step()
        moved = MatrixNormal(
            loc + width * shift.detach(), factor * stretch.detach().exp().mT, validate_args=False
        )  # the correction has no gradient, the start has
        return result._replace(memory=moved)


WRITERS_THAT_ADDRESS = (OnlineWriter, FrameWriter, ReadingWriter, SlotWriter, PseudoInverseWriter)


def writer_for(prior: Prior) -> nn.Module:
    """The writer that fits an address prior: by slots, on R^K in closed form, else with a reader."""
    distribution = as_distribution(prior)
    if isinstance(distribution, dist.OneHotCategorical):
        return SlotWriter(address_prior=prior)
    return OnlineWriter(block_size=8, sweeps=1) if is_real(distribution) else ReadingWriter(prior)


def _check(name: str, block_size: int, sweeps: int) -> None:
    if block_size < 1:
        raise ValueError(f"{name}: block_size is {block_size}; expected at least 1.")
    if sweeps < 0:
        raise ValueError(f"{name}: sweeps is {sweeps}; expected 0 or more.")
