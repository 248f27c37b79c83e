#!/usr/bin/python3
"""The real kubectl's port-forward over SPDY, in a WebSocket's tunnel, and as API servers hand it on."""
import concurrent.futures
import hashlib
import http.client
import random
import re
import signal
import socket
import subprocess
import threading

import cri
import kubectl

MEGABYTE = 1 << 20
NOISE = random.Random(1).randbytes(8 * MEGABYTE + 5)


class PortForward(kubectl.Kubectl):
    def forward(self, *ports):
        """{remote: local} and kubectl, which listens."""
        process = self.start('port-forward', '--address=127.0.0.1', 'pod', *(f':{port}' for port in ports), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        local = {}
        while len(local) < len(ports):
            line = process.stdout.readline().decode()
            match = re.fullmatch(r'Forwarding from 127\.0\.0\.1:(\d+) -> (\d+)\n', line)
            self.assertTrue(match, f'{line!r} {process.stderr.read() if not line else b""!r} {self.logged()[-2000:]}')
            local[int(match[2])] = int(match[1])
        # What it says of each connection must not fill the pipe.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        return local, process

    def get(self, port, path='/file'):
        connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
        try:
            connection.request('GET', path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def serve(self, *ports):
        self.cri.ExecSync(container_id=self.main, cmd=['sh', '-c', 'i=0; while [ $i -lt 5 ]; do head -c 1000003 /dev/urandom >> /www/file; i=$((i+1)); done'])
        for port in ports:
            self.inside(f'echo {port} > /www/{port}; httpd -p {port} -h /www')
        return self.inside('md5sum < /www/file').split()[0]

    def test_requests(self):
        """One port and another, one after the other and many at once."""
        sum = self.serve(8080, 8081)
        local, process = self.forward(8080, 8081)
        for remote in (8080, 8081):
            self.assertEqual(self.get(local[remote], f'/{remote}').decode().strip(), str(remote))
            self.assertEqual(hashlib.md5(self.get(local[remote])).hexdigest(), sum)
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            got = list(pool.map(lambda n: hashlib.md5(self.get(local[8080 + n % 2])).hexdigest(), range(60)))
        self.assertEqual(set(got), {sum})
        self.assertIsNone(process.poll())
        self.check_protocol(self.STREAM)

    STREAM = 'portforward by portforward.k8s.io in spdy/3.1'

    def test_both_directions(self):
        """Bytes come back while others go, and after the client's end has said that it has no more."""
        self.inside('nc -ll -p 7000 -e cat > /dev/null 2>&1 &')
        local, _ = self.forward(7000)
        with socket.create_connection(('127.0.0.1', local[7000])) as s:
            s.settimeout(60)
            for word in (b'one', b'two'):
                s.sendall(word)
                self.assertEqual(s.recv(100), word)

            def send():
                s.sendall(NOISE)
                s.shutdown(socket.SHUT_WR)
            sender = threading.Thread(target=send)
            sender.start()
            with s.makefile('rb') as f:
                self.assertEqual(hashlib.md5(f.read()).hexdigest(), hashlib.md5(NOISE).hexdigest())
            sender.join()

    def test_a_server_that_reads_to_the_end(self):
        # Its own side stays open: kubectl gives up a connection as soon as the server has ended that.
        self.inside('mkfifo /tmp/open; (exec 3<>/tmp/open; nc -l -p 7001 <&3 | md5sum > /tmp/sum; mv /tmp/sum /tmp/done) > /dev/null 2>&1 &')
        local, _ = self.forward(7001)
        with socket.create_connection(('127.0.0.1', local[7001])) as s:
            s.sendall(NOISE)
            s.shutdown(socket.SHUT_WR)
            sum = cri.wait_until(lambda: self.inside('cat /tmp/done 2>/dev/null || true'), timeout=30, what='the sum')
        self.assertEqual(sum.split()[0], hashlib.md5(NOISE).hexdigest())

    def test_a_port_where_nobody_listens(self):
        """kubectl tells of it, and since 1.23 ends then; another one is served."""
        self.serve(8080)
        local, process = self.forward(9999, 8080)
        with socket.create_connection(('127.0.0.1', local[9999])) as s:
            s.settimeout(30)
            self.assertEqual(s.recv(10), b'')
        self.assertEqual(process.wait(timeout=30), 1)
        error = process.stderr.read().decode()
        for words in ('9999', 'refused', 'lost connection to pod'):
            self.assertIn(words, error)
        local, _ = self.forward(8080)
        self.assertEqual(self.get(local[8080], '/8080'), b'8080\n')

    def test_ipv6(self):
        """What listens on ::1 alone is found too."""
        if self.inside('[ -e /proc/net/if_inet6 ] && echo yes || true') != 'yes':
            self.skipTest('there is no IPv6 here')
        self.inside("echo six > /www/it; httpd -p '[::1]:7002' -h /www")
        local, _ = self.forward(7002)
        self.assertEqual(self.get(local[7002], '/it'), b'six\n')

    def test_ends(self):
        """Of the client's connection, of the client, and of the pod."""
        self.inside('nc -ll -p 7003 -e sh -c "trap \\"\\" HUP; cat; echo over >> /tmp/over" > /dev/null 2>&1 &')
        local, process = self.forward(7003)
        overs = lambda: self.inside('cat /tmp/over 2>/dev/null | wc -l')
        with socket.create_connection(('127.0.0.1', local[7003])) as s:
            s.sendall(b'x')
            self.assertEqual(s.recv(10), b'x')
        cri.wait_until(lambda: overs() == '1', what='the end of a connection')
        with socket.create_connection(('127.0.0.1', local[7003])) as s:
            s.settimeout(30)
            s.sendall(b'x')
            self.assertEqual(s.recv(10), b'x')
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=10)
            cri.wait_until(lambda: overs() == '2', what='the end with its client')
        local, process = self.forward(7003)
        with socket.create_connection(('127.0.0.1', local[7003])) as s:
            s.settimeout(30)
            s.sendall(b'x')
            self.assertEqual(s.recv(10), b'x')
            self.cri.StopPodSandbox(pod_sandbox_id=self.sandbox)
            self.assertEqual(s.recv(10), b'')

    def test_pod_in_the_network_of_the_node(self):
        pod = self.pod('host', linux={'security_context': {'namespace_options': {'network': cri.api().NODE}}})
        self.container(pod, 'mkdir /www; echo here > /www/it; exec httpd -f -p 127.0.0.1:18473 -h /www', 'web')
        process = self.start('port-forward', '--address=127.0.0.1', 'host', ':18473', stdout=subprocess.PIPE)
        port = int(re.match(r'Forwarding from 127\.0\.0\.1:(\d+) ', process.stdout.readline().decode())[1])
        self.assertEqual(self.get(port, '/it'), b'here\n')


class PortForwardInTunnel(PortForward):
    websockets = True
    STREAM = 'portforward by spdy/3.1+portforward.k8s.io in websocket'


class PortForwardThroughServer(PortForward):
    websockets = tunnel = True


class Versions(kubectl.Kubectl):
    """What is to be had of other kubectls: before 1.31 they know no tunnel."""

    def test_all(self):
        if not kubectl.VERSIONS:
            self.skipTest('there is only one kubectl')
        del self.env['KUBECTL_PORT_FORWARD_WEBSOCKETS']
        self.inside('echo text > /www/it; httpd -p 8080 -h /www')
        for program in kubectl.VERSIONS:
            with self.subTest(program):
                process = self.start('port-forward', '--address=127.0.0.1', 'pod', ':8080', program=program, stdout=subprocess.PIPE)
                port = re.match(r'Forwarding from 127\.0\.0\.1:(\d+) ', process.stdout.readline().decode())[1]
                self.assertEqual(cri.run('curl', '-sS', f'http://127.0.0.1:{port}/it'), 'text')
        self.assertNotIn('refused', self.logged())
        self.assertEqual(len(self.streams()), len(kubectl.VERSIONS))


class PortForwardInNode(kubectl.Kubectl):
    """From the network of the node, where a kubelet is."""
    prefix = kubectl.ENTER

    def test_request(self):
        self.inside('echo text > /www/it; httpd -p 8080 -h /www')
        process = self.start('port-forward', '--address=127.0.0.1', 'pod', ':8080', stdout=subprocess.PIPE)
        port = re.match(r'Forwarding from 127\.0\.0\.1:(\d+) ', process.stdout.readline().decode())[1]
        self.assertEqual(cri.run(*self.prefix, 'curl', '-sS', f'http://127.0.0.1:{port}/it'), 'text')


if __name__ == '__main__':
    kubectl.main()
