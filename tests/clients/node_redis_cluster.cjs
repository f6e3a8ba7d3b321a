// node-redis's cluster client with its defaults, against an emulated cluster on the port that is the only argument.
const assert = require("node:assert");
const { createCluster } = require("redis");

async function main() {
  const cluster = createCluster({ rootNodes: [{ url: `redis://127.0.0.1:${process.argv[2]}` }] });
  cluster.on("error", (error) => { throw error; });
  await cluster.connect();
  for (let number = 0; number < 200; number++) await cluster.set(`nr:${number}`, String(number));
  const values = await Promise.all([...Array(200).keys()].map((number) => cluster.get(`nr:${number}`)));
  assert.deepEqual(values, [...Array(200).keys()].map(String));
  assert.deepEqual(await cluster.mGet(["{nr}:a", "{nr}:b"]), [null, null]);
  assert.equal(await cluster.hSet("nr:hash", { a: "1", b: "2" }), 2);
  assert.equal(cluster.masters.length, 1);
  await (cluster.close ? cluster.close() : cluster.quit());
  console.log("ok");
}

main().catch((error) => { console.error(error); process.exit(1); });
