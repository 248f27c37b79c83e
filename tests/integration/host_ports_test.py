#!/usr/bin/python3
"""Host ports: from the host, its other addresses and the node, into real pods, through restarts of all that can end."""
import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import grpc

import cri
import running

PEER = f'{cri.ROOT}/tests/integration/port_peer.py'
TCP, UDP, SCTP = 0, 1, 2
NODE_V4 = '10.0.2.100'
CONTROL = '/run/userpod/ports.sock'
PODS = 20 if cri.SANITIZE else 200
FLOOD = 64 << 20

# Run in a pod's or the node's network: the answers of several ports, in one process.
CLIENT = '''
import json, socket, sys
answers = []
for kind, address, port in json.loads(sys.argv[1]):
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_DGRAM if kind else socket.SOCK_STREAM)
    s.settimeout(5)
    try:
        s.connect((address, port))
        if kind: s.send(b'x')
        answers.append(s.recv(1000).decode().split()[0])
    except OSError as e:
        answers.append(type(e).__name__)
print(json.dumps(answers))
'''


def host_addresses():
    """Those of the machine that are not its loopback: {family: address}."""
    found = {}
    for link in json.loads(cri.run('ip', '-j', 'address', 'show', 'up')):
        for one in link.get('addr_info', []):
            if one['scope'] == 'global':
                found.setdefault(one['family'], one['local'])
    return found


HOST = host_addresses()


def connect(address, port, source=None, timeout=10):
    return socket.create_connection((address, port), timeout, source)


def read_line(connection):
    line = b''
    while not line.endswith(b'\n'):
        more = connection.recv(1)
        if not more:
            break
        line += more
    return line.decode().split()


def read_all(connection):
    data = b''
    while more := connection.recv(1 << 20):
        data += more
    return data


def seen(address, port):
    """The address that the pod sees."""
    with connect(address, port) as connection:
        line = read_line(connection)
        return line[0] if line else 'closed'


def seen_udp(address, port):
    with socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.sendto(b'hello', (address, port))
        data, where = sock.recvfrom(1000)
        assert where[:2] == (address, port), where
        peer, _, text = data.decode().split()
        assert text == 'hello', text
        return peer


def reaches(address, port):
    try:
        return bool(seen(address, port))
    except OSError:
        return False


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(('0.0.0.0', 0))
        return sock.getsockname()[1]


def forwarders():
    """Pids of userpod-ports on the host."""
    cgroup = cri.systemctl('show', '-P', 'ControlGroup', running.NODE)
    found = []
    for directory, _, _ in os.walk(f'/sys/fs/cgroup{cgroup}'):
        with contextlib.suppress(OSError), open(f'{directory}/cgroup.procs', encoding='ascii') as f:
            for pid in f.read().split():
                with contextlib.suppress(OSError), open(f'/proc/{pid}/comm', encoding='ascii') as comm:
                    if comm.read().strip() == 'userpod-ports':
                        found.append(int(pid))
    return found


def mapping(host_port, container_port=80, protocol=TCP, host_ip=''):
    return {'protocol': protocol, 'container_port': container_port, 'host_port': host_port, 'host_ip': host_ip}


class HostPorts(running.Running):
    def serve(self, pod, *ports, node=False):
        """port_peer.py in the pod's network, until the test ends."""
        where = [] if node else ['nsenter', f'--net=/run/userpod/ns/{pod}/net', '--']
        server = subprocess.Popen([f'{running.PREFIX}/bin/userpodctl', 'enter', '--', *where, sys.executable, PEER, *ports],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)

        def end():
            server.stdin.close()
            server.wait(10)
            server.stdout.close()
        self.addCleanup(end)
        self.assertEqual(server.stdout.readline(), b'ready\n')
        return server

    def pod_with(self, *mappings, name='pod', **fields):
        return self.pod(name, port_mappings=list(mappings), **fields)

    def refused(self, *mappings, name='refused', **fields):
        """The code and the words with which such a pod is refused."""
        with self.assertRaises(grpc.RpcError) as refusal:
            self.pod_with(*mappings, name=name, **fields)
        return refusal.exception.code(), refusal.exception.details()

    def addresses(self, pod):
        network = self.pod_status(pod).network
        return [network.ip, *(one.ip for one in network.additional_ips)]

    def from_node(self, *targets, pod=None):
        where = ['nsenter', f'--net=/run/userpod/ns/{pod}/net', '--'] if pod else []
        return json.loads(running.enter(*where, sys.executable, '-c', CLIENT, json.dumps(targets)))

    def gateways(self):
        return running_network()['gateways']

    def test_every_address_of_host_and_node(self):
        tcp, udp = free_port(), free_port(socket.SOCK_DGRAM)
        pod = self.pod_with(mapping(tcp), mapping(udp, 53, UDP))
        self.serve(pod, 'tcp:80', 'udp:53')
        gateways = self.gateways()
        # Whoever comes by the loopback is not to be taken for the pod itself.
        for address in ('127.0.0.1', '127.0.0.2'):
            self.assertEqual((seen(address, tcp), seen_udp(address, udp)), (gateways[0], gateways[0]), address)
        self.assertIn(seen('::1', tcp), gateways)
        self.assertIn(seen_udp('::1', udp), gateways)
        for address in HOST.values():
            if ':' in address and len(self.addresses(pod)) < 2:
                continue
            with self.subTest(address=address):
                self.assertEqual((seen(address, tcp), seen_udp(address, udp)), (address, address))
        inside = [(kind, address, port) for kind, port in ((0, tcp), (1, udp))
                  for address in ('127.0.0.1', '::1', NODE_V4, *gateways)]
        for target, answer in zip(inside, self.from_node(*inside)):
            self.assertNotRegex(answer, '^(127|::1$)|Error|timeout', target)
        # The pod itself, by its own host port.
        for answer in self.from_node((0, gateways[0], tcp), (1, gateways[0], udp), (0, NODE_V4, tcp), pod=pod):
            self.assertNotRegex(answer, '^127|Error|timeout')

    def test_the_clients_port_is_kept(self):
        if not HOST:
            self.skipTest('the host has no address but its loopback')
        port = free_port()
        self.serve(self.pod_with(mapping(port)), 'tcp:80')
        for address in HOST.values():
            with connect(address, port) as connection:
                own = connection.getsockname()
                self.assertEqual(read_line(connection), [own[0], str(own[1])])

    def test_one_address_only(self):
        port = free_port()
        self.serve(self.pod_with(mapping(port, host_ip='127.0.0.1'), name='a'), 'tcp:80')
        # Another pod has the same port elsewhere.
        self.serve(self.pod_with(mapping(port, host_ip='127.0.0.2'), mapping(port, 53, UDP, '127.0.0.1'), name='b'),
                   'tcp:80', 'udp:53')
        self.assertTrue(reaches('127.0.0.1', port) and reaches('127.0.0.2', port))
        self.assertTrue(seen_udp('127.0.0.1', port))
        for address in ('127.0.0.3', '::1', *HOST.values()):
            self.assertFalse(reaches(address, port), address)
        code, words = self.refused(mapping(port, host_ip='203.0.113.7'))
        self.assertEqual(code, cri.Code.INVALID_ARGUMENT, words)
        self.assertIn('203.0.113.7', words)

    def test_a_taken_port_is_refused_and_leaves_nothing(self):
        port, other = free_port(), free_port()
        with socket.create_server(('127.0.0.1', port)):
            code, words = self.refused(mapping(other), mapping(port))
            self.assertRegex(words, rf'TCP port {port} of 0\.0\.0\.0 is taken')
            self.assertEqual(code, cri.Code.UNKNOWN)
        first = self.pod_with(mapping(other), mapping(port), name='first')
        _, words = self.refused(mapping(port))
        self.assertIn(first, words)
        # Another protocol is another port.
        self.pod_with(mapping(port, protocol=UDP), name='udp')
        self.cri.StopPodSandbox(pod_sandbox_id=first)
        self.serve(self.pod_with(mapping(port), name='next'), 'tcp:80')
        self.assertTrue(reaches('127.0.0.1', port))
        self.assertFalse(reaches('127.0.0.1', other))

    def test_privileged_ports_and_sctp(self):
        with open('/proc/sys/net/ipv4/ip_unprivileged_port_start', encoding='ascii') as f:
            first = int(f.read())
        if first > 81:
            code, words = self.refused(mapping(81))
            self.assertEqual(code, cri.Code.PERMISSION_DENIED, words)
            self.assertIn('net.ipv4.ip_unprivileged_port_start=81', words)
            self.assertIn('privileged-port-offset', words)
        _, words = self.refused(mapping(free_port(), protocol=SCTP))
        self.assertIn('SCTP', words)
        with running.settings('privileged-port-offset = 18000\n'):
            self.connect()
            pod = self.pod_with(mapping(81))
            self.serve(pod, 'tcp:80')
            self.assertTrue(reaches('127.0.0.1', 18081))
            self.assertNotRegex(self.from_node((0, '127.0.0.1', 81))[0], 'Error|timeout')
        self.connect()

    def test_a_pod_of_the_nodes_network(self):
        port = free_port()
        pod = self.pod_with(mapping(port, port), linux={'security_context': {'namespace_options': {'network': 'NODE'}}})
        self.serve(pod, f'tcp:{port}', f'udp:{port}', node=True)
        self.assertNotRegex(seen('127.0.0.1', port), '^127')
        if 'inet' in HOST:
            self.assertEqual(seen(HOST['inet'], port), HOST['inet'])
        self.refused(mapping(port))

    def test_half_closes_resets_and_slow_readers(self):
        port = free_port()
        pod = self.pod_with(mapping(port))
        self.serve(pod, 'tcp:80')
        address = HOST.get('inet', '127.0.0.1')
        with connect(address, port) as connection:
            read_line(connection)
            connection.sendall(b'last words')
            connection.shutdown(socket.SHUT_WR)
            self.assertEqual(read_all(connection), b'last words')
        with connect(address, port) as connection:
            read_line(connection)
            connection.sendall(b'reset')
            with self.assertRaises(ConnectionResetError):
                connection.recv(10)
        slow = [connect(address, port) for _ in range(100)]
        for connection in slow:
            connection.sendall(b'flood')
        time.sleep(0.5)
        begin = time.monotonic()
        self.assertTrue(seen(address, port))
        self.assertLess(time.monotonic() - begin, 1)
        for connection in slow[10:]:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            connection.close()
        for connection in slow[:10]:
            read_line(connection)
            self.assertEqual(len(read_all(connection)), FLOOD)
            connection.close()
        cri.wait_until(lambda: self.shown(pod)['connections'] == 0, what='the end of all connections')

    def shown(self, pod):
        return next(one for one in running_network()['ports'] if one['pod'].endswith(pod))

    def test_no_connection_is_lost_with_the_daemon(self):
        tcp, udp = free_port(), free_port(socket.SOCK_DGRAM)
        self.serve(self.pod_with(mapping(tcp), mapping(udp, 53, UDP)), 'tcp:80', 'udp:53')
        stop, problems, counts = threading.Event(), [], []

        def stream(index):
            """Bytes there and back, all of them as they were sent."""
            piece = bytes((index + i) % 251 for i in range(20000))
            address = (HOST.get('inet', '127.0.0.1'), '127.0.0.1', '::1')[index % 3]
            with connect(address, tcp) as connection:
                read_line(connection)
                while not stop.is_set():
                    connection.sendall(piece)
                    back = b''
                    while len(back) < len(piece):
                        more = connection.recv(len(piece) - len(back))
                        if not more:
                            raise EOFError(f'stream {index} ended')
                        back += more
                    if back != piece:
                        raise ValueError(f'stream {index} is damaged')
                    counts.append(1)

        def datagrams(index):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(5)
                sock.connect(('127.0.0.1', udp))
                number = 0
                while not stop.is_set():
                    number += 1
                    sock.send(f'{index}.{number}'.encode())
                    if not sock.recv(100).decode().endswith(f' {index}.{number}'):
                        raise ValueError(f'datagram {number} of {index} has another answer')
                    time.sleep(0.001)

        def new_connections(_):
            while not stop.is_set():
                seen('127.0.0.1', tcp)

        def guarded(work, index):
            try:
                work(index)
            except Exception as e:  # pylint: disable=broad-except
                problems.append(f'{work.__name__} {index}: {e!r}')

        threads = [threading.Thread(target=guarded, args=(work, index))
                   for work, many in ((stream, 12), (datagrams, 3), (new_connections, 2)) for index in range(many)]
        for thread in threads:
            thread.start()
        process = forwarders()
        time.sleep(0.5)
        for _ in range(3):
            before = running.main_pid()
            os.kill(before, signal.SIGKILL)
            cri.wait_until(lambda: running.main_pid() not in (0, before), timeout=20, what='a new daemon')
            self.connect()
            time.sleep(0.3)
        running.restart_daemon()
        self.connect()
        during = len(counts)
        time.sleep(0.5)
        stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual(problems, [])
        self.assertGreater(len(counts), during)
        self.assertEqual(forwarders(), process)

    def test_the_killed_process_comes_back(self):
        ports = [free_port() for _ in range(5)]
        for index, port in enumerate(ports):
            self.serve(self.pod_with(mapping(port), name=f'p{index}'), 'tcp:80')
        before = forwarders()
        self.assertEqual(len(before), 1)
        os.kill(before[0], signal.SIGKILL)
        begin = time.monotonic()
        cri.wait_until(lambda: forwarders() not in ([], before) and all(reaches('127.0.0.1', port) for port in ports),
                       what='the ports again')
        took = time.monotonic() - begin
        self.assertLess(took, 3 if cri.SLOW else 1)
        self.assertEqual(len(forwarders()), 1)

    def test_a_pod_each_for_many_ports(self):
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(socket.create_server(('', 0))) for _ in range(PODS)]
            ports = [one.getsockname()[1] for one in held]
        begin = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(10) as pool:
            list(pool.map(lambda item: self.pod_with(mapping(item[1]), name=f'many{item[0]}'), enumerate(ports)))
        took = time.monotonic() - begin
        print(f'{PODS} pods with a host port each: {took:.2f} s', flush=True)
        shown = running_network()['ports']
        self.assertEqual({one['host-port'] for one in shown} & set(ports), set(ports))
        for pod in list(self.configs)[::20]:
            self.serve(pod, 'tcp:80')
            self.assertTrue(reaches('127.0.0.1', self.configs[pod]['port_mappings'][0]['host_port']))
        running.restart_daemon()
        self.connect()
        self.assertEqual(len(running_network()['ports']), len(shown))
        self.remove_pods()
        self.configs = {}
        self.assertEqual(running_network()['ports'], [])
        for port in ports:
            with socket.create_server(('', port)):
                pass

    def test_a_restarted_daemon_adds_no_rules(self):
        port = free_port()
        self.serve(self.pod_with(mapping(port)), 'tcp:80')

        def rules():
            return running.enter('sh', '-c', 'ip rule; ip -6 rule; ip route show table 117; nft list table inet userpod')
        before = rules()
        running.restart_daemon()
        self.connect()
        self.assertEqual(rules(), before)
        self.assertTrue(reaches('127.0.0.1', port))

    def test_only_the_user_speaks_to_the_process(self):
        self.pod_with(mapping(free_port()))
        self.assertFalse(os.path.exists(CONTROL))
        script = f'''
import os, socket, stat
path = {CONTROL!r}
print(oct(stat.S_IMODE(os.stat(path).st_mode)))
def answer():
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(5)
    try:
        s.connect(path)
        return s.recv(1000)
    except OSError as e:
        return type(e).__name__
print(b'userpod-ports' in answer())
os.seteuid(1000)
print(answer())
os.seteuid(0)
# Even where the file lets one in.
directory = os.path.dirname(path)
mode = stat.S_IMODE(os.stat(directory).st_mode)
os.chmod(directory, 0o755)
os.chmod(path, 0o666)
os.seteuid(1000)
print(answer())
os.seteuid(0)
os.chmod(path, 0o600)
os.chmod(directory, mode)
'''
        answers = running.enter(sys.executable, '-c', script).split('\n')
        self.assertEqual(answers, ['0o600', 'True', 'PermissionError', "b''"])


def running_network():
    return json.loads(cri.run(f'{running.PREFIX}/bin/userpodctl', 'network', '--json'))


if __name__ == '__main__':
    running.main()
