#!/usr/bin/python3
"""Pods' networks as a user sees them: addresses, the real host and what of it is out of reach, a node that starts anew."""
import concurrent.futures
import http.server
import os
import re
import socket
import threading

import cri
import running

COUNT = 100
WAIT = '; echo ready; trap "exit 0" TERM; while :; do usleep 5000; done'


class Server(http.server.ThreadingHTTPServer):
    """Answers each request with a word, on one address of the host."""
    def __init__(self, address):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b'the host\n')

            def log_message(self, *_):
                pass

        super().__init__((address, 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


def host_address():
    """Of the default route, or of any interface that is up: as the daemon finds it."""
    found = re.search(r'src (\S+)', cri.run('ip', '-4', 'route', 'get', '203.0.113.1', check=False))
    if found:
        return found.group(1)
    found = re.search(r'inet (\S+)/.* scope global', cri.run('ip', '-4', 'addr'))
    return found.group(1) if found else ''


class Network(running.Running):
    def get(self, pod, host, port):
        """What a program in the pod's network reads there; empty when it cannot. Names are those of the pod's hosts file."""
        names = dict(reversed(line.split(None, 1)) for line in self.hosts(pod) if len(line.split()) == 2)
        command = ['curl', '--silent', '--max-time', '3', f'http://{names.get(host, host)}:{port}/']
        return running.enter('nsenter', f'--net=/run/userpod/ns/{pod}/net', *command, check=False)

    def hosts(self, pod):
        with open(f'{os.environ["XDG_RUNTIME_DIR"]}/userpod/pods/{pod}/hosts', encoding='utf-8') as file:
            return file.read().split('\n')

    def test_a_hundred_at_once_and_a_new_node(self):
        def run(number):
            return self.pod(f'pod-{number}')
        with concurrent.futures.ThreadPoolExecutor(COUNT) as pool:
            pods = list(pool.map(run, range(COUNT)))
        first, second = set(), set()
        for pod in pods:
            network = self.pod_status(pod).network
            first.add(network.ip)
            second.add(network.additional_ips[0].ip)
        self.assertEqual((len(first), len(second)), (COUNT, COUNT))
        cri.systemctl('restart', 'userpod-node.service')
        cri.systemctl('start', 'userpod.service')
        self.connect()
        links = running.enter('ip', '-o', 'link').split('\n')
        self.assertEqual({line.split(': ')[1] for line in links if line} - {'tap0'}, {'lo', 'upbr0'})
        elements = re.findall(r'elements = (.*)', running.enter('nft', 'list', 'ruleset'))
        self.assertEqual([text for text in elements if '10.0.2.2 :' not in text], [])
        for pod in pods:
            self.assertEqual(self.pod_status(pod).state, cri.api().SANDBOX_NOTREADY)

    def test_the_host_has_a_name(self):
        address = host_address()
        if not address:
            cri.skip('this machine has no address but its loopback')
        server = Server(address)
        try:
            pod = self.pod()
            port = server.server_address[1]
            self.assertIn('10.0.2.2\thost.userpod.internal', self.hosts(pod))
            self.assertEqual(self.get(pod, 'host.userpod.internal', port).strip(), 'the host')
            self.assertEqual(self.get(pod, address, port).strip(), 'the host')
        finally:
            server.shutdown()
            server.server_close()

    def test_the_hosts_loopback_is_out_of_reach(self):
        server = Server('127.0.0.1')
        try:
            pod = self.pod()
            port = server.server_address[1]
            for host in ('10.0.2.2', '127.0.0.1', 'host.userpod.internal', '10.88.0.1'):
                self.assertEqual(self.get(pod, host, port), '', host)
        finally:
            server.shutdown()
            server.server_close()

    def test_abstract_sockets_are_out_of_reach(self):
        node = {'namespace_options': {'network': cri.api().NODE}}
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind('\0userpod-network-test')
            listener.listen()
            with open('/proc/net/unix', encoding='utf-8') as sockets:
                self.assertIn('@userpod-network-test', sockets.read())
            own = self.pod('own')
            other = self.pod('node', linux={'security_context': node})
            self.container(own, 'cat /proc/net/unix' + WAIT, 'main')
            self.container(other, 'cat /proc/net/unix' + WAIT, 'main', linux={'security_context': node})
            for pod in ('own', 'node'):
                self.wait_for_line('ready', pod=pod)
                text = '\n'.join(self.texts(pod=pod))
                self.assertIn('RefCount', text)
                self.assertNotIn('userpod-network-test', text, pod)


if __name__ == '__main__':
    running.main()
