#!/usr/bin/python3
"""The node's way out by each program: which one is taken and why, what it reaches, and that a dead one comes back.

Clients are in a pod; servers are the test's own, on the host.  tests/testbed/pasta has a pasta that is able.
"""
import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time

import cri
import running

CTL = f'{running.PREFIX}/bin/userpodctl'
ANSWER = '192.0.2.77'
LOOP = 'trap "exit 0" TERM; while :; do sleep 0.05; done'


def state():
    try:
        with open(f'{cri.RUNTIME_DIR}/userpod/node/uplink.json', encoding='utf-8') as f:
            return json.load(f)
    except FileNotFoundError:
        return {'state': 'down', 'reason': 'no node'}


def uplink_pid():
    """Of the program that carries the traffic."""
    with open(f'{cri.RUNTIME_DIR}/userpod/node/holder.json', encoding='utf-8') as f:
        cgroup = json.load(f)['cgroup']
    with open(f'/sys/fs/cgroup{cgroup}/uplink/cgroup.procs', encoding='utf-8') as f:
        return next(iter(sorted(map(int, f.read().split()))), None)


def addresses():
    """The host's addresses by which others know it: (IPv4, IPv6), None where there is none."""
    found = []
    for family, nobody in ((socket.AF_INET, '198.51.100.1'), (socket.AF_INET6, '2001:db8:ffff::1')):
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            try:
                s.connect((nobody, 9))
                found.append(s.getsockname()[0])
            except OSError:
                found.append(None)
    return found


def able_pasta(test):
    """The path of a pasta that is able, else the test is skipped."""
    directory = os.path.expanduser('~/.cache/userpod-tests/pasta')
    made = subprocess.run([f'{cri.ROOT}/tests/testbed/pasta', directory], capture_output=True, text=True, check=False)
    if made.returncode:
        test.skipTest(made.stderr.strip())
    return made.stdout.strip()


def ask(client, server):
    """The answer of a name server to a query by UDP."""
    out = client(f'nslookup -type=a userpod.test {server} 2>&1')
    return ANSWER if ANSWER in out else out


# A UDP datagram over IPv6, past the routes of the pod: to the bridge, that is the node.
SPOOF = """
import socket, struct, sys
source, target = (socket.inet_pton(socket.AF_INET6, text) for text in sys.argv[1:3])
udp = struct.pack('!HHHH', 4660, int(sys.argv[3]), 9, 0) + b'!'
words = source + target + struct.pack('!II', len(udp), 17) + udp + b'\\0'
total = sum(struct.unpack(f'!{len(words) // 2}H', words))
while total >> 16:
    total = (total & 0xffff) + (total >> 16)
udp = udp[:6] + struct.pack('!H', ~total & 0xffff) + udp[8:]
ip = struct.pack('!IHBB', 6 << 28, len(udp), 17, 64) + source + target
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
    raw.bind(('eth0', 0))
    mac = raw.getsockname()[4]
    raw.send(mac[:2] + bytes((10, 88, 0, 1)) + mac + b'\\x86\\xdd' + ip + udp)
"""


class Server:
    """Greets each that connects; on UDP it is a name server that knows one address, and no IPv6."""

    def __init__(self, address):
        family = socket.AF_INET6 if ':' in address else socket.AF_INET
        self.tcp = socket.create_server((address, 0), family=family)
        self.port = self.tcp.getsockname()[1]
        self.udp = socket.socket(family, socket.SOCK_DGRAM)
        self.udp.bind((address, self.port))
        for run in (self.serve_tcp, self.serve_udp):
            threading.Thread(target=run, daemon=True).start()

    def serve_tcp(self):
        with contextlib.suppress(OSError):
            while True:
                connection = self.tcp.accept()[0]
                with contextlib.suppress(OSError), connection:
                    connection.sendall(b'greeting\n')

    def serve_udp(self):
        with contextlib.suppress(OSError):
            while True:
                data, peer = self.udp.recvfrom(500)
                if not peer:
                    return  # shut down
                answer = b'\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4' + socket.inet_aton(ANSWER) if b'\0\0\1\0\1' in data[12:] else b''
                self.udp.sendto(data[:2] + b'\x81\x80\0\1\0' + bytes([bool(answer)]) + bytes(4) + data[12:] + answer, peer)

    def close(self):
        for s in self.tcp, self.udp:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            s.close()


class Uplink(running.Running):
    def node(self, text):
        """The node starts anew with these settings; with its own again after the test."""
        directory = f'{running.CONFIG_DIR}/userpod.toml.d'
        made = [d for d in (directory, running.CONFIG_DIR) if not os.path.isdir(d)]
        os.makedirs(directory, exist_ok=True)
        file = f'{directory}/98-uplink.toml'

        def back():
            os.unlink(file)
            for d in made:
                os.rmdir(d)
            self.restart()
        with open(file, 'w', encoding='utf-8') as f:
            f.write(text)
        self.addCleanup(back)
        self.restart()
        self.image = self.cri.PullImage(image={'image': running.IMAGE}).image_ref

    def restart(self):
        cri.systemctl('restart', running.NODE)
        running.restart_daemon()
        self.connect()

    def server(self, address):
        server = Server(address)
        self.addCleanup(server.close)
        return server

    def sh(self, container, script):
        return self.cri.ExecSync(container_id=container, cmd=['/bin/sh', '-c', script], timeout=20).stdout.decode()

    def client(self):
        container = self.container(self.pod(), LOOP)
        return lambda script: self.sh(container, script)

    def use(self, program, more=''):
        path = able_pasta(self) if program == 'pasta' else ''
        self.node(f'uplink = "{program}"\n' + (f'pasta = "{path}"\n' if path else '') + more)
        if state()['state'] != 'up':
            self.skipTest('no uplink here: ' + state()['reason'])
        return self.client()

    # ---- which one ----

    def test_auto_takes_no_pasta_that_is_too_old(self):
        pasta = '/usr/bin/pasta'
        if not os.path.exists(pasta):
            self.skipTest('passt is not installed')
        with open(pasta, 'rb') as f:
            if b'map-host-loopback' in f.read():
                self.skipTest('the installed passt is able')
        since = time.strftime('%Y-%m-%d %H:%M:%S')
        self.node('uplink = "auto"\n')
        reason = f'{pasta} is too old: it lacks --dns-host, --map-host-loopback'
        self.assertTrue(state()['program'].endswith('/slirp4netns'), state())
        self.assertEqual(state()['choice'], reason)
        journal = cri.run('journalctl', '--user', '-u', running.NODE, '--since', since, '-o', 'cat')
        self.assertRegex(journal, r'uplink is up: \S+/slirp4netns, process \d+; ' + reason)
        self.assertNotIn('--help', journal)
        doctor = cri.run(CTL, 'doctor', check=False)
        self.assertRegex(doctor, r'uplink\b.*slirp4netns is up.*' + reason)

    def test_auto_takes_a_pasta_that_is_able(self):
        pasta = able_pasta(self)
        self.node(f'uplink = "auto"\npasta = "{pasta}"\n')
        self.assertEqual((state()['state'], state()['program']), ('up', pasta))
        self.assertIn(f'{pasta} is up', cri.run(CTL, 'doctor', check=False))

    def test_a_pasta_that_fails_gives_way(self):
        with tempfile.NamedTemporaryFile('w', dir=os.path.expanduser('~'), suffix='-pasta', delete=False) as f:
            f.write('#!/bin/sh\n[ "$1" = --help ] || { echo "no luck" >&2; exit 1; }\necho "--foreground --pid --ns-ifname '
                    '--interface --address --netmask --gateway --mtu --dns-forward --dns-host --map-host-loopback"\n')
        self.addCleanup(os.unlink, f.name)
        os.chmod(f.name, 0o755)
        self.node(f'uplink = "auto"\npasta = "{f.name}"\n')
        cri.wait_until(lambda: state()['state'] == 'up', what='an uplink')
        self.assertTrue(state()['program'].endswith('/slirp4netns'), state())
        self.assertEqual(state()['choice'], 'pasta ended: exit status 1: no luck')

    def test_none(self):
        self.node('uplink = "none"\n')
        self.assertEqual(state()['state'], 'none')
        client = self.client()
        self.assertNotIn('host.userpod.internal', client('cat /etc/hosts'))
        self.assertNotIn('10.0.2.3', client('cat /etc/resolv.conf'))

    # ---- what it reaches ----

    def reach(self, program):
        v4, v6 = addresses()
        if not v4:
            self.skipTest('the host has no address')
        client = self.use(program)
        everywhere, loopback = self.server('0.0.0.0'), self.server('127.0.0.1')
        self.assertEqual(client(f'nc -w 3 {v4} {everywhere.port} </dev/null'), 'greeting\n')
        self.assertEqual(ask(client, f'{v4}:{everywhere.port}'), ANSWER)
        self.assertEqual(client(f'nc -w 3 host.userpod.internal {everywhere.port} </dev/null'), 'greeting\n')
        self.assertRegex(client('cat /etc/hosts'), r'(?m)^10\.0\.2\.2\thost\.userpod\.internal$')
        self.assertRegex(client('cat /etc/resolv.conf'), r'\Anameserver 10\.0\.2\.3\n')
        for address in '10.0.2.2', 'host.userpod.internal', '127.0.0.1', '[::1]':
            self.assertEqual(client(f'nc -w 2 {address} {loopback.port} </dev/null'), '', address)
        if not v6 or 'fd00::' in v6 and program == 'slirp4netns':
            return
        six = self.server('::')
        self.assertEqual(client(f'nc -w 3 {v6} {six.port} </dev/null'), 'greeting\n')
        self.assertEqual(ask(client, f'[{v6}]:{six.port}'), ANSWER)

    def test_slirp4netns_reaches_the_host_and_not_its_loopback(self):
        self.reach('slirp4netns')

    def test_pasta_reaches_the_host_and_not_its_loopback(self):
        self.reach('pasta')

    def open_loopback(self, program):
        client = self.use(program, 'host-loopback = true\n')
        loopback = self.server('127.0.0.1')
        for address in '10.0.2.2', 'host.userpod.internal':
            self.assertEqual(client(f'nc -w 3 {address} {loopback.port} </dev/null'), 'greeting\n')
        self.assertEqual(ask(client, f'10.0.2.2:{loopback.port}'), ANSWER)

    def test_pasta_takes_no_other_word_for_the_hosts_loopback(self):
        """The uplink, a program of the host, would take an IPv4 address inside of an IPv6 one for the host's own."""
        self.use('pasta')
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as local, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six:
            local.bind(('127.0.0.1', 0))
            six.bind(('::1', local.getsockname()[1]))
            pod = self.pod('source')
            source = self.pod_status(pod).network.additional_ips[0].ip
            for target in ('::ffff:127.0.0.1', '::', '::1', '::127.0.0.1'):
                running.enter('nsenter', f'--net=/run/userpod/ns/{pod}/net', 'python3', '-c', SPOOF,
                              source, target, str(local.getsockname()[1]))
            for listener in (local, six):
                listener.settimeout(0.5)
                with self.assertRaises(TimeoutError):
                    listener.recv(10)

    def test_slirp4netns_opens_the_hosts_loopback_when_told(self):
        self.open_loopback('slirp4netns')

    def test_pasta_opens_the_hosts_loopback_when_told(self):
        self.open_loopback('pasta')

    # ---- killed ----

    def comes_back(self, program):
        v4 = addresses()[0]
        if not v4:
            self.skipTest('the host has no address')
        client = self.use(program)
        server = self.server('0.0.0.0')
        routes = client('ip route; ip -6 route; ip address show eth0')
        node_routes = running.enter('ip', 'route')
        for _ in range(3):
            self.assertEqual(client(f'nc -w 3 {v4} {server.port} </dev/null'), 'greeting\n')
            before = uplink_pid()
            os.kill(before, signal.SIGKILL)
            begin = time.monotonic()
            cri.wait_until(lambda: uplink_pid() not in (before, None) and state()['state'] == 'up', what='another uplink')
            taken = time.monotonic() - begin
            self.assertEqual(client(f'nc -w 3 {v4} {server.port} </dev/null'), 'greeting\n')
            self.assertEqual(ask(client, f'{v4}:{server.port}'), ANSWER)
            print(f'{program}: back after {taken * 1000:.0f} ms, a connection after {(time.monotonic() - begin) * 1000:.0f} ms')
        self.assertEqual(client('ip route; ip -6 route; ip address show eth0'), routes)
        self.assertEqual(running.enter('ip', 'route').replace(' linkdown', ''), node_routes)

    def test_slirp4netns_comes_back(self):
        self.comes_back('slirp4netns')

    def test_pasta_comes_back(self):
        self.comes_back('pasta')


if __name__ == '__main__':
    running.main()
