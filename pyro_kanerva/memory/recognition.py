"""Which patterns are stored, and which of the stored patterns they are."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_kanerva._checks import check_dense, check_number
from pyro_kanerva._precision import autocast_off
from pyro_kanerva._repr import short_repr
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.memory.records import Record, WriteRecord
from pyro_kanerva.model import Parts
from pyro_kanerva.priors import as_distribution, exact_gaussian_or_none, moment_matched_memory, point_address
from pyro_kanerva.readers import ExactReader

_ROUNDING = 1e-9  # more than the rounding errors of N * false_alarms


@short_repr
class Recognition(NamedTuple):
    """Which patterns are stored.

    ``stored`` (B, Q), bool: ``score > threshold``. ``score`` (B, Q), in nats: high for stored patterns. ``threshold``
    (B, 1), in nats: the score that too few patterns exceed if they are not stored.
    """

    stored: Tensor
    score: Tensor
    threshold: Tensor


@short_repr
class Identification(NamedTuple):
    """The stored pattern that is nearest to each pattern.

    ``record`` (B, Q): an index into ``memory.records``. ``pattern`` (B, Q): an index into the patterns of that record.
    ``distance`` (B, Q): the distance of the two codes, in units of the code scale sigma.
    """

    record: Tensor
    pattern: Tensor
    distance: Tensor


def code_log_bayes_factor(parts: Parts, posterior: MatrixNormal, codes: Tensor) -> Tensor:
    """``log p(z | q(M)) - log p(z | p(M))`` in nats, (B, Q), of codes z (B, Q, C).

    This is :func:`pyro_kanerva.evaluation.familiarity`.
    """
    prior = moment_matched_memory(parts.memory_prior).expand(posterior.batch_shape)
    with autocast_off(codes):
        return _code_log_evidence(parts, posterior, codes) - _code_log_evidence(parts, prior, codes)


def _code_log_evidence(parts: Parts, posterior: MatrixNormal, codes: Tensor) -> Tensor:
    """log p(z | q(M)), (B, Q), of codes (B, Q, C)."""
    prior = as_distribution(parts.address_prior)
    if exact_gaussian_or_none(prior) is None:
        reader = parts.read_codes(codes, posterior.loc)
    else:
        reader = ExactReader()(codes, posterior.loc, prior, parts.code_scale)
    discrete = reader.has_enumerate_support
    # All one-hot addresses (K, ..., K), or the point address (B, Q, K).
    address = reader.enumerate_support(expand=False) if discrete else point_address(reader)
    variance = (address @ posterior.scale_tril_row).square().sum(-1)  # w^T U w
    scale = (parts.code_scale**2 + variance).sqrt().unsqueeze(-1)
    log_evidence = dist.Normal(address @ posterior.loc, scale, validate_args=False).log_prob(codes).sum(-1)
    log_evidence = log_evidence + prior.log_prob(address)
    return log_evidence.logsumexp(0) if discrete else log_evidence - reader.log_prob(address)


def recognize_scores(score: Tensor, held_out_score: Tensor, false_alarms: float = 0.01) -> Recognition:
    """Which patterns of ``score`` (B, Q) are stored, from the scores (B, N) of patterns that are not: any score works.

    ::

        threshold = the k-th smallest of the N scores,    k = ceil((N + 1) (1 - false_alarms))

    The score of one more pattern that is not stored has any of N + 1 ranks with equal probability. So it exceeds the
    threshold with a probability of at most ``false_alarms``, for every distribution of scores. Source: Vovk, Gammerman
    and Shafer 2005, "Algorithmic Learning in a Random World" (split conformal prediction).

    :param score: high for stored patterns, for example ``-retrieval.energy[-1]``.
    :raises ValueError: if N is less than ``1 / false_alarms - 1``, a score is NaN, or ``false_alarms`` is not between 0
        and 1.
    """
    check_dense("recognize_scores(): score", score)
    check_dense("recognize_scores(): held_out_score", held_out_score)
    if score.dim() != 2 or held_out_score.dim() != 2 or len(score) != len(held_out_score):
        raise ValueError(
            f"recognize_scores(): score and held_out_score have shapes {tuple(score.shape)} and "
            f"{tuple(held_out_score.shape)}; expected (B, Q) and (B, N)."
        )
    num_held_out = held_out_score.shape[-1]
    check_false_alarms(false_alarms, num_held_out)
    if bool(score.isnan().any()) or bool(held_out_score.isnan().any()):
        raise ValueError("recognize_scores(): scores are NaN; expected numbers, high for stored patterns.")
    above = math.floor((num_held_out + 1) * false_alarms + _ROUNDING)  # N + 1 - k
    threshold = held_out_score.kthvalue(num_held_out + 1 - above, -1, keepdim=True).values
    return Recognition(score > threshold, score, threshold)


def check_false_alarms(false_alarms: float, num_held_out: int) -> None:
    """:raises ValueError: if the rate is not between 0 and 1, or too low for so few held-out patterns."""
    check_number("false_alarms", false_alarms, "a rate above 0 and below 1")
    if not 0 < false_alarms < 1:
        raise ValueError(f"false_alarms is {false_alarms}; expected a rate above 0 and below 1.")
    needed = math.ceil(1 / false_alarms - 1 - _ROUNDING)
    if num_held_out < needed:
        raise ValueError(
            f"There are {num_held_out} held-out patterns; false_alarms={false_alarms:g} needs at least {needed}. Pass "
            "more patterns that are not stored, or allow more false alarms."
        )


def nearest_code(records: Sequence[Record], codes: Tensor, code_scale: Tensor) -> Identification:
    """The codes of ``records`` that are nearest to ``codes`` (B, Q, C).

    :raises ValueError: if no record keeps codes.
    """
    kept = [(place, record.codes) for place, record in enumerate(records) if isinstance(record, WriteRecord)]
    if not sum(stored.shape[-2] for _, stored in kept):
        raise ValueError(
            f"identify(): none of the {len(records)} records of the memory keeps codes; expected a WriteRecord with "
            "patterns. A StreamRecord keeps only sums: write tensors, not a stream, to identify patterns."
        )
    stored = torch.cat([stored for _, stored in kept], -2)
    places = [(place, index) for place, record in kept for index in range(record.shape[-2])]
    # Not by the expansion of |a - b|^2, whose digits cancel for equal codes.
    distances = torch.cdist(codes, stored, compute_mode="donot_use_mm_for_euclid_dist")
    distance, nearest = distances.min(-1)
    record, pattern = torch.tensor(places, device=codes.device)[nearest].unbind(-1)
    return Identification(record, pattern, distance / code_scale)
