// The baselines of evaluation/baselines.py, for one cue. A hidden pixel says nothing.

function agreement(pattern, cue, visible) { // equal pixels minus unequal ones
  let sum = 0;
  for (let i = 0; i < N; i++) if (!visible || visible[i]) sum += pattern[i] === cue[i] ? 1 : -1;
  return sum;
}

function nearestPattern(stored, cue, visible) {
  return stored.length ? stored[argmax(stored.map((pattern) => agreement(pattern, cue, visible)))] : null;
}

function hopfield(stored, cue, visible, flip) { // a modern Hopfield network: one update by softmax attention
  if (!stored.length) return null;
  const beta = 0.5 * Math.log((1 - flip) / flip);
  const weights = logSoftmax(stored.map((pattern) => beta * agreement(pattern, cue, visible))).map(Math.exp);
  const mean = new Float64Array(N);
  stored.forEach((pattern, t) => pattern.forEach((value, i) => { mean[i] += weights[t] * value; }));
  return mean.map((value) => (value > 0.5 ? 1 : 0));
}
