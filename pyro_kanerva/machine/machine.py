"""The Kanerva machine: parts, their Pyro model and guide, and the memory that they write."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import torch
from torch import Tensor

from pyro_kanerva._checks import check_at_least, check_type
from pyro_kanerva._files import PathLike
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.machine.storage import load_machine, save_machine
from pyro_kanerva.memory import Memory
from pyro_kanerva.model import Bound, InParamStore, Parts, Program
from pyro_kanerva.model.bound import lower_bound
from pyro_kanerva.model.generative_model import generative_model
from pyro_kanerva.model.guide import variational_guide
from pyro_kanerva.priors import moment_matched_memory


class KanervaMachine(Parts, InParamStore):
    r"""The Dynamic Kanerva Machine as a Pyro model and guide.

    ::

        M   ~ memory_prior                          (K, C), one per episode
        w_t ~ address_prior                         (K,), one per pattern
        x_t ~ likelihood(decoder(M^T w_t))          the patterns of an episode are exchangeable

    and, in the guide, with the codes ``z_t = encoder(x_t)`` and ``sigma = code_scale``::

        M   ~ writer(z_1 ... z_T)                   an amortized variational posterior of the memory
        w_t ~ reader(z_t, M)

    :param encoder: patterns (N,) + E -> codes (N, C); a module or callable. It may state E in an attribute
        ``event_shape``; without it, patterns need all their dimensions (B, T) + E.
    :param decoder: codes (N, C) -> the parameters that ``likelihood`` expects; a module or callable.
    :param memory_prior: a Pyro distribution of event shape (K, C), or a callable that returns one.
    :param address_prior: likewise of event shape (K,); by default :class:`GaussianAddress`.
    :param likelihood: callable from decoder output to a Pyro distribution of the pattern's entries; by
        default :class:`BernoulliLikelihood`.
    :param writer: by default one that fits the address prior: ``OnlineWriter(block_size=8, sweeps=1)``, or
        :class:`SlotWriter`, or :class:`ReadingWriter`.
    :param reader: likewise: :class:`ExactReader`, :class:`SlotReader`, or :class:`LaplaceReader`.
    :param code_posterior: makes the codes latent, as in the 2018 Kanerva Machine: ``z_t ~ Normal(M^T w_t,
        sigma^2 I)`` is decoded, and this callable returns q(z | x), of event shape (C,), from the code of x;
        see :class:`GaussianCode`. By default the code that is decoded is ``M^T w_t``.
    :param code_scale: where the learned ``sigma`` starts, the standard deviation of the code noise in the
        linear-Gaussian surrogate of writer and reader. It is part of the generative model only with ``code_posterior``.
    :param name: begins the names of the parameters in Pyro's parameter store, so that another process can load a saved
        store. Without one, they begin with a key that depends on the order in which machines are made.
        :meth:`save` and ``state_dict()`` are the ordinary ways to keep parameters, and need no name.
    :raises ValueError: if ``code_scale`` is not positive, or the priors have other event shapes, different
        numbers of slots, or a batch shape; or if a living machine has the name.

    Source: Wu, Wayne, Gregor, Lillicrap 2018 (arXiv 1811.09556).
    """

    #: The plain values that :func:`pyro_kanerva.weights.build_machine` built the machine from; None for other machines.
    config: dict[str, Any] | None = None

    @property
    def model(self) -> Program:
        """The generative model, ``model(patterns)`` with patterns (B, T) + E or (T,) + E. It returns the patterns.

        Sites "memory" (batch (B, 1), event (K, C)), "address" (batch (B, T), event (K,)) and "pattern" (batch (B, T),
        event E, observed); plates "episode" (dim -2) and "pattern_plate" (dim -1).

        ``model(None, num_patterns=T, num_episodes=B)`` draws the patterns, and returns them: the site "pattern" is not
        observed then. T is by default K, the number of slots, and B is 1. With Pyro's ``Predictive`` and ``poutine``::

            # prior predictive: "memory" (S, B, 1, K, C), "address" (S, B, T, K), "pattern" (S, B, T) + E
            Predictive(machine.model, num_samples=S)(None, num_patterns=T, num_episodes=B)
            # posterior predictive: "memory" and "address" from the guide, and replicated patterns at these addresses
            draws = Predictive(poutine.uncondition(machine.model), guide=machine.guide, num_samples=S)(patterns)
            # new patterns of the same memories, at addresses from their prior
            Predictive(machine.model, {"memory": draws["memory"]})(None, num_patterns=T, num_episodes=B)

        Without ``uncondition``, the posterior predictive returns the observed patterns as "pattern".

        :raises ValueError: if the patterns do not fit the machine, a number comes with patterns or is below 1, or
            patterns are drawn for an encoder without an ``event_shape``.
        """
        return Program(self, generative_model)

    @property
    def guide(self) -> Program:
        """The guide: writes all patterns into q(M), then reads q(w_t | x_t, M)."""
        return Program(self, variational_guide)

    def training_pair(
        self,
        autoencoder_weight: float = 1.0,
        memory_kl_weight: float = 1.0,
        cue_channel: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Program, Program]:
        """The (model, guide) to train: their ELBO is the bound plus terms that help to learn it.

        The model is called, and returns, as :attr:`model`.

        :param autoencoder_weight: adds this times ``log p(x | decoder(encoder(x)))``, which keeps the
            decoder an inverse of the encoder. It is a factor of the guide, which has the codes already.
        :param memory_kl_weight: multiplies KL(q(M) || p(M)); below 1 the memory keeps more information,
            at the price of a lower bound.
        :param cue_channel: addresses are inferred from damaged copies ``cue_channel(patterns)``. The guide stays valid.
        :raises ValueError: if a weight is negative.

        With ``(0, 1, None)`` these are :attr:`model` and :attr:`guide`.
        """
        for name, weight in (("autoencoder_weight", autoencoder_weight), ("memory_kl_weight", memory_kl_weight)):
            if not 0 <= weight < math.inf:
                raise ValueError(f"training_pair(): {name} is {weight}; expected a number of at least 0.")
        return (
            Program(self, generative_model, memory_kl_weight=memory_kl_weight),
            Program(
                self,
                variational_guide,
                autoencoder_weight=autoencoder_weight,
                memory_kl_weight=memory_kl_weight,
                cue_channel=cue_channel,
            ),
        )

    def write(self, patterns: Tensor | Iterable[Tensor], memory: Memory | None = None, **options: Any) -> Memory:
        """The posterior memory after writing ``patterns``, (B, T) + E or (T,) + E, or a stream of such chunks.

        :param memory: an earlier result to continue from; by default the memory prior.
        :param options: name, labels, and options for streams, see :meth:`Memory.write`.
        :raises ValueError: if the patterns do not fit the machine or the memory.
        """
        if memory is not None:
            check_type("write(): memory", memory, Memory, "a Memory, the result of an earlier write()")
            if memory.machine is not self:
                raise ValueError("write(): memory belongs to another machine, whose codes mean something else.")
            return memory.write(patterns, **options)
        first, patterns = _peek(patterns)
        shape = self.with_episodes(first, "write()").shape
        del first  # a stream must not keep its first chunk
        return self._prior_memory(shape[0], tuple(shape[2:])).write(patterns, **options)

    def prior_memory(self, num_episodes: int = 1) -> Memory:
        """B memories in which nothing is stored: q(M) is p(M), or the Gaussian of equal moments.

        :raises ValueError: if ``num_episodes < 1``, or the encoder does not state its ``event_shape``.
        """
        check_at_least("prior_memory()", 1, num_episodes=num_episodes)
        if self.event_shape is None:
            raise ValueError(
                "prior_memory(): the encoder has no attribute event_shape, the shape of a pattern; set it."
            )
        return self._prior_memory(num_episodes, self.event_shape)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _prior_memory(self, num_episodes: int, event_shape: tuple[int, ...]) -> Memory:
        prior = moment_matched_memory(self.memory_prior)
        loc, factor = prior.loc.clone(), prior.scale_tril_row.clone()  # training changes the parameters
        empty = MatrixNormal(loc, factor, validate_args=False).expand(torch.Size((num_episodes,)))
        return Memory(self, empty, event_shape)

    def bound(self, patterns: Tensor, num_particles: int = 1) -> Bound:
        """The evidence lower bound, term by term, with M and w sampled from the guide.

        The Kullback-Leibler terms are in closed form where Pyro knows it, else Monte Carlo estimates.

        :param patterns: (B, T) + E, or (T,) + E.
        :param num_particles: samples of M, and of w for each, over which the terms are averaged.
        :return: :class:`Bound`, each term (B,), in nats per pattern; differentiable.
        :raises ValueError: if the patterns do not fit the machine, or ``num_particles < 1``.
        """
        check_at_least("bound()", 1, num_particles=num_particles)
        return lower_bound(self, self.check_patterns(patterns, "bound()"), num_particles)

    def save(self, path: PathLike) -> None:
        """Write the parameters to a file, whole or not at all.

        The file has the ``state_dict``, sizes, the kinds of priors and likelihood, and :attr:`config`. Networks, priors
        and other parts are code, which :meth:`load` needs. A machine that came from :func:`pyro_kanerva.pretrained` or
        from a run has a config: :func:`pyro_kanerva.pretrained` builds it anew from the file alone.
        """
        save_machine(path, self, self.config)

    def load(self, path: PathLike) -> Self:
        """Load the parameters that :meth:`save` wrote, in place, and return the machine.

        Build the machine with the same parts and sizes first. Writer and reader may be others if they have the same
        parameters. The values of a prior that is a plain distribution are neither stored nor checked.

        :raises FileNotFoundError: if there is no such file.
        :raises ValueError: if the file is broken, of another kind or version, unsafe, or of other networks, sizes,
            priors or another likelihood; the machine does not change then.
        """
        load_machine(path, self)
        return self


def _peek(patterns: Tensor | Iterable[Tensor]) -> tuple[Tensor, Tensor | Iterable[Tensor]]:
    """The first chunk, and all chunks; a tensor is its own first chunk."""
    if isinstance(patterns, Tensor):
        return patterns, patterns
    check_type("write(): patterns", patterns, Iterable, "a tensor, or an iterable of tensors")
    chunks = iter(patterns)
    held = list(itertools.islice(chunks, 1))
    if not held:
        raise ValueError("write(): the stream has no chunks; expected at least one.")
    if not isinstance(held[0], Tensor):
        raise ValueError(f"write(): the stream begins with a {type(held[0]).__name__}; expected a tensor.")

    def all_chunks() -> Iterator[Tensor]:
        yield held.pop()  # which is not kept
        yield from chunks

    return held[0], all_chunks()
