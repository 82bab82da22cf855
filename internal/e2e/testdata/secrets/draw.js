// As draw.py.
const fs = require('fs'), crypto = require('crypto'), net = require('net'), tls = require('tls');
const generation = () => fs.readFileSync('/dev/cvm/generation').toString('hex');
const hello = () => new Promise((done) => {
  const server = net.createServer((s) => { s.on('error', () => {}); s.once('data', (d) => { done(d.subarray(11, 43).toString('hex')); s.destroy(); server.close(); }); });
  server.listen(0, '127.0.0.1', () => tls.connect({ port: server.address().port, host: '127.0.0.1' }).on('error', () => {}));
});
const draws = {
  'crypto.randomBytes': () => crypto.randomBytes(16).toString('hex'),
  'crypto.randomUUID': () => crypto.randomUUID(),
  'crypto.webcrypto': () => Buffer.from(crypto.webcrypto.getRandomValues(new Uint8Array(16))).toString('hex'),
  'Math.random': () => String(Math.random()),
  'TLS hello': hello,
};
(async () => {
  for (const name in draws) await draws[name]();
  const was = generation();
  console.log('ready');
  while (generation() === was) await new Promise((next) => setTimeout(next, 20));
  for (const name in draws) console.log('drew', name, '=', await draws[name]());
  setTimeout(() => {}, 1e9);
})();
