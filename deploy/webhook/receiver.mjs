#!/usr/bin/env node
// Receives events of kfwatch: checks their signatures (Standard Webhooks), drops duplicates, prints the others.
//
// usage: receiver.mjs KEYFILE [PORT]        KEYFILE has the keys of the sink's secret_file, one whsec_… a line
import { createHmac, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";

const lines = readFileSync(process.argv[2], "utf8").split("\n").map((line) => line.trim()).filter(Boolean);
const keys = lines.map((line) => Buffer.from(line.replace(/^whsec_/, ""), "base64"));
const TOLERANCE = 300; // by how many seconds the clocks may differ; older requests may be recorded ones
const seen = new Set(); // ids of handled events; use a unique column of your database instead

function isValid(headers, body) {
  const [id, at, signatures] = ["id", "timestamp", "signature"].map((name) => headers[`webhook-${name}`] ?? "");
  if (!/^\d+$/.test(at) || Math.abs(Date.now() / 1000 - Number(at)) > TOLERANCE) return false;
  const sign = (key) => "v1," + createHmac("sha256", key).update(`${id}.${at}.`).update(body).digest("base64");
  const same = (one, given) => one.length === given.length && timingSafeEqual(one, given);
  const expected = keys.map((key) => Buffer.from(sign(key)));
  return signatures.split(" ").some((given) => expected.some((one) => same(one, Buffer.from(given))));
}

const server = createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk)).on("end", () => {
    const body = Buffer.concat(chunks);
    const valid = request.method === "POST" && isValid(request.headers, body);
    const id = request.headers["webhook-id"];
    if (valid && !seen.has(id)) {
      console.log(body.toString()); // handle the event here, completely, before the answer
      seen.add(id);
    }
    response.writeHead(valid ? 204 : 401).end();
  });
});
server.listen(Number(process.argv[3] ?? 8080), "127.0.0.1", () => {
  console.error(`Listening on http://127.0.0.1:${server.address().port}/`);
});
