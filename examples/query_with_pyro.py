"""A query of a memory by Pyro's own tools: they find the same address and the same pattern as ``Memory.query``.

    python examples/query_with_pyro.py

``Memory.query`` minimizes ``-log p(c | w, M) - log p(w)``. This energy is also the negative log joint of
``retrieval_model`` conditioned on the memory, so that AutoDelta and SVI find the same minimum. NUTS draws from the
posterior of the address; the query finds its mode.
"""

import argparse

import pyro
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta

import pyro_kanerva as pk


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--training-steps", type=int, default=150)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--patterns", type=int, default=8, help="patterns stored in the memory")
    parser.add_argument("--cues", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400, help="steps of SVI")
    parser.add_argument("--draws", type=int, default=100, help="draws of NUTS")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(args):
    """Returns the energies of both, (cues,) each."""
    torch.manual_seed(args.seed)
    shape, code_size = (1, 28, 28), 16
    machine = pk.KanervaMachine(
        pk.MLPEncoder(shape, code_size, 128),
        pk.MLPDecoder(code_size, shape, 128),
        memory_prior=pk.GaussianMemory(args.slots, code_size),
    )
    images = pk.glyphs("train").images[:2048]
    episodes = pk.Episodes(images, args.patterns, 8, seed=args.seed)
    pk.fit(machine, episodes, num_steps=args.training_steps, learning_rate=3e-3, progress=False)

    patterns = pk.Episodes(images, args.patterns, 1, seed=args.seed + 1)[0]
    memory = machine.write(patterns)
    channel = pk.SaltAndPepper(0.15)
    cues = channel(patterns[:, : args.cues], torch.Generator().manual_seed(args.seed))

    # The query of the library.
    retrieval = memory.query(cues, channel=channel, num_steps=30)

    # The same with Pyro's handlers: the memory is known, the cue is observed, the pattern is summed out.
    known = {"memory": memory.posterior.loc.unsqueeze(-3)}
    model = poutine.condition(pk.retrieval_model, known)

    def energy(address):
        trace = poutine.trace(poutine.condition(model, {"address": address})).get_trace(memory, channel, cues)
        trace.compute_log_prob()
        return -(trace.nodes["cue"]["log_prob"] + trace.nodes["address"]["log_prob"]).squeeze(0).detach()

    torch.testing.assert_close(energy(retrieval.address[-1]), retrieval.energy[-1, 0], rtol=1e-4, atol=1e-3)

    pyro.clear_param_store()
    start = machine.read_codes(machine.encode(cues), memory.posterior.loc).mean.detach()
    guide = AutoDelta(poutine.block(model, expose=["address"]), init_loc_fn=lambda site: start.clone())
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO(max_plate_nesting=2))
    for _ in range(args.steps):
        svi.step(memory, channel, cues)
    found = guide(memory, channel, cues)["address"].detach()
    print("energy in nats   start  ", [f"{value:.2f}" for value in energy(start)])
    print("                 query  ", [f"{value:.2f}" for value in retrieval.energy[-1, 0]])
    print("                 Pyro   ", [f"{value:.2f}" for value in energy(found)])

    predictive = Predictive(model, guide=guide, num_samples=1, return_sites=["recalled"])
    recalled = predictive(memory, channel, cues)["recalled"][0]
    different = ((recalled > 0.5).float() != retrieval.patterns[-1]).float().mean()
    print(f"pixels on which the two recalled patterns differ: {different:.2%}")

    # The whole posterior of the address.
    kernel = NUTS(poutine.block(model, hide=["recalled"]), max_plate_nesting=2)
    chain = MCMC(kernel, num_samples=args.draws, warmup_steps=args.draws, disable_progbar=True, initial_params=None)
    chain.run(memory, channel, cues)
    spread = chain.get_samples()["address"].std(0).mean()
    print(f"NUTS: posterior standard deviation of an address entry {spread:.2f}; that of the prior is 1")
    return energy(found), retrieval.energy[-1, 0]


if __name__ == "__main__":
    main(parser().parse_args())
