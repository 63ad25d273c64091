// The function node: filter, alarm (first output), mean and count per sensor and second (second output).
const reading = msg.payload;
if (reading.q !== 0) return null;
const alarm = reading.temp > 100
    ? { payload: { sensor: reading.sensor, ts: reading.ts, temp: reading.temp } } : null;
const windows = context.get("windows");
const start = reading.ts - reading.ts % 1000;
const open = windows.get(reading.sensor);
let closed = null;
if (open === undefined) {
    windows.set(reading.sensor, { start, count: 1, sum: reading.temp });
} else if (open.start === start) {
    open.count += 1;
    open.sum += reading.temp;
} else if (start > open.start) {
    closed = { payload: { sensor: reading.sensor, start: open.start, count: open.count, mean: open.sum / open.count } };
    windows.set(reading.sensor, { start, count: 1, sum: reading.temp });
}
return alarm || closed ? [alarm, closed] : null;
