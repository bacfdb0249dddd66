"""A small HTTPS server."""

import http.server
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request; what differs is in `do_GET` and `do_POST`."""

    def reply(self, status, body=b"", kind="text/plain", **fields):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve(host, port, context, handler):
    """Serves in a thread until `shutdown` and `server_close`."""
    server = http.server.ThreadingHTTPServer((host, port), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
