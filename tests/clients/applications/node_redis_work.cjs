// node-redis with its defaults, or its client for Redis Cluster (`cluster`): pipelines, transactions, messages, streams with
// groups, pops that wait, and scripts that write if that is asked for (`scripts`).
"use strict";
const assert = require("node:assert");
const { createClient, createCluster } = require("redis");
const { port, halfway, eventually, soon, play } = require("./stage.cjs");

const inCluster = process.argv.includes("cluster");
const url = `redis://127.0.0.1:${port}`;
const plain = () => createClient({ url }).on("error", () => {}).connect();
const connect = () => (inCluster ? createCluster({ rootNodes: [{ url }] }).on("error", () => {}).connect() : plain());
const numbers = (count) => [...Array(count).keys()];

play(async () => {
  const client = await connect();

  async function pipelines(tag) {
    // One tick of the event loop is one pipeline.
    const replies = await Promise.all(numbers(100).flatMap((number) => [client.set(`${tag}:${number}`, String(number)), client.get(`${tag}:${number}`)]));
    numbers(100).forEach((number) => assert.strictEqual(replies[2 * number + 1], String(number)));
  }

  async function transactions(tag) {
    const both = await client.multi().incr(`${tag}count`).rPush(`${tag}list`, ["a", "b"]).lRange(`${tag}list`, 0, -1).exec();
    assert.deepStrictEqual(both, [1, 2, ["a", "b"]]);
    const watching = await plain();
    await watching.watch(`${tag}count`);
    await client.incr(`${tag}count`);
    await assert.rejects(watching.multi().set(`${tag}count`, "9").exec(), /watched keys has been changed/);
    await watching.watch(`${tag}count`);
    assert.deepStrictEqual(await watching.multi().incr(`${tag}count`).exec(), [3]);
    await watching.close();
  }

  async function messages(tag) {
    const listener = await connect();
    const heard = new Set();
    await listener.subscribe(`${tag}news`, (text, channel) => heard.add(`message ${channel} ${text}`));
    await listener.pSubscribe(`${tag}n*`, (text, channel) => heard.add(`pmessage ${channel} ${text}`));
    await listener.sSubscribe?.(`${tag}own`, (text, channel) => heard.add(`smessage ${channel} ${text}`));
    await eventually("messages come", async () => {
      await client.publish(`${tag}news`, "text");
      await client.sPublish(`${tag}own`, "text");
      return heard.size === 3;
    });
    assert.deepStrictEqual([...heard].sort(), [`message ${tag}news text`, `pmessage ${tag}news text`, `smessage ${tag}own text`]);
    listener.destroy();
  }

  async function streams(tag) {
    const stream = `${tag}stream`;
    await client.xGroupCreate(stream, "group", "$", { MKSTREAM: true });
    const done = [];
    const consumers = ["one", "two"].map(async (name) => {
      const mine = await connect();
      while (done.length < 50) {
        const found = await mine.xReadGroup("group", name, { key: stream, id: ">" }, { COUNT: 5, BLOCK: 100 });
        for (const { id, message } of found?.[0].messages ?? []) {
          done.push(Number(message.number));
          assert.strictEqual(await mine.xAck(stream, "group", id), 1);
        }
      }
      mine.destroy();
    });
    await Promise.all(numbers(50).map((number) => client.xAdd(stream, "*", { number: String(number) })));
    await soon("the stream is read", Promise.all(consumers));
    assert.deepStrictEqual(done.sort((one, other) => one - other), numbers(50));
    assert.strictEqual((await client.xPending(stream, "group")).pending, 0);
  }

  async function pops(tag) {
    const mine = await connect();
    const list = mine.blPop([`${tag}q:1`, `${tag}q:2`], 20);
    await client.rPush(`${tag}q:2`, "job");
    assert.deepStrictEqual({ ...(await soon("a pop", list)) }, { key: `${tag}q:2`, element: "job" });
    const moved = mine.blMove(`${tag}q:1`, `${tag}q:3`, "LEFT", "RIGHT", 20);
    await client.rPush(`${tag}q:1`, "moved");
    assert.strictEqual(await soon("a move", moved), "moved");
    assert.strictEqual(await mine.brPop(`${tag}empty`, 0.1), null);
    mine.destroy();
  }

  async function scripts(tag) {
    const put = { keys: [`${tag}text`, `${tag}number`], arguments: ["x"] };
    const text = "return redis.call('APPEND', KEYS[1], ARGV[1]) + redis.call('INCR', KEYS[2])";
    for (const wanted of [2, 4, 6]) assert.strictEqual(await client.eval(text, put), wanted);
  }

  async function work(mark) {
    const tag = `{node:${mark}}`;
    if (process.argv.includes("scripts")) return scripts(tag);
    for (const part of [pipelines, transactions, messages, streams, pops]) await part(tag);
  }
  await work("first");
  await halfway();
  await work("second");
  client.destroy();
});
