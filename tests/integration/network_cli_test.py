#!/usr/bin/python3
"""userpodctl network and GetNetwork: networks, addresses and host ports as they are, and the way that packets take."""
import ipaddress
import json
import os
import socket
import subprocess
import unittest

import cri
import running

CTL = f'{running.PREFIX}/bin/userpodctl'
ROOT, MANAGER = '/org/userpod1', 'org.userpod1.Manager'


def free_port():
    """A TCP port that nobody has on the host's 127.0.0.1 a moment ago."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def told(shown, name):
    """The hops of a path by its name, as text."""
    return [' '.join(f'{hop["place"]}: {hop["text"]}' for hop in path['hops']) for path in shown['paths'] if path['name'] == name]


class NetworkCli(running.Running):
    def network(self, *arguments):
        return json.loads(cri.run(CTL, 'network', '--json', *arguments))

    def with_port(self, name, port, **mapping):
        return self.pod(name, port_mappings=[{'container_port': 80, 'host_port': port, 'host_ip': '127.0.0.1', **mapping}])

    def test_what_is_shown(self):
        before = self.network()
        self.assertEqual(before['stack'], 'bridge')
        self.assertEqual(before['problem'], '')
        port = free_port()
        pod = self.with_port('web', port)
        address = self.pod_status(pod).network.ip
        shown = self.network()
        self.assertIn(ipaddress.ip_address(address), ipaddress.ip_network(shown['subnets'][0]))
        self.assertEqual(shown['addresses-used'], before['addresses-used'] + 1)
        self.assertGreater(shown['addresses-all'], shown['addresses-used'])
        mine = [p for p in shown['pods'] if p['Id'] == pod]
        self.assertEqual(len(mine), 1)
        self.assertEqual(mine[0]['Addresses'][0], address)
        # The link is there, and on the bridge.
        link = json.loads(running.enter('nsenter', '-t', '1', '-n', 'ip', '-j', 'link', 'show', mine[0]['Link']))[0]
        self.assertEqual(link['master'], shown['bridge'])
        ports = [p for p in shown['ports'] if p['pod'] == mine[0]['Path']]
        self.assertEqual([(p['protocol'], p['container-port'], p['host-port'], p['listen-port'], p['host-addresses'])
                          for p in ports], [('tcp', 80, port, port, ['127.0.0.1'])])

        self.cri.StopPodSandbox(pod_sandbox_id=pod)
        after = self.network()
        self.assertNotIn(pod, json.dumps(after))
        self.assertEqual(after['addresses-used'], before['addresses-used'])

    def test_connections_are_counted(self):
        port = free_port()
        pod = self.with_port('counted', port)
        self.container(pod, 'nc -l -p 80 -e cat')

        def figures():
            shown = [p for p in self.network()['ports'] if p['host-port'] == port][0]
            return shown['connections'], shown['total']
        self.assertEqual(figures(), (0, 0))

        def echoed():
            connection = socket.socket()
            connection.settimeout(10)
            try:
                connection.connect(('127.0.0.1', port))
                connection.sendall(b'x')
                if connection.recv(1) == b'x':
                    return connection
            except ConnectionError:  # the server does not listen yet
                pass
            connection.close()
            return None
        with cri.wait_until(echoed, what='an echo from the pod'):
            open_now, total = figures()
            self.assertEqual(open_now, 1)
            self.assertGreaterEqual(total, 1)
        cri.wait_until(lambda: figures()[0] == 0, what='the end of the connection in the figures')

    def test_one_pod(self):
        port, other_port = free_port(), free_port()
        pod, other = self.with_port('one', port), self.with_port('two', other_port)
        address = self.pod_status(pod).network.ip
        shown = self.network(pod[:20])
        self.assertEqual([p['Id'] for p in shown['pods']], [pod])
        self.assertEqual([p['host-port'] for p in shown['ports']], [port])
        self.assertIn(f'pod one: eth0 {address}', told(shown, 'pod-to-outside')[0])
        self.assertIn(f'{shown["pods"][0]["Link"]}, a port of {shown["bridge"]}', told(shown, 'pod-to-outside')[0])
        self.assertIn(f'host: 127.0.0.1:{port}', told(shown, 'host-to-pod')[0])
        self.assertIn(f'eth0 {address}:80', told(shown, 'host-to-pod')[0])
        self.assertIn(f'node: 127.0.0.1:{port}', told(shown, 'node-to-pod')[0])
        text = cri.run(CTL, 'network', other[:20])
        self.assertIn(f'127.0.0.1:{other_port}', text)
        self.assertNotIn(f'127.0.0.1:{port}', text)
        self.assertNotIn('\033', text)

    def test_pod_of_the_nodes_network(self):
        pod = self.pod('of-node', linux={'security_context': {'namespace_options': {'network': 'NODE'}}})
        shown = self.network(pod)
        self.assertEqual((shown['pods'][0]['NetworkMode'], shown['pods'][0]['Link']), ('node', ''))
        self.assertNotIn('eth0', told(shown, 'pod-to-outside')[0])

    def test_for_people(self):
        text = cri.run(CTL, 'network')
        shown = self.network()
        for part in (shown['bridge'], shown['subnets'][0], shown['gateways'][0], f'{shown["addresses-used"]} of',
                     f'uplink      {shown["uplink"]}', 'host.userpod.internal', 'From a pod to the outside'):
            self.assertIn(part, text)

    def test_wrong_pods(self):
        """Exit statuses and errors as those of the other commands."""
        def failed(*arguments):
            p = subprocess.run([CTL, 'network', *arguments], capture_output=True, text=True, check=False)
            self.assertEqual(p.stdout, '')
            return p.returncode, p.stderr
        status, text = failed('f' * 64)
        self.assertEqual(status, 66)
        self.assertIn('f' * 64, text)
        status, text = failed('--json', 'f' * 64)
        self.assertEqual((status, json.loads(text)['error']), (66, 'NoSuchPod'))
        self.assertEqual(failed('one', 'two')[0], 64)
        pod = self.pod('stopped')
        self.cri.StopPodSandbox(pod_sandbox_id=pod)
        self.assertIn('is notready', failed(pod)[1])

    def test_uplink_and_host(self):
        """They say what the bus's condition and the pods' hosts file say."""
        answer = cri.bus_call(ROOT, MANAGER, 'GetNetwork', 'a{sv}', 0)[0]
        conditions = {c[0]: c[1] for c in cri.bus_get(ROOT, MANAGER, 'Conditions')}
        self.assertEqual(answer['uplink'] == 'up', conditions['Uplink'], answer)
        self.assertEqual(answer['uplink-reason'] == '', answer['uplink'] != 'down', answer)
        if answer['uplink'] == 'up':
            self.assertIn(os.path.basename(answer['uplink-program']), ('pasta', 'slirp4netns'))
        shown = self.network()
        for key, value in answer.items():
            if key != 'links':
                self.assertEqual(shown[key], value, key)

    def test_changed_settings(self):
        """What the daemon was told shows."""
        with running.settings('host-loopback = true\nnetwork = "cni"\ncni-config-dirs = ["/var/empty/none"]\n'):
            self.connect()
            shown = self.network()
            self.assertEqual((shown['stack'], shown['host-loopback']), ('cni', True))
            self.assertNotIn('bridge', shown)
            self.assertIn('/var/empty/none', shown['problem'])
            text = cri.run(CTL, 'network')
            self.assertIn('NOT READY', text)
            self.assertIn("host's 127.0.0.1", text)
        self.connect()


if __name__ == '__main__':
    running.main()
