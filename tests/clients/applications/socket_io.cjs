// Socket.IO with its Redis adapter: two servers, clients of both, rooms, answers from all servers.
"use strict";
const assert = require("node:assert");
const { createServer } = require("node:http");
const { Server } = require("socket.io");
const { io } = require("socket.io-client");
const { createAdapter, createShardedAdapter } = require("@socket.io/redis-adapter");
const { Redis } = require("ioredis");
const { createClient } = require("redis");
const { port, halfway, eventually, soon, play } = require("./stage.cjs");

async function start(adapter) {
  const http = createServer();
  const server = new Server(http, { adapter });
  server.on("connection", (socket) => {
    socket.on("join", async (room, done) => { await socket.join(room); done(); });
    socket.on("say", (room, text) => server.to(room).emit("said", text));
  });
  await new Promise((resolve) => http.listen(0, "127.0.0.1", resolve));
  return server;
}

async function two_servers(adapters) {
  const servers = await Promise.all(adapters.map(start));
  const clients = [0, 1, 0, 1].map((at) => io(`http://127.0.0.1:${servers[at].httpServer.address().port}`, { transports: ["websocket"] }));
  await soon("clients connect", Promise.all(clients.map((client) => new Promise((resolve) => client.on("connect", resolve)))));
  const heard = clients.map(() => []);
  clients.forEach((client, at) => client.on("said", (text) => heard[at].push(text)));
  await eventually("the servers know of each other", async () => (await servers[0].serverCount?.() ?? await servers[0].of("/").adapter.serverCount()) === 2);

  async function shift(mark) {
    await Promise.all(clients.slice(0, 3).map((client) => soon("join", client.emitWithAck("join", `room ${mark}`))));
    // All sockets of all servers are known to both: the subscriptions have arrived.
    for (const server of servers) {
      await eventually("three in the room", async () => (await server.in(`room ${mark}`).fetchSockets()).length === 3);
    }
    clients[0].emit("say", `room ${mark}`, `hello ${mark}`);
    clients[1].emit("say", `room ${mark}`, `again ${mark}`);
    const wanted = [`again ${mark}`, `hello ${mark}`];
    await eventually("the room hears", () => heard.slice(0, 3).every((texts) => wanted.every((text) => texts.includes(text))));
    servers[0].emit("said", `all ${mark}`);
    await eventually("all hear", () => heard.every((texts) => texts.includes(`all ${mark}`)));
    assert.ok(!heard[3].includes(`hello ${mark}`));
    assert.strictEqual(new Set(heard[0]).size, heard[0].length, "heard once");
    servers[1].on(`ping ${mark}`, (text, done) => done(`${text} too`));
    assert.deepStrictEqual(await soon("answers", servers[0].serverSideEmitWithAck(`ping ${mark}`, "me")), ["me too"]);
  }
  return { shift, end: () => { clients.forEach((client) => client.close()); servers.forEach((server) => server.close()); } };
}

play(async () => {
  const node = () => createClient({ url: `redis://127.0.0.1:${port}` }).on("error", () => {}).connect();
  const plain = await two_servers(await Promise.all([0, 1].map(async () => createAdapter(await node(), await node()))));
  const by_ioredis = await two_servers([0, 1].map(() => createAdapter(new Redis(port), new Redis(port), { key: "by ioredis" })));
  const sharded = await two_servers(await Promise.all([0, 1].map(async () => createShardedAdapter(await node(), await node(), { channelPrefix: "sharded" }))));
  const all = [plain, by_ioredis, sharded];
  for (const servers of all) await servers.shift("first");
  await halfway();
  for (const servers of all) await servers.shift("second");
  all.forEach((servers) => servers.end());
});
