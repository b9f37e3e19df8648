// Counts primes and profiles itself, for as many seconds as its argument says, for ever without one.
'use strict';
const pyroscope = require('@pyroscope/nodejs');

function isPrime(n) {
  for (let d = 2; d * d <= n; d++) if (n % d === 0) return false;
  return true;
}

pyroscope.init({
  serverAddress: process.env.PYROSCOPE_SERVER_ADDRESS || 'http://localhost:4040',
  appName: 'node-example',
  wall: { collectCpuTime: true },
});
pyroscope.start();

const until = Date.now() + 1000 * Number(process.argv[2] || Infinity);
let n = 2;
(function turn() {
  for (let i = 0; i < 20000; i++) isPrime(n++);
  if (Date.now() < until) setTimeout(turn, 1); // in turns, or its uploads never get one
  else process.exit(0);
})();
