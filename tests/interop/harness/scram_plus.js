// AUTH SCRAM-SHA-256-PLUS with the channel binding tls-exporter (RFC 5802, RFC 7677, RFC 9266): PORT [tamper]
// Prints the last reply of the server. With `tamper`, binds to another connection's value, as a proxy in the middle would.
const crypto = require('node:crypto');
const readline = require('node:readline');
const tls = require('node:tls');

const [port, tamper] = process.argv.slice(2);
const { SMTP_USER: user, SMTP_SECRET: secret } = process.env;
const hmac = (key, data) => crypto.createHmac('sha256', key).update(data).digest();
const sha256 = (data) => crypto.createHash('sha256').update(data).digest();
const base64 = (data) => Buffer.from(data).toString('base64');

async function main() {
  const socket = tls.connect({ host: 'localhost', port: Number(port) });
  await new Promise((resolve, reject) => socket.once('secureConnect', resolve).once('error', reject));
  const lines = readline.createInterface({ input: socket })[Symbol.asyncIterator]();
  const reply = async () => {
    for (;;) {
      const { value, done } = await lines.next();
      if (done) throw new Error('the server closed');
      if (value[3] !== '-') return value;
    }
  };
  const say = (text) => { socket.write(`${text}\r\n`); return reply(); };

  await reply();
  await say('EHLO client.test');
  const binding = socket.exportKeyingMaterial(32, 'EXPORTER-Channel-Binding', Buffer.alloc(0));
  if (tamper) binding[0] ^= 1;
  const gs2 = 'p=tls-exporter,,';
  const nonce = base64(crypto.randomBytes(18));
  const first = `n=${user},r=${nonce}`;
  const challenge = await say(`AUTH SCRAM-SHA-256-PLUS ${base64(gs2 + first)}`);
  if (!challenge.startsWith('334 ')) return challenge;
  const server = Buffer.from(challenge.slice(4), 'base64').toString();
  const { r, s, i } = Object.fromEntries(server.split(',').map((part) => [part[0], part.slice(2)]));
  if (!r.startsWith(nonce)) throw new Error('the server changed the nonce');
  const salted = crypto.pbkdf2Sync(secret, Buffer.from(s, 'base64'), Number(i), 32, 'sha256');
  const key = hmac(salted, 'Client Key');
  const last = `c=${base64(Buffer.concat([Buffer.from(gs2), binding]))},r=${r}`;
  const spoken = `${first},${server},${last}`;
  const signature = hmac(sha256(key), spoken);
  const proof = key.map((octet, at) => octet ^ signature[at]);
  const final = await say(base64(`${last},p=${base64(proof)}`));
  if (!final.startsWith('334 ')) return final;
  const verifier = Buffer.from(final.slice(4), 'base64').toString();
  if (verifier !== `v=${base64(hmac(hmac(salted, 'Server Key'), spoken))}`) throw new Error('the server does not know the secret');
  return say('');
}

main().then(
  (text) => { console.log(text); process.exit(0); },
  (error) => { console.error(String(error)); process.exit(1); },
);
