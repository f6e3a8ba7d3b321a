// ioredis with its defaults, through the proxy on the port that is the only argument.
"use strict";
const assert = require("node:assert");
const { Redis } = require("ioredis");

(async () => {
  const client = new Redis(Number(process.argv[2]));
  assert.strictEqual(await client.ping(), "PONG");
  assert.strictEqual(await client.set("io:greeting", "hello"), "OK");
  assert.strictEqual(await client.get("io:greeting"), "hello");
  assert.strictEqual(await client.get("io:nothing"), null);
  const numbers = Array.from({ length: 100 }, (_, number) => number);
  await client.mset(Object.fromEntries(numbers.map((number) => [`io:${number}`, number])));
  assert.deepStrictEqual(await client.mget(numbers.map((number) => `io:${number}`)), numbers.map(String));
  await client.hset("io:hash", { a: 1, b: 2 });
  assert.deepStrictEqual(await client.hgetall("io:hash"), { a: "1", b: "2" });
  await client.zadd("io:scores", 1, "one", 2.5, "two");
  assert.deepStrictEqual(await client.zrange("io:scores", 0, -1, "WITHSCORES"), ["one", "1", "two", "2.5"]);
  const replies = await Promise.all(numbers.map((number) => client.set(`io:p:${number}`, number).then(() => client.get(`io:p:${number}`))));
  assert.deepStrictEqual(replies, numbers.map(String));
  const pipeline = client.pipeline();
  numbers.forEach((number) => pipeline.set(`io:q:${number}`, number).get(`io:q:${number}`));
  const results = await pipeline.exec();
  numbers.forEach((number) => assert.deepStrictEqual(results[2 * number + 1], [null, String(number)]));
  // EVALSHA first, EVAL where that is not known; in a pipeline it is loaded before.
  client.defineCommand("append", { numberOfKeys: 1, lua: "return redis.call('APPEND', KEYS[1], ARGV[1])" });
  await client.del(...numbers.map((number) => `io:s:${number}`));
  for (const length of [1, 2]) {
    const lengths = await Promise.all(numbers.map((number) => client.append(`io:s:${number}`, "x")));
    assert.deepStrictEqual(lengths, numbers.map(() => length));
  }
  await client.script("FLUSH");
  const scripts = client.pipeline();
  numbers.forEach((number) => scripts.append(`io:s:${number}`, "y"));
  assert.deepStrictEqual(await scripts.exec(), numbers.map(() => [null, 3]));
  await assert.rejects(client.call("NOSUCHCOMMAND", "a"), /unknown command/);
  const bytes = Buffer.from(Array.from({ length: 100_000 }, (_, index) => index & 255));
  await client.set("io:bytes", bytes);
  assert.ok(bytes.equals(await client.getBuffer("io:bytes")));
  const listener = client.duplicate();
  const message = new Promise((resolve) => listener.on("message", (...words) => resolve(words)));
  const matched = new Promise((resolve) => listener.on("pmessage", (...words) => resolve(words)));
  assert.strictEqual(await listener.subscribe("io:news", "io:other"), 2);
  assert.strictEqual(await listener.psubscribe("io:n*"), 3);
  assert.strictEqual(await client.publish("io:news", "text"), 2);
  assert.deepStrictEqual(await message, ["io:news", "text"]);
  assert.deepStrictEqual(await matched, ["io:n*", "io:news", "text"]);
  assert.strictEqual(await listener.unsubscribe("io:news", "io:other"), 1);
  assert.strictEqual(await listener.punsubscribe("io:n*"), 0);
  assert.strictEqual(await listener.get("io:greeting"), "hello");
  listener.disconnect();
  assert.strictEqual(await client.del(...numbers.map((number) => `io:${number}`)), 100);
  assert.match(await client.info(), /redis_version:/);
  assert.strictEqual(await client.quit(), "OK");
  console.log("ok");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
