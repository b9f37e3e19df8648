// Profiles itself by Pyroscope's client, as the test of ingest that runs it says: client.js URL TOKEN SECONDS
'use strict';
const pyroscope = require('@pyroscope/nodejs');

const [url, token, seconds] = process.argv.slice(2);
pyroscope.init({
  serverAddress: url,
  appName: 'node.test',
  basicAuthUser: 'quantra',
  basicAuthPassword: token,
  tenantID: 'acme',
  tags: { region: 'eu', 'service.version': 'v1' },
  flushIntervalMs: 1000,
  wall: { samplingDurationMs: 1000, collectCpuTime: true },
  heap: { samplingIntervalBytes: 1024, stackDepth: 32 },
});
pyroscope.start();

const kept = [];
function busyWork(n) {
  const list = [];
  for (let i = 0; i < n; i++) list.push({ i });
  kept.push(list.slice(0, 10));
  return list.length;
}

const until = Date.now() + 1000 * Number(seconds);
(function loop() {
  busyWork(10000);
  if (Date.now() < until) setTimeout(loop, 1); // short turns, or its uploads never get one
  else process.exit(0); // stop() of this version fails where a round is under way; what is sent is sent each second
})();
