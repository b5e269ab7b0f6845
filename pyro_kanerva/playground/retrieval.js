// The iterative posterior query of the library, for one cue. A trial is kept only where the energy does not rise.

const LBFGS_STEPS = 3, HISTORY = 8, NEGLIGIBLE = 0.01; // as in retrieval/descent.py, lbfgs.py and query.py

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const logSigmoid = (x) => Math.min(x, 0) - Math.log1p(Math.exp(-Math.abs(x)));
const logAddExp = (a, b) => Math.max(a, b) + Math.log1p(Math.exp(-Math.abs(a - b)));

// channels.SaltAndPepper: a pixel flips with probability f = p / 2.
class SaltAndPepper {
  constructor(p) {
    this.flip = p / 2;
    this.logStays = Math.log1p(-this.flip);
    this.logFlips = Math.log(this.flip);
  }

  damage(pattern, random) {
    return pattern.map((value) => (random() < this.flip ? 1 - value : value));
  }

  posteriorLogit(cue, logit) { // Flip.posterior
    return logit + (2 * cue - 1) * (this.logStays - this.logFlips);
  }

  logEvidence(cue, logit) { // Flip.log_evidence
    const agreement = (2 * cue - 1) * logit;
    return logAddExp(logSigmoid(agreement) + this.logStays, logSigmoid(-agreement) + this.logFlips);
  }

  gradient(cue, logit) { // d log_evidence / d logit
    const sign = 2 * cue - 1, agrees = sigmoid(sign * logit);
    const evidence = (1 - this.flip) * agrees + this.flip * (1 - agrees);
    return sign * (1 - 2 * this.flip) * agrees * (1 - agrees) / evidence;
  }
}

const logBernoulli = (x, logit) => logSigmoid((2 * x - 1) * logit);

// GaussianMixture.log_prob of MixtureAddress: p(w) = 1/K sum_k Normal(w; e_k, tau^2 I); also its gradient.
function logAddressPrior(w) {
  const squared = dot(w, w);
  const scores = w.map((value) => -0.5 * PRIOR_PRECISION * (squared - 2 * value + 1));
  const total = logSumExp(scores);
  const gradient = scores.map((score, k) => PRIOR_PRECISION * (Math.exp(score - total) - w[k]));
  return { value: total - Math.log(K) + 0.5 * K * Math.log(PRIOR_PRECISION / (2 * Math.PI)), gradient };
}

// retrieval.PointEnergy: a single address, -log p(c | w, M) - log p(w).
function pointEnergy() {
  return { deviations: [new Float64Array(K)], entropyTerm: 0 };
}

// retrieval.VariationalEnergy: a Gaussian q(w) of the covariance of q(w | x, M), as a mean over deviations in opposite
// pairs. `entropyTerm` is the mean of log q(w) over them.
function variationalEnergy(memory, deviations) {
  const factor = cholesky(memory.factors.inverse, K);
  let white = 0;
  for (const deviation of deviations) { // |F^-1 d|^2 by forward substitution
    const y = new Float64Array(K);
    for (let i = 0; i < K; i++) {
      let sum = deviation[i];
      for (let k = 0; k < i; k++) sum -= factor[i * K + k] * y[k];
      y[i] = sum / factor[i * K + i];
    }
    white += dot(y, y) / deviations.length;
  }
  const logDeterminant = sumOf(diagonal(factor).map(Math.log));
  return { deviations, entropyTerm: -0.5 * white - logDeterminant - 0.5 * K * Math.log(2 * Math.PI) };
}

function drawDeviations(memory, pairs, random) { // VariationalEnergy.deviations: +-F noise
  const factor = cholesky(memory.factors.inverse, K);
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  const half = Array.from({ length: pairs }, () => timesVector(factor, Float64Array.from({ length: K }, normal)));
  return [...half, ...half.map((deviation) => deviation.map((value) => -value))];
}

// retrieval.energy.QueryEnergy. `visible` is null if every pixel of the cue is seen.
class QueryEnergy {
  constructor(memory, cue, channel, visible, energy) {
    Object.assign(this, { memory, cue, channel, visible, energy });
    this.allSeen = !visible || visible.every(Boolean);
    this.sees = (i) => !visible || visible[i];
    this.clamped = (i) => visible !== null && visible[i];
  }

  // The energy at a point, and the x-step there; without a channel `pattern` is the x of the energy.
  evaluate(point, pattern) {
    const { energy, channel, cue } = this, share = 1 / energy.deviations.length;
    const outputs = energy.deviations.map((deviation) => this.memory.predict(axpy(point, 1, deviation)));
    const expected = new Float64Array(N), mode = new Float64Array(N);
    for (let i = 0; i < N; i++) {
      let mean = 0, logit = 0;
      for (const { logits } of outputs) {
        const shown = channel && this.sees(i) ? channel.posteriorLogit(cue[i], logits[i]) : logits[i];
        mean += share * sigmoid(shown);
        logit += share * shown;
      }
      if (channel) {
        expected[i] = mean;
        mode[i] = (outputs.length === 1 ? logit > 0 : mean > 0.5) ? 1 : 0; // expected_and_mode
      } else {
        expected[i] = mode[i] = this.clamped(i) ? cue[i] : logit > 0 ? 1 : 0; // joint_mode
      }
    }
    let value = energy.entropyTerm, next = energy.entropyTerm;
    const priors = energy.deviations.map((deviation) => logAddressPrior(axpy(point, 1, deviation)));
    outputs.forEach(({ logits }, s) => {
      let evidence = 0, nextEvidence = 0;
      for (let i = 0; i < N; i++) {
        if (channel) {
          if (this.sees(i)) evidence += channel.logEvidence(cue[i], logits[i]);
        } else {
          evidence += logBernoulli(pattern[i], logits[i]);
          nextEvidence += logBernoulli(mode[i], logits[i]);
        }
      }
      value -= share * (evidence + priors[s].value);
      next -= share * ((channel ? evidence : nextEvidence) + priors[s].value);
    });
    let gradient = null; // of nextEnergy, by hand, and only where a step asks for it
    const computed = () => (gradient ||= this.gradient(outputs, priors, mode));
    return { point, energy: value, nextEnergy: next, gradient: computed, expected, mode };
  }

  gradient(outputs, priors, mode) {
    const { channel, cue } = this, share = 1 / outputs.length;
    let result = new Float64Array(K);
    outputs.forEach((output, s) => {
      const byLogit = output.logits.map((logit, i) => { // of the log evidence
        if (!channel) return mode[i] - sigmoid(logit);
        return this.sees(i) ? channel.gradient(cue[i], logit) : 0;
      });
      const byAddress = timesVector(this.memory.posterior.loc, decoderGradient(output, byLogit));
      result = axpy(axpy(result, -share, byAddress), -share, priors[s].gradient);
    });
    return result;
  }

  bestComponent() { // the slot that explains the cue best, or null
    if (!this.channel && this.allSeen) return null;
    const scores = this.memory.slots.map((logits) => {
      let score = 0;
      for (let i = 0; i < N; i++) {
        if (!this.sees(i)) continue;
        score += this.channel ? this.channel.logEvidence(this.cue[i], logits[i]) : logBernoulli(this.cue[i], logits[i]);
      }
      return score;
    });
    return Float64Array.from({ length: K }, (_, k) => (k === argmax(scores) ? 1 : 0));
  }
}

// retrieval.descent.Descent: where the query stands. A move is kept only where it does not raise the energy.
class Descent {
  constructor(energy) {
    this.energy = energy;
    this.pattern = energy.cue;
    this.improved = this.notFinite = false;
    this.state = this.start();
  }

  start() {
    const { energy } = this, center = new Float64Array(K).fill(1 / K);
    let cue = energy.cue, other = null;
    if (!energy.allSeen) { // hidden pixels are first predicted at the center of the prior
      other = energy.evaluate(center, this.pattern);
      cue = cue.map((value, i) => (energy.sees(i) ? value : other.expected[i]));
      if (!energy.channel) this.pattern = energy.cue.map((value, i) => (energy.sees(i) ? value : other.mode[i]));
      other = { ...other, energy: other.nextEnergy };
    }
    let trial = energy.evaluate(this.closedForm(cue), this.pattern);
    const component = energy.bestComponent();
    if (component) {
      const best = energy.evaluate(component, this.pattern);
      if (best.nextEnergy < trial.nextEnergy) trial = best;
    }
    if (!energy.allSeen || !Number.isFinite(trial.energy)) {
      other ||= energy.evaluate(center, this.pattern);
      if (!(trial.energy <= other.energy)) trial = other;
    }
    return trial;
  }

  closedForm(pattern) {
    return this.energy.memory.read(pattern).heaviestMean;
  }

  move(point) {
    const trial = this.energy.evaluate(point, this.pattern);
    const notHigher = trial.energy <= this.state.energy, improved = trial.energy < this.state.energy; // false for NaN
    this.notFinite = (this.notFinite || !Number.isFinite(trial.energy)) && !improved;
    this.improved ||= improved;
    if (notHigher) this.state = trial;
    return notHigher;
  }

  xStep() { // without a channel: the pattern becomes the mode of p(x | w)
    if (!(this.state.nextEnergy <= this.state.energy)) return;
    this.pattern = this.state.mode;
    this.state = { ...this.state, energy: this.state.nextEnergy };
  }
}

// retrieval.lbfgs.BatchedLBFGS, for one problem; P is the covariance of the address posterior.
class LBFGS {
  constructor(preconditioner) {
    this.precondition = (gradient) => timesVector(preconditioner, gradient);
    this.scale = 1;
    this.pairs = [];
  }

  direction(gradient) { // -H g by the two loops
    let direction = gradient.map((value) => -value);
    const weights = [];
    for (const { step, change, inverse } of this.pairs.slice().reverse()) {
      weights.unshift(inverse * dot(step, direction));
      direction = axpy(direction, -weights[0], change);
    }
    direction = this.precondition(direction).map((value) => this.scale * value);
    this.pairs.forEach(({ step, change, inverse }, i) => {
      direction = axpy(direction, weights[i] - inverse * dot(change, direction), step);
    });
    return direction;
  }

  update(step, change) {
    const product = dot(step, change), convex = product > 1e-10, squared = dot(change, this.precondition(change));
    if (convex && squared > 0) this.scale = product / squared;
    this.pairs = [...this.pairs, { step, change, inverse: convex ? 1 / product : 0 }].slice(-HISTORY);
  }
}

// retrieval.descent.ChannelStep and AttractorStep: a w-step, with and without a channel.
class WStep {
  constructor(descent) {
    this.descent = descent;
    this.lbfgs = new LBFGS(descent.energy.memory.factors.inverse);
    this.stepSize = 1;
    this.predictedDecrease = 0;
    this.closedFormHelps = true;
  }

  tryClosedForm(pattern) {
    if (this.closedFormHelps) this.closedFormHelps = this.descent.move(this.descent.closedForm(pattern));
    return this.closedFormHelps;
  }

  channelStep() {
    const { descent, lbfgs } = this;
    this.tryClosedForm(descent.state.expected);
    for (let i = 0; i < LBFGS_STEPS; i++) {
      const old = descent.state;
      const lower = descent.move(axpy(old.point, this.stepSize, lbfgs.direction(old.gradient())));
      lbfgs.update(axpy(descent.state.point, -1, old.point), axpy(descent.state.gradient(), -1, old.gradient()));
      this.stepSize = lower ? 1 : this.stepSize * 0.4;
    }
    const gradient = descent.state.gradient();
    this.predictedDecrease = this.stepSize * dot(gradient, lbfgs.precondition(gradient));
  }

  attractorStep() {
    const { descent, lbfgs } = this;
    this.predictedDecrease = 0;
    if (this.tryClosedForm(descent.pattern)) return;
    const { point } = descent.state, gradient = descent.state.gradient(), direction = lbfgs.precondition(gradient);
    this.predictedDecrease = this.stepSize * dot(gradient, direction);
    const lower = descent.move(axpy(point, -this.stepSize, direction));
    this.stepSize *= lower ? 1.5 : 0.3;
  }
}

// Memory.query: patterns (the cue first), energies that never rise, and addresses, of `numSteps` + 1 steps.
function query(energy, numSteps = 10) {
  const descent = new Descent(energy), step = new WStep(descent), { channel } = energy;
  const patterns = [energy.cue], energies = [descent.state.energy], addresses = [descent.state.point];
  let converged = false, active = true;
  for (let n = 1; n <= numSteps; n++) {
    if (active) {
      descent.improved = false;
      if (channel) {
        step.channelStep();
      } else {
        descent.xStep();
        step.attractorStep();
      }
    }
    const last = patterns[n - 1];
    const pattern = !active ? last : channel ? descent.state.mode : descent.pattern;
    patterns.push(pattern);
    energies.push(descent.state.energy);
    addresses.push(descent.state.point);
    const fall = energies[n - 1] - energies[n], same = pattern.every((value, i) => value === last[i]);
    if (active) converged = (same || fall <= 0) && !descent.notFinite;
    const trusted = descent.improved || step.predictedDecrease <= NEGLIGIBLE;
    const done = converged && trusted && fall <= NEGLIGIBLE && (n > 1 || energy.allSeen);
    active &&= !done;
  }
  return { patterns, energies, addresses, converged };
}
