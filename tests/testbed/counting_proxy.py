"""A way to a registry that counts what is asked for and, on demand, is slow or fails.  In the test's own process."""
import collections
import http.client
import http.server
import threading
import time

PIECE = 64 << 10
HOP_BY_HOP = {'connection', 'keep-alive', 'transfer-encoding', 'host'}


class CountingProxy:
    """with CountingProxy('127.0.0.1:5000') as p: pull f'{p.address}/name'; then p.blobs()[digest] is how often that blob
    was asked for.  rate: bytes a second of each connection, None as fast as it goes.  faults[digest] is a list of what
    happens to the next requests of that blob, one each: 'cut' after half of its bytes, 'stall' there until the client
    goes, 'mute' alike before the first, 'corrupt' a byte there, 'redirect' to the registry itself.  hold(digests): none of
    those blobs sends a byte until release(); waiting counts the requests that this keeps."""

    def __init__(self, registry):
        self.rate, self.lock, self.faults = None, threading.Lock(), {}
        self.held, self.released, self.waiting = set(), threading.Event(), 0
        self.clear()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'
            disable_nagle_algorithm = True

            def do_GET(self):
                with proxy.lock:
                    proxy.asked[self.command, self.path] += 1
                    faults = proxy.faults.get(self.path.rpartition('/')[2])
                    self.fault = faults.pop(0) if faults else None
                    if 'Range' in self.headers:
                        proxy.ranges.append((self.path.rpartition('/')[2], self.headers['Range']))
                if self.fault == 'redirect':
                    self.send_response(307)
                    self.send_header('Location', f'http://{registry}{self.path}')
                    self.send_header('Content-Length', '0')
                    return self.end_headers()
                upstream = http.client.HTTPConnection(registry, timeout=60)
                try:
                    upstream.request(self.command, self.path, headers={k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP})
                    self.answer(upstream.getresponse())
                except ConnectionError:
                    self.close_connection = True     # the client has gone
                finally:
                    upstream.close()

            do_HEAD = do_GET

            def answer(self, got):
                self.send_response(got.status)
                for key, value in got.headers.items():
                    if key.lower() not in HOP_BY_HOP:
                        self.send_header(key, value)
                if got.headers.get('Content-Length') is None:
                    self.send_header('Connection', 'close')
                self.end_headers()
                if self.path.rpartition('/')[2] in proxy.held:
                    self.wait()
                if self.fault:
                    return self.fail(got)
                while self.command != 'HEAD' and (data := got.read(PIECE)):
                    self.wfile.write(data)
                    with proxy.lock:
                        proxy.sent += len(data)
                    if proxy.rate:
                        time.sleep(len(data) / proxy.rate)

            def wait(self):
                with proxy.lock:
                    proxy.waiting += 1
                proxy.released.wait()
                with proxy.lock:
                    proxy.waiting -= 1

            def fail(self, got):
                if self.fault != 'mute':
                    self.wfile.write(got.read(int(got.headers['Content-Length']) // 2))
                if self.fault == 'corrupt':
                    rest = got.read()
                    return self.wfile.write(bytes([rest[0] ^ 1]) + rest[1:])
                self.close_connection = True
                if self.fault in ('stall', 'mute'):
                    self.connection.recv(1)          # nothing, once the client has gone

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None   # a client that was killed
        self.address = f'127.0.0.1:{self.server.server_port}'

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={'poll_interval': 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.release()
        self.server.shutdown()
        self.server.server_close()

    def hold(self, digests):
        self.released.clear()
        self.held = set(digests)

    def release(self):
        self.held = set()
        self.released.set()

    def clear(self):
        """Counts anew."""
        with self.lock:
            self.asked, self.sent, self.ranges = collections.Counter(), 0, []

    def blobs(self):
        """GETs of each blob, by digest."""
        with self.lock:
            return collections.Counter({path.rpartition('/')[2]: n for (method, path), n in self.asked.items()
                                        if method == 'GET' and '/blobs/' in path})

    def names(self):
        """How often the manifest of each repository was asked for by tag, HEAD or GET."""
        with self.lock:
            counts = collections.Counter()
            for (_, path), n in self.asked.items():
                if '/manifests/' in path and '/manifests/sha256:' not in path:
                    counts[path.removeprefix('/v2/').rpartition('/manifests/')[0]] += n
            return counts
