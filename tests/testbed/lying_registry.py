"""A registry that says whatever a test wants, in the test's own process: documents no real registry would take."""
import gzip
import hashlib
import http.server
import json
import os
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from registry_images import OCI, digest_of  # noqa: E402


class LyingRegistry:
    """with LyingRegistry() as r: r.image('name', [layer bytes...]); pull f'{r.address}/name'."""

    def __init__(self):
        self.manifests, self.blobs, self.answers = {}, {}, {}
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def do_GET(self):
                if self.path in registry.answers:
                    return registry.answers[self.path](self)
                kind, _, name = self.path.removeprefix('/v2/').rpartition('/')
                if kind.endswith('/manifests'):
                    kind, data = registry.manifests.get((kind[:-10], name), (None, None))
                else:
                    kind, data = 'application/octet-stream', registry.blobs.get(name)
                self.send_response(404 if data is None else 200)
                self.send_header('Content-Length', str(len(data or b'')))
                self.send_header('Content-Type', kind or 'text/plain')
                self.end_headers()
                try:
                    self.wfile.write(data or b'')
                except ConnectionError:
                    pass                             # the client has seen enough

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.address = f'127.0.0.1:{self.server.server_port}'

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={'poll_interval': 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def blob(self, data, digest=None):
        digest = digest or digest_of(data)
        self.blobs[digest] = data
        return {'mediaType': 'application/octet-stream', 'digest': digest, 'size': len(data)}

    def document(self, name, body, kind=OCI + 'manifest.v1+json'):
        """A manifest as it stands: bytes, or what becomes JSON.  Returns its digest."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        digest = digest_of(data)
        self.manifests[name, 'latest'] = self.manifests[name, digest] = kind, data
        return digest

    def image(self, name, layers, config=None, manifest=None, diff_ids=None, **settings):
        """layers: bytes of tars, or (packed bytes, DiffID).  config, manifest: what replaces parts of the documents."""
        packed = [one if isinstance(one, tuple) else (gzip.compress(one, 1, mtime=0), digest_of(one)) for one in layers]
        text = json.dumps({'architecture': 'amd64', 'os': 'linux', 'config': {'Cmd': ['sh'], **settings},
                           'rootfs': {'type': 'layers', 'diff_ids': diff_ids or [d for _, d in packed]}, **(config or {})}).encode()
        return self.document(name, {
            'schemaVersion': 2, 'mediaType': OCI + 'manifest.v1+json',
            'config': {**self.blob(text), 'mediaType': OCI + 'config.v1+json'},
            'layers': [{**self.blob(data), 'mediaType': OCI + 'layer.v1.tar+gzip'} for data, _ in packed], **(manifest or {})})


def zeros(head, size, tail):
    """A gzip stream of head, size zero bytes and tail, made fast; and the digest of what it unpacks to."""
    chunk = bytes(16 << 20)
    member, sha = gzip.compress(chunk, 9, mtime=0), hashlib.sha256(head)
    for _ in range(size // len(chunk)):
        sha.update(chunk)
    sha.update(tail)
    return gzip.compress(head, mtime=0) + member * (size // len(chunk)) + gzip.compress(tail, mtime=0), 'sha256:' + sha.hexdigest()
