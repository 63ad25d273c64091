// Runs a kernel in WebAssembly: node runner.mjs KERNEL.wasm < job > result (the form of runner.c).
import { readFileSync, writeSync } from "node:fs";

const [file] = process.argv.slice(2);
const { instance } = await WebAssembly.instantiate(readFileSync(file), {});
const { memory, __heap_base: base, gg_kernel_rows: rows, gg_kernel_workspace_bytes: workspace } = instance.exports;
const job = readFileSync(0);
const [n, inputs, outputs, stateBytes] = [0, 4, 8, 12].map((at) => job.readInt32LE(at));
const sizes = Array.from({ length: inputs + outputs }, (_, i) => job.readInt32LE(16 + 4 * i));
let next = (base.value + 63) & ~63;
let read = 16 + 4 * sizes.length;

function room(bytes) {
  const at = next;
  next += (bytes + 63) & ~63;
  const missing = next - memory.buffer.byteLength;
  if (missing > 0) memory.grow(Math.ceil(missing / 65536));
  return at;
}
function taken(bytes) {
  const at = room(bytes);
  new Uint8Array(memory.buffer).set(job.subarray(read, read + bytes), at);
  read += bytes;
  return at;
}
function words(values) {
  const at = room(4 * values.length);
  new Int32Array(memory.buffer).set(values, at / 4);
  return at;
}
function given(at, bytes) {
  const content = new Uint8Array(memory.buffer, at, bytes);
  for (let sent = 0; sent < bytes; ) sent += writeSync(1, content, sent);
}

const places = sizes.slice(0, inputs).map((size) => taken(n * size));
const table = taken(n * stateBytes);
const results = sizes.slice(inputs).map((size) => room(n * size));
const emit = room(n);
const key = words(Array.from({ length: n }, (_, i) => i));
rows(n, words(places), key, table, words(results), emit, room(new DataView(memory.buffer).getUint32(workspace.value, true)));
results.forEach((at, i) => given(at, n * sizes[inputs + i]));
given(emit, n);
given(table, n * stateBytes);
