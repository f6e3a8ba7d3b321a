// Rate limiters of Node, of which the last argument names one: rate-limiter-flexible with both client libraries, or
// rate-limit-redis for express.
"use strict";
const assert = require("node:assert");
const express = require("express");
const { rateLimit } = require("express-rate-limit");
const { Redis } = require("ioredis");
const { RateLimiterRedis } = require("rate-limiter-flexible");
const { RedisStore } = require("rate-limit-redis");
const { createClient } = require("redis");
const { port, halfway, play } = require("./stage.cjs");

play(async () => {
  const ioredis = new Redis(port);
  const node = await createClient({ url: `redis://127.0.0.1:${port}` }).on("error", () => {}).connect();
  const which = process.argv[3];
  const flexible = which !== "flexible" ? [] : [
    new RateLimiterRedis({ storeClient: ioredis, points: 5, duration: 600, keyPrefix: "flexible:io" }),
    new RateLimiterRedis({ storeClient: node, useRedisPackage: true, points: 5, duration: 600, keyPrefix: "flexible:node" }),
  ];
  const limiter = which === "express" && rateLimit({
    limit: 5,
    windowMs: 600_000,
    keyGenerator: (request) => request.get("who"),
    store: new RedisStore({ sendCommand: (...words) => node.sendCommand(words) }),
  });
  const app = limiter && express().use(limiter).get("/", (_, response) => response.send("ok"));
  const server = !app ? null : await new Promise((resolve) => { const listening = app.listen(0, "127.0.0.1", () => resolve(listening)); });

  async function shift(mark) {
    for (const limiter of flexible) {
      for (let number = 0; number < 5; number++) {
        assert.strictEqual((await limiter.consume(mark)).remainingPoints, 4 - number);
      }
      await assert.rejects(limiter.consume(mark), (refused) => refused.remainingPoints === 0 && refused.msBeforeNext > 0);
      assert.strictEqual((await limiter.reward(mark, 1)).consumedPoints, 5);
      assert.strictEqual(await limiter.delete(mark), true);
      assert.strictEqual(await limiter.get(mark), null);
    }
    if (!server) return;
    const statuses = [];
    for (let number = 0; number < 7; number++) {
      statuses.push((await fetch(`http://127.0.0.1:${server.address().port}/`, { headers: { who: mark } })).status);
    }
    assert.deepStrictEqual(statuses, [200, 200, 200, 200, 200, 429, 429]);
  }
  await shift("first");
  await halfway();
  await shift("second");
  server?.close();
  ioredis.disconnect();
  await node.close();
});
