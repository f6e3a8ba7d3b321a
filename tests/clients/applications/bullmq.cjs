// BullMQ: workers, delayed and repeated jobs, priorities, retries, a flow of parents and children, events.
"use strict";
const assert = require("node:assert");
const { FlowProducer, Queue, QueueEvents, Worker } = require("bullmq");
const { port, halfway, eventually, soon, play } = require("./stage.cjs");

const connection = { host: "127.0.0.1", port };
// As its manual says for Redis Cluster: all keys of a queue are together by their prefix.
const prefix = process.argv[3] ?? "bull";

play(async () => {
  const troubles = [];
  const note = (error) => troubles.push(error);
  const queue = new Queue("work", { connection, prefix }).on("error", note);
  const events = new QueueEvents("work", { connection, prefix }).on("error", note);
  const flows = new FlowProducer({ connection, prefix }).on("error", note);
  const tried = new Map();
  const work = async (job) => {
    tried.set(job.id, (tried.get(job.id) ?? 0) + 1);
    if (job.name === "add") return job.data.first + job.data.second;
    if (job.name === "third time" && job.attemptsMade < 2) throw new Error("as it should");
    if (job.name === "parent") return Object.values(await job.getChildrenValues()).reduce((sum, value) => sum + value, 0);
    await job.updateProgress(50);
    return job.name;
  };
  const workers = [1, 2].map(() => new Worker("work", work, { connection, prefix, concurrency: 3 }).on("error", note));
  await soon("the queue is ready", Promise.race([
    Promise.all([queue, events, ...workers].map((part) => part.waitUntilReady())),
    eventually("no trouble", () => troubles.length > 0).then(() => { throw troubles[0]; }),
  ]));

  const ended = (job) => soon(`${job.name} ends`, job.waitUntilFinished(events));
  async function shift(mark) {
    const sums = [...Array(40).keys()].map((number) => queue.add("add", { first: number, second: 1 }));
    const many = await queue.addBulk([...Array(10).keys()].map((number) => ({ name: "add", data: { first: number, second: 2 } })));
    const jobs = [...(await Promise.all(sums)), ...many];
    const wanted = [...[...Array(40).keys()].map((number) => number + 1), ...[...Array(10).keys()].map((number) => number + 2)];
    assert.deepStrictEqual(await Promise.all(jobs.map(ended)), wanted);
    const others = await Promise.all([
      queue.add("delayed", {}, { delay: 300 }),
      queue.add("urgent", {}, { priority: 1 }),
      queue.add("third time", {}, { attempts: 3, backoff: { type: "fixed", delay: 50 } }),
      queue.add("named", {}, { jobId: `named-${mark}` }),
    ]);
    assert.deepStrictEqual(await Promise.all(others.map(ended)), ["delayed", "urgent", "third time", "named"]);
    const flow = await flows.add({
      name: "parent",
      queueName: "work",
      children: [1, 2, 3].map((number) => ({ name: "add", queueName: "work", data: { first: number, second: number } })),
    });
    assert.strictEqual(await ended(flow.job), 12);
    await queue.upsertJobScheduler(`every-${mark}`, { every: 100, limit: 3 }, { name: `tick-${mark}` });
    await eventually("three ticks", async () => (await queue.getCompleted()).filter((job) => job.name === `tick-${mark}`).length === 3);
    assert.ok([...tried.values()].every((count) => count === 1 || count === 3));
    const counts = await queue.getJobCounts();
    assert.deepStrictEqual([counts.waiting, counts.active, counts.failed, counts.delayed], [0, 0, 0, 0]);
  }
  await shift("first");
  await halfway();
  const before = troubles.length;
  await shift("second");
  await Promise.all(workers.map((worker) => worker.close()));
  // Few at a time: the script names none of the keys of its jobs.
  await queue.obliterate({ count: 10 });
  await Promise.all([queue, events, flows].map((part) => part.close()));
  assert.deepStrictEqual(troubles.slice(0, before), []);
});
