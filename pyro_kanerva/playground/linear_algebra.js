// Matrices and vectors. A matrix is a Float64Array, row after row; parameters are Float32Arrays.

function unpack(tensor) {
  const text = atob(tensor.data);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const view = new DataView(bytes.buffer);
  const size = tensor.shape.reduce((a, b) => a * b, 1);
  const values = new Float32Array(size);
  for (let i = 0; i < size; i++) {
    values[i] = tensor.type === "float32" ? view.getFloat32(4 * i, true) : halfToNumber(view.getUint16(2 * i, true));
  }
  return values;
}

function halfToNumber(half) {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 31;
  const fraction = half & 1023;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

const TENSORS = Object.fromEntries(Object.entries(MACHINE.tensors).map(([name, tensor]) => [name, unpack(tensor)]));
const [K, C] = MACHINE.tensors["prior.loc"].shape;
const N = MACHINE.height * MACHINE.width;
const VARIANCE = MACHINE.code_scale ** 2; // sigma^2
const PRIOR_PRECISION = MACHINE.address_scale ** -2; // 1 / tau^2 of MixtureAddress

function linear(name, x) { // torch.nn.Linear: W x + b
  const weight = TENSORS[`${name}.weight`], bias = TENSORS[`${name}.bias`], columns = x.length;
  const rows = weight.length / columns, result = new Float64Array(rows);
  for (let i = 0, at = 0; i < rows; i++, at += columns) {
    let a = bias ? bias[i] : 0, b = 0, c = 0, d = 0, j = 0;
    for (; j + 3 < columns; j += 4) {
      a += weight[at + j] * x[j];
      b += weight[at + j + 1] * x[j + 1];
      c += weight[at + j + 2] * x[j + 2];
      d += weight[at + j + 3] * x[j + 3];
    }
    for (; j < columns; j++) a += weight[at + j] * x[j];
    result[i] = a + b + c + d;
  }
  return result;
}

function transposed(name, x, columns) { // W^T x, the backward pass of a linear layer
  return vectorTimes(x, TENSORS[`${name}.weight`], columns);
}

function vectorTimes(x, matrix, columns) { // x^T A
  const result = new Float64Array(columns);
  for (let i = 0, at = 0; i < x.length; i++, at += columns) {
    const value = x[i];
    if (value === 0) continue;
    for (let j = 0; j < columns; j++) result[j] += value * matrix[at + j];
  }
  return result;
}

function timesVector(matrix, x) { // A x
  const columns = x.length, rows = matrix.length / columns, result = new Float64Array(rows);
  for (let i = 0, at = 0; i < rows; i++, at += columns) {
    let sum = 0;
    for (let j = 0; j < columns; j++) sum += matrix[at + j] * x[j];
    result[i] = sum;
  }
  return result;
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

function sumOf(values) {
  return values.reduce((a, b) => a + b, 0);
}

function axpy(a, factor, b) { // a + factor b
  return a.map((value, i) => value + factor * b[i]);
}

function argmax(values) {
  return values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
}

function logSumExp(values) {
  const largest = Math.max(...values);
  return largest + Math.log(values.reduce((sum, value) => sum + Math.exp(value - largest), 0));
}

function logSoftmax(values) {
  const total = logSumExp(values);
  return values.map((value) => value - total);
}

function cholesky(matrix, n) { // conjugate.cholesky: the lower factor
  const factor = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = matrix[i * n + j];
      for (let k = 0; k < j; k++) sum -= factor[i * n + k] * factor[j * n + k];
      if (i === j && !(sum > 0)) throw new Error("a matrix is not positive definite");
      factor[i * n + j] = i === j ? Math.sqrt(sum) : sum / factor[j * n + j];
    }
  }
  return factor;
}

function inversePositive(matrix, n) { // conjugate.inverse_positive
  const factor = cholesky(matrix, n), inverse = new Float64Array(n * n), y = new Float64Array(n);
  for (let column = 0; column < n; column++) {
    for (let i = 0; i < n; i++) {
      let sum = i === column ? 1 : 0;
      for (let k = column; k < i; k++) sum -= factor[i * n + k] * y[k];
      y[i] = i < column ? 0 : sum / factor[i * n + i];
    }
    for (let i = n - 1; i >= 0; i--) {
      let sum = y[i];
      for (let k = i + 1; k < n; k++) sum -= factor[k * n + i] * inverse[k * n + column];
      inverse[i * n + column] = sum / factor[i * n + i];
    }
  }
  return inverse;
}

function diagonal(matrix) {
  return Float64Array.from({ length: K }, (_, k) => matrix[k * K + k]);
}

function randomGenerator(seed) { // mulberry32
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
