// Sessions of express-session in connect-redis: kept, changed, touched, counted and ended by requests.
"use strict";
const assert = require("node:assert");
const express = require("express");
const session = require("express-session");
const { RedisStore } = require("connect-redis");
const { createClient } = require("redis");
const { port, halfway, soon, play } = require("./stage.cjs");

play(async () => {
  const client = await createClient({ url: `redis://127.0.0.1:${port}` }).on("error", () => {}).connect();
  const store = new RedisStore({ client, prefix: "site:" });
  const app = express();
  app.use(session({ store, secret: "not a secret", resave: false, saveUninitialized: false }));
  app.get("/count", (request, response) => {
    request.session.count = (request.session.count ?? 0) + 1;
    response.send(String(request.session.count));
  });
  app.get("/look", (request, response) => response.send(String(request.session.count)));
  app.get("/leave", (request, response) => request.session.destroy(() => response.send("gone")));
  const server = await new Promise((resolve) => { const listening = app.listen(0, "127.0.0.1", () => resolve(listening)); });

  class Visitor {
    async get(path) {
      const headers = this.cookie ? { cookie: this.cookie } : {};
      const response = await soon(path, fetch(`http://127.0.0.1:${server.address().port}${path}`, { headers }));
      assert.strictEqual(response.status, 200, await response.clone().text());
      this.cookie = response.headers.get("set-cookie")?.split(";")[0] ?? this.cookie;
      return response.text();
    }
  }
  const all = (visitors, path) => Promise.all(visitors.map((visitor) => visitor.get(path)));
  const visitors = Array.from({ length: 20 }, () => new Visitor());
  const each = (text) => visitors.map(() => text);
  assert.deepStrictEqual(await all(visitors, "/count"), each("1"));
  assert.deepStrictEqual(await all(visitors, "/count"), each("2"));
  assert.deepStrictEqual(await all(visitors, "/look"), each("2"));
  assert.strictEqual(await store.length(), 20);
  await halfway();
  // Who was there before still is.
  assert.deepStrictEqual(await all(visitors, "/count"), each("3"));
  assert.strictEqual(await visitors[0].get("/leave"), "gone");
  assert.strictEqual(await visitors[0].get("/look"), "undefined");
  assert.strictEqual((await store.ids()).length, 19);
  assert.strictEqual((await store.all()).filter(({ count }) => count === 3).length, 19);
  await store.clear();
  assert.strictEqual(await store.length(), 0);
  server.close();
  await client.close();
});
