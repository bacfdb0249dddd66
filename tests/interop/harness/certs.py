"""A throw-away CA and the certificates that it issues, by the openssl command."""

import ssl
import threading

from .base import must, tool


class Authority:
    """A CA in a folder. Each certificate is NAME.pem (with its key in NAME.key)."""

    def __init__(self, folder, expired=False):
        self.folder = folder
        # Groups run beside each other, and the CA counts its certificates in a file.
        self.issuing = threading.Lock()
        self.openssl = tool("openssl")
        self.file = folder / "ca.pem"
        self._key(folder / "ca.key")
        if expired:
            return self._expired()
        must(
            [
                self.openssl,
                "req",
                "-x509",
                "-new",
                "-key",
                folder / "ca.key",
                "-days",
                "2",
                "-subj",
                "/CN=Interop CA",
                "-addext",
                "keyUsage=critical,keyCertSign",
                "-out",
                self.file,
            ]
        )

    def _expired(self):
        """The same, over since yesterday: `req -x509` cannot make that."""
        request, extensions = self.folder / "ca.csr", self.folder / "ca.ext"
        extensions.write_text("basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n")
        must([self.openssl, "req", "-new", "-key", self.folder / "ca.key", "-subj", "/CN=Old CA", "-out", request])
        must([self.openssl, "x509", "-req", "-in", request, "-signkey", self.folder / "ca.key", "-days", "-1",
              "-extfile", extensions, "-out", self.file])

    def _key(self, path):
        must([self.openssl, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path])
        path.chmod(0o644)

    def issue(self, name, names, expired=False, self_signed=False):
        """A certificate for these SANs, such as `DNS:a.test` or `IP:127.0.0.1`."""
        with self.issuing:
            return self._issue(name, names, expired, self_signed)

    def _issue(self, name, names, expired, self_signed):
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        self._key(key)
        extensions.write_text(f"subjectAltName={','.join(names)}\nextendedKeyUsage=serverAuth\n")
        must([self.openssl, "req", "-new", "-key", key, "-subj", f"/CN={name}", "-out", request])
        if self_signed:
            issuer = ["-signkey", key]
        else:
            issuer = ["-CA", self.file, "-CAkey", self.folder / "ca.key", "-CAcreateserial"]
        # `x509 -days` takes a negative count: a certificate that ended yesterday.
        must(
            [
                self.openssl,
                "x509",
                "-req",
                "-in",
                request,
                *issuer,
                "-days",
                "-1" if expired else "2",
                "-extfile",
                extensions,
                "-out",
                cert,
            ]
        )
        return cert, key

    def server_context(self, *args, with_root=False, **options):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        cert, key = self.issue(*args, **options)
        if with_root:
            cert.write_text(cert.read_text() + self.file.read_text())
        context.load_cert_chain(cert, key)
        return context

    def client_context(self):
        return ssl.create_default_context(cafile=self.file)
