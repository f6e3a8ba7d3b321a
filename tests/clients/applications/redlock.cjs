// redlock: locks that are taken, extended and let go by scripts; who waits gets them in the end.
"use strict";
const assert = require("node:assert");
const { Redis } = require("ioredis");
const Redlock = require("redlock");
const { port, halfway, later, play } = require("./stage.cjs");

play(async () => {
  const client = new Redis(port);
  const redlock = new Redlock([client], { retryCount: 500, retryDelay: 10 });
  // It would try again whatever the error is, and forget which it was.
  redlock.on("clientError", (error) => { console.error(error); process.exit(1); });
  const impatient = new Redlock([client], { retryCount: 0 });
  async function shift(mark) {
    const lock = await redlock.lock(`lock:${mark}`, 20_000);
    await assert.rejects(impatient.lock(`lock:${mark}`, 20_000), { name: "LockError" });
    const longer = await lock.extend(30_000);
    await longer.unlock();
    await assert.rejects(longer.unlock());
    let inside = 0;
    await Promise.all(Array.from({ length: 8 }, async () => {
      const mine = await redlock.lock(`lock:many:${mark}`, 20_000);
      assert.strictEqual(++inside, 1);
      await later(5);
      inside -= 1;
      await mine.unlock();
    }));
    // Several resources are one lock of several keys: a tag keeps them together.
    const both = await redlock.lock([`{${mark}}:a`, `{${mark}}:b`], 20_000);
    await assert.rejects(impatient.lock(`{${mark}}:b`, 20_000), { name: "LockError" });
    await both.unlock();
  }
  await shift("first");
  await halfway();
  await shift("second");
  client.disconnect();
});
