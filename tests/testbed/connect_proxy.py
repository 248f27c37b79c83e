#!/usr/bin/python3
"""An HTTP proxy to which every name is this machine: connect_proxy.py PORT

It tunnels (CONNECT) and relays GET, for the user proxy with the password secret; 407 for others.  Each request is a line
of standard error, and so of its log: METHOD TARGET STATUS.
"""
import base64
import http.client
import http.server
import select
import socket
import sys
import urllib.parse

USER = 'Basic ' + base64.b64encode(b'proxy:secret').decode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def allowed(self):
        if self.headers.get('Proxy-Authorization') == USER:
            return True
        self.send_response(407)
        self.send_header('Proxy-Authenticate', 'Basic realm="proxy"')
        self.send_header('Content-Length', '0')
        self.end_headers()
        return False

    def do_CONNECT(self):
        if not self.allowed():
            return
        self.close_connection = True
        with socket.create_connection(('127.0.0.1', int(self.path.rpartition(':')[2]))) as there:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: there, there: self.connection}
            while True:
                for s in select.select(list(ends), [], [])[0]:
                    if not (data := s.recv(1 << 16)):
                        return
                    ends[s].sendall(data)

    def do_GET(self):
        if not self.allowed():
            return
        url = urllib.parse.urlsplit(self.path)
        up = http.client.HTTPConnection('127.0.0.1', url.port or 80, timeout=60)
        up.request('GET', urllib.parse.urlunsplit(('', '', url.path, url.query, '')),
                   headers={k: v for k, v in self.headers.items() if k.lower() in ('accept', 'authorization', 'range')})
        got = up.getresponse()
        data = got.read()
        self.send_response(got.status)
        for k, v in got.getheaders():
            if k.lower() not in ('connection', 'transfer-encoding', 'content-length'):
                self.send_header(k, v)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        up.close()

    def log_message(self, form, *args):
        if form == '"%s" %s %s':
            print(' '.join(str(args[0]).split()[:2]), args[1], file=sys.stderr, flush=True)


http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
