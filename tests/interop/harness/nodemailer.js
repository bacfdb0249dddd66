// Sends one message with nodemailer: PORT implicit|starttls METHOD FROM TO,TO FILE raw|compose
const fs = require('node:fs');
const nodemailer = require('nodemailer');

const [port, tls, method, from, to, file, how] = process.argv.slice(2);
const transport = nodemailer.createTransport({
  host: 'localhost',
  port: Number(port),
  name: 'client.test',
  secure: tls === 'implicit',
  requireTLS: true,
  authMethod: method,
  auth: { user: process.env.SMTP_USER, pass: process.env.SMTP_SECRET },
});
const envelope = { from, to: to.split(',') };
const mail = how === 'raw'
  ? { envelope, raw: fs.readFileSync(file) }
  : {
      envelope,
      from: `"Grüße, App" <${from}>`,
      to: 'a@sink.test',
      bcc: 'hidden@sink.test',
      subject: 'Grüße ✓ 日本語',
      text: 'Zeile eins\n.\nZeile drei: ✓\n',
      html: '<p>Zeile ✓</p>',
      attachments: [{ filename: 'größe.bin', content: fs.readFileSync(file) }],
    };

transport.sendMail(mail).then(
  (info) => console.log(JSON.stringify({ response: info.response, id: info.messageId })),
  (error) => { console.error(String(error)); process.exitCode = 1; },
);
