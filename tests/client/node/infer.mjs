// node infer.mjs ENDPOINT TASKS IMAGE...   prints one JSON object: what the daemon answered
// Of the tasks (a,b,c) the first comes back as its two best classes, the others raw.

import { readFileSync } from "node:fs";
import { Client } from "./edged.mjs";

const [endpoint, tasks, ...files] = process.argv.slice(2);
const [first, ...others] = tasks.split(",");
const client = new Client(endpoint);
try {
  const { version, limits } = await client.connect();
  const wanted = [
    { name: first, parameters: { classification: 2 } },
    ...others.map((name) => ({ name })),
  ];
  const images = files.map((file) => readFileSync(file));
  const [together, alone] = await Promise.all([
    client.infer(images, wanted),
    client.infer(images.slice(0, 1), wanted, { parameters: { priority: 1 } }),
  ]);
  const shown = ({ outputs, parameters }) => ({
    outputs: outputs.map(({ data, ...rest }) => ({
      ...rest,
      data: data && Array.from(new Float32Array(Uint8Array.from(data).buffer)),
    })),
    parameters,
  });
  let refused = null;
  try {
    await client.infer(images.slice(0, 1), [{ name: "no-such-task" }]);
  } catch ({ code, message }) {
    refused = { code, message };
  }
  await client.ping();
  const answers = { version, limits, together: shown(together), alone: shown(alone), refused };
  console.log(JSON.stringify(answers));
} catch (error) {
  console.log(JSON.stringify({ failed: { code: error.code, message: error.message } }));
  process.exitCode = 1;
} finally {
  await client.close();
}
