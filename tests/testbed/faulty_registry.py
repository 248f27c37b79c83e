#!/usr/bin/python3
"""A registry that fails as real ones do and lies as none should: faulty_registry.py UPSTREAM_PORT PORT

By the first part of a repository's name, in front of an image of the plain registry; manifests are relayed, but for the
last three:
  cut/          each answer with a blob ends after 3 MB; ranges are served
  cut-whole/    its first three answers end early, and ranges are not known: 200 with all
  cut-other/    the first answer ends early; a range is answered from another place than asked for
  stall/        the first answer with a blob stops half-way, and the connection stays; ranges are served
  drip/         the first answer with a blob gives 20 bytes a second
  corrupt/      one byte of each blob is another
  short/        a blob ends a byte early, and the answer says that this is all
  once-N/       the first request for each blob is answered N, with Retry-After: 1
  hang-up/      the connection ends without an answer to the first two requests for each blob
  loop/         blobs are redirected, again and again
  never/        the connection ends without any answer, always
  limit/        429 with Retry-After in an hour, as a date
  silent/       no answer ever
GET /seen: what was asked so far, a list of [path, Range or null, Authorization or null], and ["gone", null, null] where
the client left an answer that did not end; DELETE /seen: forgets it, and which request was the first.
"""
import collections
import email.utils
import http.client
import http.server
import json
import re
import sys
import threading
import time

upstream, port = int(sys.argv[1]), int(sys.argv[2])
seen, counts, lock = [], collections.Counter(), threading.Lock()


def fetch(path, accept):
    up = http.client.HTTPConnection('127.0.0.1', upstream, timeout=60)
    up.request('GET', path, headers={'Accept': accept} if accept else {})
    answer = up.getresponse()
    data = answer.read()
    up.close()
    return answer, data


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def head(self, status, length, **headers):
        self.send_response(status)
        for k, v in {'Content-Length': str(length), **headers}.items():
            self.send_header(k.replace('_', '-'), v)
        self.end_headers()

    def answer(self, status, body=b'', **headers):
        self.head(status, len(body), **headers)
        self.wfile.write(body)

    def hang(self):
        """Until the client goes."""
        self.close_connection = True
        self.rfile.read(1)
        self.gone()

    def gone(self):
        with lock:
            seen.append(['gone', None, None])

    def do_DELETE(self):
        with lock:
            seen.clear()
            counts.clear()
        self.answer(204)

    def do_GET(self):
        with lock:
            if self.path == '/seen':
                return self.answer(200, json.dumps(seen).encode())
            seen.append([self.path, self.headers.get('Range'), self.headers.get('Authorization')])
            counts[self.path] += 1
            number = counts[self.path]
        if self.path == '/v2/':
            return self.answer(200, b'{}')
        asked = re.fullmatch(r'/v2/([^/]+)/(.*/(blobs|manifests)/[^/]+)', self.path)
        if not asked:
            return self.answer(404)
        try:
            self.serve(asked[1], '/v2/' + asked[2], asked[3], number)
        except ConnectionError:
            self.close_connection = True             # the client has seen enough
            self.gone()

    def serve(self, fault, path, kind, number):
        if fault == 'never':
            self.close_connection = True
            return None
        if fault == 'silent':
            return self.hang()
        if fault == 'limit':
            return self.answer(429, b'{"errors":[{"code":"TOOMANYREQUESTS","message":"you have reached your pull rate limit"}]}',
                               Retry_After=email.utils.formatdate(time.time() + 3600, usegmt=True))
        got, data = fetch(path, self.headers.get('Accept'))
        if kind == 'manifests' or got.status != 200:
            return self.answer(got.status, data, **{k.replace('-', '_'): v for k, v in got.getheaders()
                                                    if k.lower() in ('content-type', 'docker-content-digest')})
        name = 'blob_' + re.sub('[^a-z]', '_', re.sub('-[0-9]+$', '', fault))
        return getattr(self, name)(data, number, fault)

    def part(self, data):
        """Sends the head of an answer; returns the bytes that it promises."""
        asked = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range', ''))
        if not asked:
            self.head(200, len(data), ETag='"real"')
            return data
        start = int(asked[1])
        self.head(206, len(data) - start, Content_Range=f'bytes {start}-{len(data) - 1}/{len(data)}', ETag='"real"')
        return data[start:]

    def blob_cut(self, data, number, _):
        self.wfile.write(self.part(data)[:3000000])
        self.close_connection = True

    def blob_cut_whole(self, data, number, _):
        self.head(200, len(data))
        if number > 3:
            return self.wfile.write(data)
        self.wfile.write(data[:number * len(data) // 4])
        self.close_connection = True

    def blob_cut_other(self, data, number, _):
        if 'Range' in self.headers:
            return self.answer(206, data, Content_Range=f'bytes 0-{len(data) - 1}/{len(data)}')
        self.head(200, len(data))
        if number > 1:
            return self.wfile.write(data)
        self.wfile.write(data[:len(data) // 2])
        self.close_connection = True

    def blob_stall(self, data, number, _):
        left = self.part(data)
        if number > 1:
            return self.wfile.write(left)
        self.wfile.write(left[:len(left) // 2])
        return self.hang()

    def blob_drip(self, data, number, _):
        left = self.part(data)
        if number > 1:
            return self.wfile.write(left)
        while left:
            self.wfile.write(left[:2])
            left = left[2:]
            time.sleep(0.1)

    def blob_corrupt(self, data, number, _):
        at = len(data) // 2
        self.answer(200, data[:at] + bytes([data[at] ^ 1]) + data[at + 1:])

    def blob_short(self, data, number, _):
        self.answer(200, data[:-1])

    def blob_once(self, data, number, fault):
        if number == 1:
            return self.answer(int(fault.rpartition('-')[2]), Retry_After='1')
        self.answer(200, data)

    def blob_hang_up(self, data, number, _):
        if number > 2:
            return self.answer(200, data)
        self.close_connection = True

    def blob_loop(self, data, number, _):
        self.answer(307, Location=f'{self.path}?X-Signature=secret' if '?' not in self.path else self.path)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass                                         # a client that goes is what tests are about


Server(('127.0.0.1', port), Handler).serve_forever()
