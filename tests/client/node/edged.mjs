// A client of edged, written from docs/protocol.md alone.
// It knows one connection, many requests at a time, deadlines and errors; it sends nothing twice.

import { randomBytes } from "node:crypto";
import { decode, encode } from "@msgpack/msgpack";
import { Dealer } from "zeromq";

const MAGIC = Buffer.from("EDG1");
const OP = { INFER: 0x01, CANCEL: 0x02, PING: 0x03, SERVER_METADATA: 0x12, ERROR: 0x7f };
const ITEM_BYTES = {
  BOOL: 1, UINT8: 1, UINT16: 2, UINT32: 4, UINT64: 8, INT8: 1, INT16: 2, INT32: 4, INT64: 8,
  FP16: 2, FP32: 4, FP64: 8,
};

/** A coded answer of the daemon, or a failure of the connection. */
export class EdgedError extends Error {
  constructor(code, message, retryAfterUs = null) {
    super(message);
    this.code = code;
    this.retryAfterUs = retryAfterUs;
  }
}

export class Client {
  #socket;
  #waiting = new Map(); // id -> { op, frames, sent, resolve, reject, timer }
  #lastId = 0;
  #window = 1; // INFER requests that may be unanswered; known once the daemon has been heard
  #out = 0; // those that are
  #reading;

  constructor(endpoint) {
    this.#socket = new Dealer({
      routingId: randomBytes(16).toString("hex"), // the first byte is a hex digit, so not 0x00
      linger: 200,
    });
    this.#socket.connect(endpoint);
    this.#reading = this.#read();
  }

  /** Hears the daemon's limits; fails unless one answers in time. */
  async connect(timeoutMs = 5000) {
    const { header } = await this.#ask(OP.SERVER_METADATA, {}, [], timeoutMs);
    this.limits = header.limits;
    this.#window = header.limits.max_in_flight;
    return header;
  }

  async ping(timeoutMs = 5000) {
    await this.#ask(OP.PING, {}, [], timeoutMs);
  }

  /**
   * `images`: Buffers of JPEG or PNG files, one a row. `outputs`: [{ name, parameters? }].
   * Resolves to { outputs, parameters }; each output has `classification` or `data` (a Buffer).
   */
  async infer(images, outputs, { timeoutMs = 30000, parameters = {} } = {}) {
    const bytes = images.reduce((sum, image) => sum + image.length, 0);
    if (images.length > this.limits.max_rows || bytes > this.limits.max_message_bytes) {
      throw new EdgedError("RESOURCE_EXHAUSTED", "above the daemon's limits: send fewer images");
    }
    const header = {
      inputs: [{ name: "image", datatype: "BYTES", shape: [images.length] }],
      outputs,
      parameters: { timeout: timeoutMs * 1000, ...parameters },
    };
    const reply = await this.#ask(OP.INFER, header, images, timeoutMs);
    return withData(reply);
  }

  async close() {
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(new EdgedError("CANCELLED", "the client was closed"));
    }
    this.#waiting.clear();
    this.#socket.close();
    await this.#reading;
  }

  #ask(op, fields, payload, timeoutMs) {
    const id = String(++this.#lastId);
    const answer = new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#giveUp(id, timeoutMs), timeoutMs);
      const frames = [frame0(op), encode({ id, ...fields }), ...payload];
      this.#waiting.set(id, { op, frames, sent: false, resolve, reject, timer });
    });
    this.#send();
    return answer;
  }

  /** Sends what has not been sent, INFER requests as far as the window allows. */
  #send() {
    for (const [id, call] of this.#waiting) {
      if (call.sent || (call.op === OP.INFER && this.#out >= this.#window)) continue;
      call.sent = true;
      this.#out += call.op === OP.INFER;
      this.#socket
        .send(call.frames)
        .catch((error) => this.#end(id, null, new EdgedError("UNAVAILABLE", error.message)));
    }
  }

  #giveUp(id, timeoutMs) {
    const { op, sent } = this.#waiting.get(id);
    this.#end(id, null, new EdgedError("DEADLINE_EXCEEDED", `no answer within ${timeoutMs} ms`));
    if (op === OP.INFER && sent) this.#ask(OP.CANCEL, { request: id }, [], 5000).catch(() => {});
  }

  async #read() {
    for await (const [first, raw, ...payload] of this.#socket) {
      if (first.length !== 5 || !first.subarray(0, 4).equals(MAGIC)) continue;
      const header = readable(raw);
      if (first[4] === OP.ERROR) {
        const { code, error, retry_after_us: after } = header;
        this.#end(header.id, null, new EdgedError(code, error, after));
      } else if (this.#waiting.get(header.id)?.op === first[4]) {
        if (first[4] === OP.INFER) {
          this.#window = Math.min(header.parameters.credits ?? Infinity, this.limits.max_in_flight);
        }
        this.#end(header.id, { header, payload }, null);
      }
    }
  }

  #end(id, reply, error) {
    const call = this.#waiting.get(id);
    if (call === undefined) return; // a second answer, or one that came too late
    this.#waiting.delete(id);
    clearTimeout(call.timer);
    if (call.sent && call.op === OP.INFER) this.#out -= 1;
    if (error) call.reject(error);
    else call.resolve(reply);
    this.#send();
  }
}

/** The frame that says what a message is. */
function frame0(op) {
  return Buffer.concat([MAGIC, Buffer.from([op])]);
}

/** The header, or one that no request waits for. */
function readable(raw) {
  try {
    return decode(raw) ?? {};
  } catch {
    return {};
  }
}

/** Gives each output that has no classification its payload frame, which must fit its shape. */
function withData({ header, payload }) {
  const frames = payload.values();
  const outputs = header.outputs.map((output) => {
    if (output.classification !== null) return output;
    const data = frames.next().value;
    const bytes = output.shape.reduce((product, n) => product * n, ITEM_BYTES[output.datatype]);
    if (data?.length !== bytes) throw new EdgedError("INTERNAL", "a payload frame does not fit");
    return { ...output, data };
  });
  if (!frames.next().done) throw new EdgedError("INTERNAL", "a payload frame too many");
  return { outputs, parameters: header.parameters };
}
