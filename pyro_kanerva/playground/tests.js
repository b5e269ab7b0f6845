// The self-test, which compares the page with the library, and the scripted session of the address "#test".

const TOLERANCE = 1e-4;

function relativeError(found, expected) {
  const scale = Math.max(...expected.map(Math.abs));
  if (found.length !== expected.length) return Infinity;
  return Math.max(...expected.map((value, i) => Math.abs(found[i] - value))) / scale;
}

// The largest relative error of each result against that of the library.
function selfTest() {
  const golden = MACHINE.golden, stored = LETTERS.slice(0, 8), cue = toPattern(golden.cue);
  const memory = EMPTY.write(stored), channel = new SaltAndPepper(golden.noise);
  const visible = Array.from({ length: N }, (_, i) => i % MACHINE.width < Math.floor(MACHINE.width / 2));
  const variance = (one) => [...diagonal(one.posterior.covariance)];
  const energyOf = (known, hidden, kind) => new QueryEnergy(
    memory, cue, known ? channel : null, hidden ? visible : null,
    kind === "point" ? pointEnergy() : variationalEnergy(memory, rows(golden.deviations)),
  );
  const rows = (values) =>
    Array.from({ length: values.length / K }, (_, i) => Float64Array.from(values.slice(i * K, i * K + K)));
  const points = rows(golden.points), q = memory.read(cue);
  const energiesAt = (known, hidden) =>
    points.map((point) => energyOf(known, hidden, "point").evaluate(point, cue).energy);
  const errors = {
    code: relativeError(encode(stored[0]), golden.code),
    logits: relativeError(decoderOutput(encode(stored[0])).logits, golden.logits),
    memory: relativeError(memory.posterior.loc, golden.memory_loc),
    "row variances": relativeError(variance(memory), golden.memory_variance),
    "after erasing": relativeError(variance(memory.erase(0, 0)), golden.erased_variance),
    "after writing more": relativeError(variance(memory.write(LETTERS.slice(0, 2))), golden.continued_variance),
    "overloaded memory": relativeError(variance(EMPTY.write(LETTERS)), golden.full_variance),
    "address weights": relativeError(q.weights, golden.address_weights),
    address: relativeError(q.heaviestMean, golden.address),
    "energy, channel": relativeError(energiesAt(true, false), golden.energies.channel),
    "energy, hidden pixels": relativeError(energiesAt(true, true), golden.energies.masked),
    "energy, no channel": relativeError(energiesAt(false, false), golden.energies.none),
  };
  for (const expected of golden.queries) {
    const result = query(energyOf(expected.channel, expected.hidden, expected.kind), STEPS);
    const words = [expected.channel ? "channel" : "no channel", expected.hidden ? "hidden pixels" : "", expected.kind];
    const same = wrongPixels(result.patterns[STEPS], toPattern(expected.pattern)) === 0;
    const error = same ? relativeError(result.energies, expected.energies) : Infinity;
    errors[`query, ${words.filter(Boolean).join(", ")}`] = error;
  }
  const failed = Object.keys(errors).filter((name) => !(errors[name] <= TOLERANCE));
  return { errors, passed: failed.length === 0, failed };
}

function showSelfTest({ errors, passed, failed }) {
  const worst = Math.max(...Object.values(errors)), number = Object.keys(errors).length;
  $("self-test").textContent = passed
    ? `Self-test passed: ${number} results agree with the library, largest relative error ${worst.toExponential(1)}.`
    : `Self-test failed: ${failed.join("; ")} differ from the library by more than ${TOLERANCE}.`;
}

// Draw a figure with the pointer, write it, damage it, recall it, erase it; with real events, and no waiting.
function session() {
  const at = (canvas, column, row, type) => {
    const box = canvas.getBoundingClientRect();
    const clientX = box.left + (column + 0.5) * box.width / MACHINE.width;
    const clientY = box.top + (row + 0.5) * box.height / MACHINE.height;
    canvas.dispatchEvent(new PointerEvent(type, { clientX, clientY, button: type === "pointermove" ? -1 : 0 }));
  };
  const stroke = (canvas, ...places) => {
    at(canvas, ...places[0], "pointerdown");
    places.slice(1).forEach((place) => at(canvas, ...place, "pointermove"));
    at(canvas, ...places.at(-1), "pointerup");
    return times.stroke;
  };
  const never = (result) => result.energies.every((energy, n) => n === 0 || energy <= result.energies[n - 1]);
  const wrong = (result, target) => wrongPixels(result.patterns[STEPS], target);
  const results = {}, energies = [], queries = [];
  const recall = (name, target) => {
    recallNow();
    queries.push(times.query);
    energies.push(state.right, state.empty);
    const cue = wrongPixels(state.cue, target);
    results[name] = { right: wrong(state.right, target), empty: wrong(state.empty, target), cue };
  };
  $("clear").click();
  $("drawing").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
  $("drawing").dispatchEvent(new KeyboardEvent("keydown", { key: " " }));
  const byKeys = sumOf(state.drawing);
  $("clear").click();
  const columns = Array.from({ length: MACHINE.width - 8 }, (_, i) => i + 4);
  const rows = Array.from({ length: MACHINE.height - 8 }, (_, i) => i + 4);
  const middle = [MACHINE.width >> 1, MACHINE.height >> 1];
  const strokes = [
    stroke($("drawing"), ...columns.map((column) => [column, middle[1]])),
    stroke($("drawing"), ...rows.map((row) => [middle[0], row])),
  ];
  const drawn = state.drawing.slice();
  $("write").click();
  $("more").click();
  choose(8);
  recall("drawing", drawn);
  recall("drawing again", drawn); // the first query of a memory also decodes its slots
  $("restore").click();
  $("hide-right").click();
  recall("right half hidden", drawn);
  $("restore").click();
  $("brush-wipe").click();
  strokes.push(stroke($("cue"), ...columns.slice(columns.length >> 1).map((column) => [column, middle[1]])));
  recall("brush", drawn);
  for (const [channel, energy] of [["none", "point"], ["noise", "variational"], ["none", "variational"]]) {
    document.querySelector(`input[value="${channel}"]`).checked = true;
    document.querySelector(`input[value="${energy}"]`).checked = true;
    $("restore").click();
    const number = queries.length;
    recall(`${channel}, ${energy}`, drawn);
    if (energy === "variational") queries.length = number; // it decodes at several addresses
  }
  for (const value of ["noise", "point"]) document.querySelector(`input[value="${value}"]`).checked = true;
  choose(8);
  $("erase").click();
  recall("erased", drawn);
  const before = state.stored.length;
  $("overload").click();
  choose(0);
  recall("overloaded", state.target);
  showStep(3);
  $("morph").value = 25;
  $("morph").dispatchEvent(new Event("input"));
  const test = selfTest(), status = $("status").textContent;
  $("all").click(); // goes on after the session
  return {
    by_keys: byKeys, drawn: sumOf(drawn), before, stored: state.stored.length, slots: K, results,
    never_rose: energies.every(never), queries: energies.length,
    stroke_ms: Math.max(...strokes), query_ms: Math.max(...queries), self_test: test,
    status,
  };
}

function runTests() {
  try {
    showSelfTest(selfTest());
  } catch (error) {
    $("self-test").textContent = `Self-test failed: ${error.message}`;
  }
}

begin();
if (location.hash === "#test") {
  const output = document.createElement("pre");
  output.id = "test-result";
  try {
    output.textContent = JSON.stringify(session());
  } catch (error) {
    output.textContent = JSON.stringify({ error: `${error.message} ${error.stack}` });
  }
  document.body.append(output);
  runTests();
} else {
  setTimeout(runTests, 200); // after the first picture
}
