// node-redis with its defaults, in both protocols, through the proxy on the port that is the only argument.
"use strict";
const assert = require("node:assert");
const { createClient, defineScript } = require("redis");

const scripts = {
  put: defineScript({
    NUMBER_OF_KEYS: 1,
    SCRIPT: "return redis.call('APPEND', KEYS[1], ARGV[1])",
    parseCommand(parser, key, value) {
      parser.pushKey(key);
      parser.push(value);
    },
    transformReply: (reply) => reply,
  }),
};

async function run(options) {
  const client = createClient({ url: `redis://127.0.0.1:${process.argv[2]}`, scripts, ...options });
  const errors = [];
  client.on("error", (error) => errors.push(error));
  await client.connect();
  assert.strictEqual(await client.ping(), "PONG");
  assert.strictEqual(await client.set("node:greeting", "hello"), "OK");
  assert.strictEqual(await client.get("node:greeting"), "hello");
  assert.strictEqual(await client.get("node:nothing"), null);
  const numbers = Array.from({ length: 100 }, (_, number) => number);
  await client.mSet(numbers.map((number) => [`node:${number}`, String(number)]));
  assert.deepStrictEqual(await client.mGet(numbers.map((number) => `node:${number}`)), numbers.map(String));
  await client.hSet("node:hash", { a: "1", b: "2" });
  assert.deepStrictEqual({ ...(await client.hGetAll("node:hash")) }, { a: "1", b: "2" });
  await client.zAdd("node:scores", [{ score: 2.5, value: "two" }]);
  assert.strictEqual(await client.zScore("node:scores", "two"), 2.5);
  // One tick of the event loop is one pipeline.
  const replies = await Promise.all(numbers.flatMap((number) => [client.set(`node:p:${number}`, String(number)), client.get(`node:p:${number}`)]));
  numbers.forEach((number) => assert.strictEqual(replies[2 * number + 1], String(number)));
  // EVALSHA first, EVAL where that is not known.
  await client.del(numbers.map((number) => `node:s:${number}`));
  for (const length of [1, 2]) {
    const lengths = await Promise.all(numbers.map((number) => client.put(`node:s:${number}`, "x")));
    assert.deepStrictEqual(lengths, numbers.map(() => length));
  }
  await client.scriptFlush();
  await assert.rejects(client.sendCommand(["NOSUCHCOMMAND", "a"]), /unknown command/);
  const listener = client.duplicate();
  await listener.connect();
  const heard = [];
  let done;
  const all = new Promise((resolve) => (done = resolve));
  const hear = (message, channel) => heard.push(`${channel} ${message}`) === 2 && done();
  await listener.subscribe(["node:news", "node:other"], hear);
  await listener.pSubscribe("node:n*", hear);
  assert.strictEqual(await client.publish("node:news", "text"), 2);
  await all;
  assert.deepStrictEqual(heard, ["node:news text", "node:news text"]);
  await listener.unsubscribe();
  await listener.pUnsubscribe();
  assert.strictEqual(String(await listener.ping()), "PONG"); // The library keeps to buffers from here on.
  await listener.close();
  assert.strictEqual(await client.del(numbers.map((number) => `node:${number}`)), 100);
  await client.close();
  assert.deepStrictEqual(errors, []);
}

(async () => {
  await run({});
  await run({ RESP: 3 });
  await run({ RESP: 2 });
  console.log("ok");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
