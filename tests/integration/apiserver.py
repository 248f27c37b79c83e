#!/usr/bin/python3
"""A stand-in for the API server and the kubelet before a CRI socket: as much of both as kubectl's exec, attach, port-forward and
cp need.  Pods and containers are the runtime's own, by their namespaces and names.

  apiserver.py [--socket CRI-SOCKET] [--version 1.32] [--tunnel]
  kubectl --kubeconfig=/dev/null --server=http://127.0.0.1:PORT -n NAMESPACE exec -it POD -- sh

The port is the first line of its output; it serves until it is killed, or its input ends where that is a pipe.  Like a kubelet it asks the CRI for a URL and passes the
client's request on to it, byte for byte, whatever protocol that speaks: SPDY, or a WebSocket of any version.  With --tunnel it
takes port-forward's SPDY out of its WebSocket, as API servers do: the runtime then gets it as plain SPDY.
There is no login: any local user may connect, so it is for tests only.
"""
import argparse
import base64
import hashlib
import http.server
import json
import os
import socket
import stat
import struct
import sys
import threading
import urllib.parse

import cri

TUNNEL = 'SPDY/3.1+portforward.k8s.io'
RESOURCES = {'pods': ['get', 'list'], 'pods/exec': ['create', 'get'], 'pods/attach': ['create', 'get'], 'pods/portforward': ['create', 'get']}
STATUS = {cri.Code.NOT_FOUND: 404, cri.Code.INVALID_ARGUMENT: 400, cri.Code.RESOURCE_EXHAUSTED: 429}


class Failure(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Kubelet:
    """What the CRI says, in the words of the API."""

    def __init__(self, path):
        self.cri = cri.Cri(path)

    def sandboxes(self):
        """Asked first in each request.  That the daemon of the last one was killed is found out by asking: a kubelet has asked since."""
        try:
            return self.cri.ListPodSandbox().items
        except cri.grpc.RpcError as error:
            if error.code() != cri.Code.UNAVAILABLE:
                raise
            return self.cri.ListPodSandbox().items

    def sandbox(self, namespace, name):
        for pod in self.sandboxes():
            if (pod.metadata.namespace, pod.metadata.name) == (namespace, name):
                return pod
        raise Failure(404, f'pods "{name}" not found')

    def containers(self, sandbox):
        return self.cri.ListContainers(filter={'pod_sandbox_id': sandbox.id}).containers

    def pod(self, namespace, name):
        sandbox = self.sandbox(namespace, name)
        specs, statuses = [], []
        for container in self.containers(sandbox):
            info = json.loads(self.cri.ContainerStatus(container_id=container.id, verbose=True).info.get('info', '{}'))
            config = info.get('config', {})
            running = container.state == cri.api().CONTAINER_RUNNING
            specs.append({'name': container.metadata.name, 'image': container.image.image,
                          **{key: bool(config.get(of)) for key, of in (('stdin', 'stdin'), ('stdinOnce', 'stdin_once'), ('tty', 'tty'))}})
            statuses.append({'name': container.metadata.name, 'containerID': f'userpod://{container.id}', 'ready': running,
                             'state': {'running': {}} if running else {'terminated': {'exitCode': 0}}})
        ready = sandbox.state == cri.api().SANDBOX_READY
        return {'apiVersion': 'v1', 'kind': 'Pod', 'metadata': {'name': name, 'namespace': namespace, 'uid': sandbox.metadata.uid},
                'spec': {'containers': specs}, 'status': {'phase': 'Running' if ready else 'Failed', 'containerStatuses': statuses}}

    def url(self, namespace, name, action, query):
        """The URL where the runtime serves this request of a client."""
        sandbox = self.sandbox(namespace, name)
        if action == 'portforward':
            return self.cri.PortForward(pod_sandbox_id=sandbox.id, port=[int(port) for port in query.get('ports', [])]).url
        wanted = query.get('container', [''])[0]
        found = [c for c in self.containers(sandbox) if wanted in ('', c.metadata.name)]
        if not found:
            raise Failure(400, f'container {wanted} is not valid for pod {name}')
        stdin, stdout, stderr, tty = (query.get(key, ['false'])[0] in ('true', '1') for key in ('stdin', 'stdout', 'stderr', 'tty'))
        fields = {'container_id': found[0].id, 'stdin': stdin, 'stdout': stdout, 'stderr': stderr and not tty, 'tty': tty}
        if action == 'exec':
            return self.cri.Exec(cmd=query.get('command', []), **fields).url
        return self.cri.Attach(**fields).url


def copy(read, write):
    """Until the end of one of them."""
    try:
        while data := read(1 << 16):
            write(data)
    except OSError:
        pass


def both_ways(first, second):
    """Two (reader, socket): what is read of one is written to the other, until one of them ends; then both are closed."""
    def one_way(source, target):
        copy(source[0], target[1].sendall)
        for _, end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
    other = threading.Thread(target=one_way, args=(second, first))
    other.start()
    one_way(first, second)
    other.join()


def head_of(file):
    """The lines of an HTTP message until the empty one, and with it."""
    lines = []
    while line := file.readline(1 << 16):
        lines.append(line)
        if line in (b'\r\n', b'\n'):
            return lines
    raise Failure(502, 'the runtime closed the connection without an answer')


class Frames:
    """The payload of a client's WebSocket messages as one stream of bytes, and bytes as messages to it."""

    def __init__(self, file, sock):
        self.file, self.sock = file, sock
        self.lock = threading.Lock()

    def send(self, data, opcode=2):
        size = struct.pack('!B', len(data)) if len(data) < 126 else struct.pack('!BH', 126, len(data)) if len(data) < 1 << 16 else struct.pack('!BQ', 127, len(data))
        with self.lock:
            self.sock.sendall(bytes([0x80 | opcode]) + size + data)

    sendall = send

    def shutdown(self, how):
        try:
            self.send(struct.pack('!H', 1000), opcode=8)
        finally:
            self.sock.shutdown(how)

    def read(self, _):
        while head := self.file.read(2):
            size = head[1] & 0x7f
            if size > 125:
                size = int.from_bytes(self.file.read(2 if size == 126 else 8), 'big')
            mask, data = self.file.read(4), self.file.read(size)
            key = int.from_bytes((mask * (size // 4 + 1))[:size], 'big')
            data = (int.from_bytes(data, 'big') ^ key).to_bytes(size, 'big')
            opcode = head[0] & 0xf
            if opcode == 9:
                self.send(data, opcode=10)
            elif opcode == 8:
                return b''
            elif opcode in (0, 1, 2) and data:
                return data
        return b''


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    kubelet = version = tunnel = None

    def do_GET(self):
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            url = urllib.parse.urlsplit(self.path)
            match [urllib.parse.unquote(part) for part in url.path.strip('/').split('/')]:
                case ['version']:
                    major, minor = self.version.split('.')
                    self.answer({'major': major, 'minor': minor, 'gitVersion': f'v{self.version}.0'})
                case ['api']:
                    self.answer({'kind': 'APIVersions', 'versions': ['v1']})
                case ['apis']:
                    self.answer({'kind': 'APIGroupList', 'apiVersion': 'v1', 'groups': []})
                case ['api', 'v1']:
                    self.answer({'kind': 'APIResourceList', 'groupVersion': 'v1', 'resources': [
                        {'name': name, 'singularName': 'pod' if name == 'pods' else '', 'namespaced': True, 'kind': 'Pod', 'verbs': verbs}
                        for name, verbs in RESOURCES.items()]})
                case ['api', 'v1', 'namespaces', namespace, 'pods', name]:
                    self.answer(self.kubelet.pod(namespace, name))
                case ['api', 'v1', 'namespaces', namespace, 'pods', name, ('exec' | 'attach' | 'portforward') as action]:
                    if 'upgrade' not in self.headers.get('Connection', '').lower():
                        raise Failure(400, 'Upgrade request required')
                    self.stream(action, self.kubelet.url(namespace, name, action, urllib.parse.parse_qs(url.query, keep_blank_values=True)))
                case _:
                    raise Failure(404, 'the stand-in does not serve this')
        except Failure as failure:
            self.refuse(failure.code, str(failure))
        except cri.grpc.RpcError as error:
            self.refuse(STATUS.get(error.code(), 500), error.details())

    do_POST = do_GET

    def answer(self, body, code=200):
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, code, message):
        reason = {404: 'NotFound', 400: 'BadRequest', 429: 'TooManyRequests'}.get(code, 'InternalError')
        self.answer({'kind': 'Status', 'apiVersion': 'v1', 'status': 'Failure', 'reason': reason, 'message': message, 'code': code}, code)

    def stream(self, action, url):
        at = urllib.parse.urlsplit(url)
        if at.scheme not in ('http', 'https') or not at.port:
            raise Failure(500, f'a URL that no kubelet takes: {url}')
        tunnelled = self.tunnel and self.headers.get('Sec-WebSocket-Protocol', '') == TUNNEL
        try:
            backend = socket.create_connection((at.hostname, at.port))
        except OSError as error:
            raise Failure(502, f'{url}: {error}') from error
        with backend, backend.makefile('rb') as answers:
            backend.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            path = at.path + (f'?{at.query}' if at.query else '')
            headers = [('Connection', 'Upgrade'), ('Upgrade', 'SPDY/3.1'), ('X-Stream-Protocol-Version', 'portforward.k8s.io'), ('Content-Length', '0')] \
                if tunnelled else [(k, v) for k, v in self.headers.items() if k.lower() != 'host']
            lines = [f'{"POST" if tunnelled else self.command} {path} HTTP/1.1', f'Host: {at.netloc}', *(f'{k}: {v}' for k, v in headers), '', '']
            backend.sendall('\r\n'.join(lines).encode('latin-1'))
            head = head_of(answers)
            self.close_connection = True
            fields = dict(line.decode('latin-1').strip().lower().split(': ', 1) for line in head[1:-1])
            if head[0].split()[1] != b'101':
                body = answers.read(int(fields.get('content-length', 0)))
                self.log_message('%s', f'refused: {action}: {head[0]!r} {body!r}')
                self.connection.sendall(b''.join(head) + body)
                return
            protocol = fields.get('x-stream-protocol-version') or fields.get('sec-websocket-protocol')
            self.log_message('%s', f'stream: {action} by {protocol} in {fields.get("upgrade")}')
            if tunnelled:
                self.take_out(answers, backend)
            else:
                self.connection.sendall(b''.join(head))
                both_ways((self.rfile.read1, self.connection), (answers.read1, backend))

    def take_out(self, answers, backend):
        accept = base64.b64encode(hashlib.sha1((self.headers['Sec-WebSocket-Key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').encode()).digest()).decode()
        self.send_response_only(101)
        for name, value in (('Upgrade', 'websocket'), ('Connection', 'Upgrade'), ('Sec-WebSocket-Accept', accept), ('Sec-WebSocket-Protocol', TUNNEL)):
            self.send_header(name, value)
        self.end_headers()
        frames = Frames(self.rfile, self.connection)
        both_ways((frames.read, frames), (answers.read1, backend))


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('--socket', default=cri.SOCKET)
    options.add_argument('--version', default='1.32')
    options.add_argument('--tunnel', action='store_true')
    options = options.parse_args()
    Handler.kubelet, Handler.version, Handler.tunnel = Kubelet(options.socket), options.version, options.tunnel
    with Server(('127.0.0.1', 0), Handler) as server:
        print(server.server_port, flush=True)
        if stat.S_ISFIFO(os.fstat(0).st_mode):
            threading.Thread(target=lambda: (sys.stdin.buffer.read(), server.shutdown()), daemon=True).start()
        server.serve_forever()


if __name__ == '__main__':
    sys.exit(main())
