// node many.mjs ENDPOINT TASK COUNT IMAGE   asks so many times at once; prints how it ended, by code

import { readFileSync } from "node:fs";
import { Client } from "./edged.mjs";

const [endpoint, name, count, file] = process.argv.slice(2);
const image = readFileSync(file);
const client = new Client(endpoint);
await client.connect();
const ends = {};
await Promise.all(
  Array.from({ length: Number(count) }, () =>
    client
      .infer([image], [{ name }])
      .then(() => "answered", ({ code }) => code)
      .then((end) => (ends[end] = (ends[end] ?? 0) + 1)),
  ),
);
await client.close();
console.log(JSON.stringify(ends));
