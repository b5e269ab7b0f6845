// Networks and closed forms of the library, for one memory. Each function names the function of pyro_kanerva that it
// follows. K slots, C code size, N pixels.

// ---- networks ----

function encode(pattern) { // Parts.encode, of LinearEncoder
  return linear("encoder", pattern);
}

const relu = (values) => values.map((value) => (value > 0 ? value : 0));

function decoderOutput(code) { // Parts.decoder_output, of ShortcutDecoder: the logit of every pixel
  const first = relu(linear("first", code));
  const second = relu(linear("second", first));
  const logits = linear("third", second), shortcut = linear("shortcut", code);
  for (let i = 0; i < N; i++) logits[i] += shortcut[i];
  return { logits, first, second };
}

function decoderGradient(output, gradient) { // dL/dcode for dL/dlogits
  const second = transposed("third", gradient, output.second.length);
  for (let i = 0; i < second.length; i++) if (output.second[i] === 0) second[i] = 0;
  const first = transposed("second", second, output.first.length);
  for (let i = 0; i < first.length; i++) if (output.first[i] === 0) first[i] = 0;
  return axpy(transposed("first", first, C), 1, transposed("shortcut", gradient, C));
}

// ---- the memory: q(M) = MN(R, U, I) is { loc: R (K, C), covariance: U (K, K) } ----

const PRIOR_MEMORY = { // moment_matched_memory(machine.memory_prior)
  loc: Float64Array.from(TENSORS["prior.loc"]),
  covariance: (() => {
    const matrix = new Float64Array(K * K);
    TENSORS["prior.log_scale"].forEach((scale, k) => { matrix[k * K + k] = Math.exp(2 * scale); });
    return matrix;
  })(),
};

function codeInformation(loc, covariance) { // conjugate.code_information: (R R^T + C U) / sigma^2
  const result = new Float64Array(K * K);
  for (let i = 0; i < K; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = covariance ? C * covariance[i * K + j] : 0;
      for (let c = 0; c < C; c++) sum += loc[i * C + c] * loc[j * C + c];
      result[i * K + j] = result[j * K + i] = sum / VARIANCE;
    }
  }
  return result;
}

// The part of conjugate.mixture_address_posterior that all codes share: A^-1 for A = I / tau^2 + information, the
// offsets A^-1 e_k / tau^2 of the components, and how well each fits.
function addressFactors(loc, covariance) {
  const information = codeInformation(loc, covariance);
  const precision = information.slice();
  for (let k = 0; k < K; k++) precision[k * K + k] += PRIOR_PRECISION;
  const inverse = inversePositive(precision, K);
  const offsets = inverse.map((value) => value * PRIOR_PRECISION); // row k: A^-1 e_k / tau^2
  const fit = new Float64Array(K);
  for (let k = 0; k < K; k++) fit[k] = dot(offsets.subarray(k * K, k * K + K), information.subarray(k * K, k * K + K));
  return { loc, inverse, offsets, fit };
}

// conjugate.mixture_address_posterior: weights r_k, and the means loc + offset_k of the components.
function mixtureAddressPosterior(code, factors) {
  const projected = timesVector(factors.loc, code).map((value) => value / VARIANCE); // R z / sigma^2
  const along = timesVector(factors.offsets, projected);
  const logits = logSoftmax(along.map((value, k) => value - 0.5 * factors.fit[k]));
  const weights = logits.map(Math.exp);
  const loc = timesVector(factors.inverse, projected);
  const mean = axpy(loc, 1, vectorTimes(weights, factors.offsets, K));
  const best = argmax(weights);
  const heaviestMean = axpy(loc, 1, factors.offsets.subarray(best * K, best * K + K)); // priors.point_address
  return { weights, mean, heaviestMean };
}

// writers.slots._assign_in_turn: how much each code belongs to each slot, one code after the other.
function assignInTurn(codes, start, variance) {
  const loc = start.loc.slice(), precision = diagonal(start.covariance).map((value) => 1 / value);
  return codes.map((code) => {
    const squared = new Float64Array(K);
    for (let k = 0; k < K; k++) for (let c = 0; c < C; c++) squared[k] += (code[c] - loc[k * C + c]) ** 2;
    const predictive = precision.map((value) => 1 / value + variance);
    const weights = logSoftmax(predictive.map((p, k) => -0.5 * (squared[k] / p + C * Math.log(p)))).map(Math.exp);
    for (let k = 0; k < K; k++) {
      precision[k] += weights[k] / variance;
      const gain = weights[k] / (variance * precision[k]);
      for (let c = 0; c < C; c++) loc[k * C + c] += gain * (code[c] - loc[k * C + c]);
    }
    return weights;
  });
}

// writers.slots._clusters: q(M) given how much each code belongs to each slot.
function clusters(codes, start, weights) {
  const loc = new Float64Array(K * C), covariance = new Float64Array(K * K);
  for (let k = 0; k < K; k++) {
    const prior = 1 / start.covariance[k * K + k];
    const precision = prior + sumOf(weights.map((row) => row[k])) / VARIANCE;
    covariance[k * K + k] = 1 / precision;
    for (let c = 0; c < C; c++) {
      let information = prior * start.loc[k * C + c];
      for (let t = 0; t < codes.length; t++) information += weights[t][k] * codes[t][c] / VARIANCE;
      loc[k * C + c] = information / precision;
    }
  }
  return { loc, covariance };
}

// GaussianMixture.mean_covariance_scale_tril, the covariance itself: averaged over the posteriors q of all codes.
function meanCovariance(posteriors, factors) {
  const result = factors.inverse.slice();
  for (const { weights } of posteriors) {
    const mean = vectorTimes(weights, factors.offsets, K);
    for (let j = 0; j < K; j++) {
      const share = weights[j] / posteriors.length;
      if (share < 1e-300) continue;
      const centered = axpy(factors.offsets.subarray(j * K, j * K + K), -1, mean);
      for (let a = 0; a < K; a++) for (let b = 0; b < K; b++) result[a * K + b] += share * centered[a] * centered[b];
    }
  }
  return result;
}

// MixtureWriter.forward: the record of a write, and what it adds to q(M) (WriteRecord).
function mixtureWriter(codes, start) {
  const secondMoment = codeInformation(start.loc, start.covariance); // over sigma^2
  const within = VARIANCE * sumOf(diagonal(secondMoment)) / PRIOR_PRECISION / C; // tau^2 tr E[M M^T] / C
  const weights = assignInTurn(codes, start, VARIANCE + within);
  let posterior = clusters(codes, start, weights), record = null;
  for (let sweep = 0; sweep < MACHINE.sweeps; sweep++) {
    const factors = addressFactors(posterior.loc, posterior.covariance);
    const q = codes.map((code) => mixtureAddressPosterior(code, factors));
    record = { codes, addresses: q.map((one) => one.mean), covariance: meanCovariance(q, factors) };
    posterior = addStatistics(start, [statistics(record)]); // block_update, in natural parameters
  }
  return { posterior, record };
}

// conjugate.statistics: sum_t E[w w^T] / sigma^2 and sum_t E[w] z^T / sigma^2.
function statistics({ codes, addresses, covariance }) {
  const precision = covariance.map((value) => value * codes.length / VARIANCE), information = new Float64Array(K * C);
  addresses.forEach((address, t) => {
    for (let a = 0; a < K; a++) {
      const weight = address[a] / VARIANCE;
      for (let b = 0; b < K; b++) precision[a * K + b] += weight * address[b];
      for (let c = 0; c < C; c++) information[a * C + c] += weight * codes[t][c];
    }
  });
  return { precision, information };
}

// conjugate.add_statistics: Bayes' rule in natural parameters, U^-1 += P and U^-1 R += H.
function addStatistics(posterior, parts) {
  const start = inversePositive(posterior.covariance, K), precision = start.slice();
  const information = new Float64Array(K * C);
  for (let k = 0; k < K; k++) information.set(vectorTimes(start.subarray(k * K, k * K + K), posterior.loc, C), k * C);
  for (const part of parts) {
    for (let i = 0; i < precision.length; i++) precision[i] += part.precision[i];
    for (let i = 0; i < information.length; i++) information[i] += part.information[i];
  }
  const covariance = inversePositive(precision, K), loc = new Float64Array(K * C);
  for (let k = 0; k < K; k++) loc.set(vectorTimes(covariance.subarray(k * K, k * K + K), information, C), k * C);
  return { loc, covariance };
}

// Memory: no method changes a memory, each returns a new one.
class Memory {
  constructor(posterior = PRIOR_MEMORY, records = []) {
    this.posterior = posterior;
    this.records = records;
    this.factors = addressFactors(posterior.loc, null); // of the reader, which knows M = R
  }

  write(patterns) { // Memory.write: the memory after also writing patterns
    const { posterior, record } = mixtureWriter(patterns.map(encode), this.posterior);
    return new Memory(posterior, [...this.records, record]);
  }

  erase(index, pattern) { // Memory.erase: the memory without one pattern of one of its records
    const records = this.records.slice(), old = records[index], rest = (part) => part.filter((_, t) => t !== pattern);
    records[index] = { codes: rest(old.codes), addresses: rest(old.addresses), covariance: old.covariance };
    const left = records.filter((record) => record.codes.length);
    return new Memory(addStatistics(PRIOR_MEMORY, left.map(statistics)), left);
  }

  read(pattern) { // the reader: q(w | x, M)
    return mixtureAddressPosterior(encode(pattern), this.factors);
  }

  predict(address) { // Parts.predict: the logits of p(x | w, M)
    return decoderOutput(vectorTimes(address, this.posterior.loc, C));
  }

  get slots() { // the decoder's output at every slot, decoded once for a memory
    const { loc } = this.posterior;
    this._slots ||= Array.from({ length: K }, (_, k) => decoderOutput(loc.subarray(k * C, k * C + C)).logits);
    return this._slots;
  }
}
