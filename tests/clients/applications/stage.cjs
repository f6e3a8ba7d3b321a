// What the programs for applications share. Each is told the proxy's port, does real work, says when half of it is done and
// goes on when it is told to: a store may be gone by then.
"use strict";
const assert = require("node:assert");
const readline = require("node:readline");

const port = Number(process.argv[2]);
// How long one thing may take, on a busy machine.
const PATIENCE_MS = 30_000;

// Half of the work is done; the other half begins when the test has done what it wants to.
async function halfway() {
  const input = readline.createInterface({ input: process.stdin });
  const answer = new Promise((resolve) => { input.once("line", resolve); input.once("close", () => resolve("")); });
  console.log("halfway");
  assert.strictEqual(await answer, "go on", "the test is gone");
  input.close();
}

const later = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// The first true value of the condition.
async function eventually(what, condition) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const value = await condition();
    if (value) return value;
    assert.ok(Date.now() < deadline, `not within ${PATIENCE_MS} ms: ${what}`);
    await later(20);
  }
}

// The promise's value, if it comes in time.
function soon(what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${PATIENCE_MS} ms: ${what}`)), PATIENCE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

function play(program) {
  program().then(() => { console.log("ok"); process.exit(0); }, (error) => { console.error(error); process.exit(1); });
}

module.exports = { port, halfway, eventually, soon, later, play };
