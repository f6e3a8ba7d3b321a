// ioredis's cluster client with its defaults, against an emulated cluster on the port that is the only argument.
const assert = require("node:assert");
const { Cluster } = require("ioredis");

async function main() {
  const cluster = new Cluster([{ host: "127.0.0.1", port: Number(process.argv[2]) }]);
  cluster.on("error", (error) => { throw error; });
  for (let number = 0; number < 200; number++) {
    assert.equal(await cluster.set(`io:${number}`, number), "OK");
  }
  const values = await Promise.all([...Array(200).keys()].map((number) => cluster.get(`io:${number}`)));
  assert.deepEqual(values, [...Array(200).keys()].map(String));
  assert.deepEqual(await cluster.mget("{io}:a", "{io}:b"), [null, null]);
  const pipeline = cluster.pipeline();
  for (let number = 0; number < 200; number++) pipeline.get("{io}:same").set("{io}:same", number);
  const replies = await pipeline.exec();
  assert.equal(replies.length, 400);
  assert.ok(replies.every(([error]) => error === null));
  assert.equal(cluster.nodes("master").length, 1);
  const reader = new Cluster([{ host: "127.0.0.1", port: Number(process.argv[2]) }], { scaleReads: "all" });
  assert.equal(await reader.get("io:7"), "7");
  reader.disconnect();
  cluster.disconnect();
  console.log("ok");
}

main().catch((error) => { console.error(error); process.exit(1); });
