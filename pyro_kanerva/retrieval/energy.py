r"""The energy of a query.

A cue ``c`` is evidence about a pattern ``x`` stored in a memory M. With a distribution q(x) and an address w::

    F(q, w) = KL(q(x) || p(x | decoder(M^T w))) - E_q log p(c | x) - log p(w)

The x-step sets ``q(x) = p(x | c, w)``, exact for every entry. After it ``F(w) = V(w) - log p(w)`` with
``V(w) = -log p(c | w, M)``, the negative log posterior of the address up to a constant. Without a channel q is a point
and ``V(w) = -log p(x | w, M)``. For address priors on a part of R^K, such as the simplex, w stands for the real
coordinates of the address, and p(w) for their density.
"""

from functools import cached_property
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_kanerva._checks import check_tensor
from pyro_kanerva._precision import autocast_off, full_precision
from pyro_kanerva.channels import Channel, UnknownLevel, check_entries, log_evidence_of, posterior_of, resolve
from pyro_kanerva.distributions import GaussianMixture
from pyro_kanerva.distributions.divergence import divergence
from pyro_kanerva.likelihoods import expected_and_mode, joint_mode
from pyro_kanerva.model import Parts
from pyro_kanerva.priors import Coordinates, as_distribution, real_coordinates
from pyro_kanerva.retrieval.base import Energy


class PointEnergy:
    """A single address w: ``-log p(c | w, M) - log p(w)``, its negative log posterior up to a constant."""

    def deviations(self, scale_tril: Tensor, num_cues: int) -> Tensor:
        """Zero, (1, 1, 1, 1)."""
        return scale_tril.new_zeros(1, 1, 1, 1)

    def address_term(self, points: Tensor, scale_tril: Tensor, coordinates: Coordinates) -> Tensor:
        """``-log p(w)``."""
        return -coordinates.log_density(points[0])


class VariationalEnergy:
    r"""A Gaussian q(w) instead of a point, the paper's variational energy (in nats)::

        E_q(w)[-log p(c | w, M)] + KL(q(w) || p(w)) >= -log p(c | M)

    The covariance of q(w) is that of q(w | x, M) in the linear-Gaussian surrogate; the query moves its mean. The
    expectation is a mean over ``num_samples`` deviations in opposite pairs. They are drawn once for a query, so that
    the energy is one function of the mean and descent holds exactly. A cue at another place has other deviations.

    :param num_samples: even; each costs a decoder pass.
    :param seed: of the deviations.
    :raises ValueError: if ``num_samples`` is not an even positive number.

    Source: Wu et al. 2018 (arXiv 1811.09556), section 3.4.
    """

    def __init__(self, num_samples: int = 8, seed: int = 0) -> None:
        if num_samples < 2 or num_samples % 2:
            raise ValueError(f"VariationalEnergy: num_samples is {num_samples}; expected an even number, 2 or more.")
        self.num_samples, self.seed = num_samples, seed

    @full_precision
    def deviations(self, scale_tril: Tensor, num_cues: int) -> Tensor:
        """``+-scale_tril @ noise``, (S, B, Q, K)."""
        batch, slots = scale_tril.shape[0], scale_tril.shape[-1]
        generator = torch.Generator(scale_tril.device).manual_seed(self.seed)
        shape = (self.num_samples // 2, batch, num_cues, slots)
        noise = torch.randn(shape, generator=generator, dtype=scale_tril.dtype, device=scale_tril.device)
        half = noise @ scale_tril.mT
        return torch.cat((half, -half))

    def address_term(self, points: Tensor, scale_tril: Tensor, coordinates: Coordinates) -> Tensor:
        """KL(q(w) || p(w)), in closed form for a Gaussian prior, else over the samples."""
        q = dist.MultivariateNormal(points.mean(0), scale_tril=scale_tril.unsqueeze(1), validate_args=False)
        if coordinates.base is not None:
            return divergence(q, coordinates.base, points)
        return (q.log_prob(points) - coordinates.log_density(points)).mean(0)


def cue_log_evidence(
    values: Tensor, prediction: dist.TorchDistribution, channel: Channel | None, observed: Tensor
) -> Tensor:
    """``-V`` in nats, (S, B, Q): log p(c = values | w, M) under a channel, log p(x = values | w, M) without one.

    :param values: cues, or without a channel patterns, (B, Q) + E.
    :param prediction: p(x | w, M) of every entry at S addresses of each cue, (S, B, Q) + E.
    :param channel: of a known level.
    :param observed: bool, of the shape of the cues; under a channel False entries count 0, without one it is ignored.
    """
    if channel is None:
        check_entries(prediction)
        entries = prediction.log_prob(values)
    else:
        entries = torch.where(observed, log_evidence_of(channel, values, prediction), 0.0)
    return entries.flatten(3).sum(-1)


class Trial(NamedTuple):
    """The energy at a point, and the x-step there; tensors that start with (B, Q)."""

    point: Tensor  # (B, Q, n), the coordinates of the address
    energy: Tensor  # (B, Q), infinite for inactive queries
    next_energy: Tensor  # (B, Q), after the x-step: without a channel, that of the pattern ``mode``
    gradient: Tensor  # (B, Q, n), of ``next_energy`` with respect to the point
    expected: Tensor  # (B, Q) + E, E_q[x]
    mode: Tensor  # (B, Q) + E, the mode of q(x)


class QueryEnergy:
    """The energy of all cues of a query, as a function of real coordinates of their addresses.

    :param matrix: M, shape (B, K, C).
    :param cues: (B, Q) + E.
    :param observed: bool, of the shape of the cues, or None if all entries are.
    """

    def __init__(
        self,
        parts: Parts,
        matrix: Tensor,
        cues: Tensor,
        channel: Channel | None,
        observed: Tensor | None,
        energy: Energy,
    ) -> None:
        self.parts, self.matrix, self.cues, self.channel, self.energy = parts, matrix, cues, channel, energy
        self.observed = torch.ones_like(cues, dtype=torch.bool) if observed is None else observed
        #: Entries of the pattern that keep the value of the cue in a query without a channel.
        self.clamped = ~self.observed if observed is None else self.observed
        self.prior = as_distribution(parts.address_prior)
        self.coordinates = self._coordinates()

    def _coordinates(self) -> Coordinates:
        return real_coordinates(self.prior)

    @cached_property
    @torch.no_grad()
    def scale_tril(self) -> Tensor:
        """Cholesky factor (B, n, n) of the covariance of q(w | x, M), in real coordinates."""
        return self.coordinates.posterior_scale_tril(self.matrix, self.parts.code_scale)

    @cached_property
    def deviations(self) -> Tensor:
        """Where V is evaluated, relative to a point, (S, B, Q, n)."""
        result = self.energy.deviations(self.scale_tril, self.cues.shape[1])
        label = f"The energy {type(self.energy).__name__}: deviations()"
        shape = (*self.cues.shape[:2], self.coordinates.size)
        check_tensor(label, result, f"a tensor (S,) + {shape}, or broadcastable to it")
        if result.dim() != 4 or any(size not in (1, full) for size, full in zip(result.shape[1:], shape, strict=True)):
            raise ValueError(
                f"{label} returned shape {tuple(result.shape)}; expected (S,) + {shape}, or a 1 for a size."
            )
        return result

    def center(self) -> Tensor:
        """The point (n,) of an address in the middle of the prior."""
        return self.coordinates.center(self.cues)

    def nearest_point(self, address: Tensor) -> Tensor:
        """The point (..., n) of the legal address next to the reader's ``address`` (..., K)."""
        return self.coordinates.inverse(address)

    @torch.no_grad()
    def best_component(self) -> Tensor | None:
        """Where the prior is a mixture: for each cue the mean of the component that explains it best, (B, Q, n).

        None for other priors, and for a query without a channel whose entries are all observed: without a channel the
        likelihood says nothing about noise, and a noisy cue fits a slot that holds nothing best. Every component is
        decoded once for a memory, not once for a cue.
        """
        if not isinstance(self.prior, GaussianMixture) or (self.channel is None and bool(self.observed.all())):
            return None
        means = self.prior.component_means  # (J, K)
        outputs = self.parts.decoder_output(self.parts.code(means, self.matrix))  # (B, J) + its shape
        shape, scores = (1, *self.cues.shape), []
        for index in range(len(means)):
            output = outputs[:, index].unsqueeze(1).expand(*shape[1:3], *outputs.shape[2:])
            prediction = self.parts.likelihood_of(output.unsqueeze(0), shape)
            channel = self._known_channel(prediction)
            check_entries(prediction)
            entries = (
                prediction.log_prob(self.cues) if channel is None else log_evidence_of(channel, self.cues, prediction)
            )
            log_evidence = torch.where(self.observed, entries, 0.0).flatten(3).sum(-1).squeeze(0)
            scores.append(log_evidence + self.prior.log_prob(means[index]))
        return means[torch.stack(scores).argmax(0)]

    def _address_term(self, points: Tensor) -> Tensor:
        result = self.energy.address_term(points, self.scale_tril, self.coordinates)
        label = f"The energy {type(self.energy).__name__}: address_term()"
        check_tensor(label, result, f"nats, a tensor {tuple(points.shape[1:3])}")
        if result.shape != points.shape[1:3]:
            raise ValueError(
                f"{label} returned shape {tuple(result.shape)}; expected {tuple(points.shape[1:3])}, nats."
            )
        return result

    def _decode(self, points: Tensor, active: Tensor) -> Tensor:
        """The decoder's output for ``active`` queries at points (S, B, Q, n): (S, number) + its shape."""
        return self.parts.decoder_output(self.parts.code(self.coordinates.address(points), self.matrix)[:, active])

    def _gradient(self, energy: Tensor, point: Tensor) -> Tensor:
        with autocast_off(point):
            return torch.autograd.grad(energy, point)[0]

    def _known_channel(self, prediction: dist.TorchDistribution) -> Channel | None:
        """The channel at its most likely level for each cue."""
        if self.channel is None:
            return None
        return resolve(self.channel, self.cues, prediction, self.observed, self._level_dims)

    @property
    def _level_dims(self) -> tuple[int, ...]:
        return (0, *range(3, 1 + self.cues.dim()))  # of a prediction (S, B, Q) + E: one level for each query

    def level(self, point: Tensor) -> Tensor | None:
        """The most likely level (B, Q) of an :class:`UnknownLevel` at ``point`` (B, Q, n); None for other channels."""
        if not isinstance(self.channel, UnknownLevel):
            return None
        everyone = torch.ones(self.cues.shape[:2], dtype=torch.bool, device=self.cues.device)
        prediction = self._predict(point + self.deviations, everyone)
        return self.channel.estimate(self.cues, prediction, self.observed, self._level_dims).reshape(everyone.shape)

    def at(self, address: Tensor) -> Tensor:
        """The point energy (B, Q) of addresses (B, Q, K), differentiable. Without a channel its x is the cue."""
        prediction = self.parts.predict(address.unsqueeze(0), self.matrix, tuple(self.cues.shape[2:]))
        log_evidence = cue_log_evidence(self.cues, prediction, self._known_channel(prediction), self.observed)
        return -self.coordinates.log_density(self.coordinates.inverse(address)) - log_evidence.mean(0)

    def evaluate(self, point: Tensor, pattern: Tensor, active: Tensor) -> Trial:
        """The energy at ``point`` (B, Q, n) and the x-step there, decoded for ``active`` queries (B, Q).

        :param pattern: without a channel, the x of the energy, (B, Q) + E.

        The gradient is that of ``next_energy``: a pass forward and backward through the decoder.
        """
        with torch.enable_grad():
            point = point.detach().requires_grad_()
            points = point + self.deviations  # (S, B, Q, n)
            prediction = self._predict(points, active)
            address_term = self._address_term(points)
            channel = self._known_channel(prediction)
            if channel is None:
                with torch.no_grad():
                    mode = torch.where(self.clamped, self.cues, joint_mode(prediction))
                    log_evidence = cue_log_evidence(pattern, prediction, None, self.observed)
                expected, next_log_evidence = mode, cue_log_evidence(mode, prediction, None, self.observed)
            else:
                log_evidence = next_log_evidence = cue_log_evidence(self.cues, prediction, channel, self.observed)
                with torch.no_grad():
                    posterior = expected_and_mode(posterior_of(channel, self.cues, prediction))
                    unseen = expected_and_mode(prediction)
                    expected, mode = (torch.where(self.observed, *pair) for pair in zip(posterior, unseen, strict=True))
            energy, next_energy = (address_term - term.mean(0) for term in (log_evidence, next_log_evidence))
            gradient = self._gradient(next_energy[active].sum(), point)
        energy = torch.where(active, energy.detach(), torch.inf)
        return Trial(point.detach(), energy, next_energy.detach(), gradient, expected.detach(), mode)

    def _predict(self, points: Tensor, active: Tensor) -> dist.TorchDistribution:
        """p(x | w, M) of every entry at points (S, B, Q, n): (S, B, Q) + E.

        Inactive queries are filled with a copy of an active row: any valid decoder output will do.
        """
        parameters = self._decode(points, active)
        shape = torch.Size((len(parameters), *active.shape))
        output = parameters[:, :1].detach().unsqueeze(1).expand(*shape, *parameters.shape[2:]).clone()
        output[:, active] = parameters
        return self.parts.likelihood_of(output, (len(parameters), *self.cues.shape))
