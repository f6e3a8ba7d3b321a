// ioredis with its defaults, or its client for Redis Cluster (`cluster`): pipelines, transactions, messages, streams with
// groups, pops that wait, and scripts that write if that is asked for (`scripts`).
"use strict";
const assert = require("node:assert");
const { Redis, Cluster } = require("ioredis");
const { port, halfway, eventually, soon, play } = require("./stage.cjs");

const inCluster = process.argv.includes("cluster");
const connect = () => (inCluster ? new Cluster([{ host: "127.0.0.1", port }]) : new Redis(port));
const numbers = (count) => [...Array(count).keys()];

play(async () => {
  const client = connect();

  async function pipelines(tag) {
    const many = client.pipeline();
    numbers(100).forEach((number) => many.set(`${tag}:${number}`, number).get(`${tag}:${number}`));
    const replies = await many.exec();
    numbers(100).forEach((number) => assert.deepStrictEqual(replies[2 * number + 1], [null, String(number)]));
    const values = await Promise.all(numbers(100).map((number) => client.get(`${tag}:${number}`)));
    assert.deepStrictEqual(values, numbers(100).map(String));
  }

  async function transactions(tag) {
    const both = await client.multi().incr(`${tag}count`).rpush(`${tag}list`, "a", "b").lrange(`${tag}list`, 0, -1).exec();
    assert.deepStrictEqual(both, [[null, 1], [null, 2], [null, ["a", "b"]]]);
    const watching = new Redis(port);
    await watching.watch(`${tag}count`);
    await client.incr(`${tag}count`);
    assert.strictEqual(await watching.multi().set(`${tag}count`, 9).exec(), null);
    await watching.watch(`${tag}count`);
    assert.deepStrictEqual(await watching.multi().incr(`${tag}count`).exec(), [[null, 3]]);
    watching.disconnect();
  }

  async function messages(tag) {
    const listener = connect();
    const heard = new Set();
    listener.on("message", (channel, text) => heard.add(`message ${channel} ${text}`));
    listener.on("pmessage", (pattern, channel, text) => heard.add(`pmessage ${pattern} ${channel} ${text}`));
    await listener.subscribe(`${tag}news`);
    await listener.psubscribe(`${tag}n*`);
    await eventually("messages come", async () => { await client.publish(`${tag}news`, "text"); return heard.size === 2; });
    assert.deepStrictEqual([...heard].sort(), [`message ${tag}news text`, `pmessage ${tag}n* ${tag}news text`]);
    listener.disconnect();
  }

  async function streams(tag) {
    const stream = `${tag}stream`;
    await client.xgroup("CREATE", stream, "group", "$", "MKSTREAM");
    const done = [];
    const consumers = ["one", "two"].map(async (name) => {
      const mine = connect();
      while (done.length < 50) {
        const found = await mine.xreadgroup("GROUP", "group", name, "COUNT", 5, "BLOCK", 100, "STREAMS", stream, ">");
        for (const [id, fields] of found?.[0][1] ?? []) {
          done.push(Number(fields[1]));
          assert.strictEqual(await mine.xack(stream, "group", id), 1);
        }
      }
      mine.disconnect();
    });
    await Promise.all(numbers(50).map((number) => client.xadd(stream, "*", "number", number)));
    await soon("the stream is read", Promise.all(consumers));
    assert.deepStrictEqual(done.sort((one, other) => one - other), numbers(50));
    assert.strictEqual((await client.xpending(stream, "group"))[0], 0);
  }

  async function pops(tag) {
    const mine = connect();
    const list = mine.blpop(`${tag}q:1`, `${tag}q:2`, 20);
    await client.rpush(`${tag}q:2`, "job");
    assert.deepStrictEqual(await soon("a pop", list), [`${tag}q:2`, "job"]);
    const moved = mine.blmove(`${tag}q:1`, `${tag}q:3`, "LEFT", "RIGHT", 20);
    await client.rpush(`${tag}q:1`, "moved");
    assert.strictEqual(await soon("a move", moved), "moved");
    assert.strictEqual(await mine.brpop(`${tag}empty`, 0.1), null);
    mine.disconnect();
  }

  async function scripts(tag) {
    client.defineCommand("put", {
      numberOfKeys: 2,
      lua: "return redis.call('APPEND', KEYS[1], ARGV[1]) + redis.call('INCR', KEYS[2])",
    });
    for (const wanted of [2, 4, 6]) assert.strictEqual(await client.put(`${tag}text`, `${tag}number`, "x"), wanted);
    const many = client.pipeline();
    numbers(10).forEach(() => many.put(`${tag}text`, `${tag}number`, "x"));
    assert.deepStrictEqual(await many.exec(), numbers(10).map((number) => [null, 8 + 2 * number]));
    assert.strictEqual(await client.eval("return redis.call('SET', KEYS[1], ARGV[1])", 1, `${tag}set`, "value"), "OK");
  }

  async function work(mark) {
    const tag = `{io:${mark}}`;
    if (process.argv.includes("scripts")) return scripts(tag);
    for (const part of [pipelines, transactions, messages, streams, pops]) await part(tag);
  }
  await work("first");
  await halfway();
  await work("second");
  client.disconnect();
});
