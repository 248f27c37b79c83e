#!/usr/bin/python3
"""Pods' networks by CNI: Debian's plugins and small scripts in their place, wrong configurations, plugins that hang or
fail, the daemon killed between any two of them, the node anew: nothing is left, and Status says what is so."""
import concurrent.futures
import contextlib
import ipaddress
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request

import grpc

import cri
import running

DEBIAN = '/usr/lib/cni'
SUBNET = '10.77.0.0/24'
HOST_LOCAL = {'type': 'host-local', 'ranges': [[{'subnet': SUBNET}]], 'routes': [{'dst': '0.0.0.0/0'}]}
BRIDGE = {'type': 'bridge', 'bridge': 'cnitest0', 'isGateway': True, 'ipMasq': True, 'hairpinMode': True, 'ipam': HOST_LOCAL}
PTP = {'type': 'ptp', 'ipMasq': True, 'ipam': HOST_LOCAL}
PORTMAP = {'type': 'portmap', 'capabilities': {'portMappings': True}}
FIREWALL = {'type': 'firewall', 'backend': 'iptables'}
BANDWIDTH = {'type': 'bandwidth', 'capabilities': {'bandwidth': True}}
TUNING = {'type': 'tuning', 'sysctl': {'net.core.somaxconn': '517'}, 'mtu': 1400}
CHAIN = [BRIDGE, PORTMAP, FIREWALL, BANDWIDTH, TUNING]
SERVE = 'trap "exit 0" TERM; mkdir /www; echo hello > /www/index.html; httpd -p 80 -h /www; echo up; while :; do usleep 20000; done'
ADD_STAGES = ['cni.add.begun', *(f'cni.add.{what}:{n}' for n in range(1, len(CHAIN) + 1) for what in ('plugin', 'cached'))]
DEL_STAGES = ['cni.del', *(f'cni.del.plugin:{n}' for n in range(1, len(CHAIN) + 1)), 'cni.del.done', 'cni.deleted']
# Passes the chain's result on; what it does is the case's.
SCRIPT = '''#!/usr/bin/python3
import json, os, subprocess, sys, time
command, config = os.environ['CNI_COMMAND'], json.load(sys.stdin)
if command == 'VERSION':
    print(json.dumps({'supportedVersions': ['0.4.0', '1.0.0', '1.1.0']}))
elif command == 'ADD':
    %s
    print(json.dumps(config['prevResult']))
'''


def free_port():
    import socket
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def setUpModule():  # pylint: disable=invalid-name
    if not os.path.exists(f'{DEBIAN}/bridge'):
        cri.skip('no CNI plugins: apt install containernetworking-plugins')


def tearDownModule():  # pylint: disable=invalid-name
    """Plugins leave their bridge and iptables' chains for the next pod."""
    running.enter('sh', '-c', 'rm -rf /var/lib/cni/networks /var/lib/cni/results')
    cri.systemctl('restart', running.NODE)
    cri.systemctl('start', running.SOCKET, running.DAEMON)


class Cni(running.Running):
    TIMEOUT = 5

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix='userpod-test-cni-', dir='/var/tmp')
        self.addCleanup(shutil.rmtree, self.dir)
        for name in 'bin', 'net.d':
            os.mkdir(f'{self.dir}/{name}')
        context = running.settings(f'network = "cni"\ncni-timeout = {self.TIMEOUT}\n' + self.directories())
        context.__enter__()
        self.addCleanup(context.__exit__, None, None, None)
        super().setUp()

    def directories(self):
        return f'cni-config-dirs = ["{self.dir}/net.d"]\ncni-plugin-dirs = ["{self.dir}/bin", "{DEBIAN}"]\n'

    def configure(self, *plugins, name='pods', file='10-pods.conflist', version='1.0.0', **more):
        text = json.dumps({'name': name, 'cniVersion': version, **more, 'plugins': plugins})
        self.write(f'net.d/{file}', text)

    def write(self, name, text, mode=0o644):
        with open(f'{self.dir}/.new', 'w', encoding='utf-8') as f:
            f.write(text)
        os.chmod(f'{self.dir}/.new', mode)
        os.rename(f'{self.dir}/.new', f'{self.dir}/{name}')

    def script(self, does, name='script'):
        self.write(f'bin/{name}', SCRIPT % does, 0o755)
        return {'type': name}

    def network(self):
        return next(c for c in self.cri.Status(deadline=10).status.conditions if c.type == 'NetworkReady')

    def ready(self):
        cri.wait_until(lambda: self.network().status, timeout=2, what='a network')

    def not_ready(self, text):
        cri.wait_until(lambda: text in self.network().message, timeout=2, what=f'{text!r} in {self.network().message!r}')
        condition = self.network()
        self.assertEqual((condition.status, condition.reason), (False, 'NetworkPluginNotReady'))

    def address(self, pod):
        address = self.pod_status(pod).network.ip
        self.assertIn(ipaddress.ip_address(address), ipaddress.ip_network(SUBNET))
        return address

    def leases(self):
        names = running.enter('sh', '-c', 'ls /var/lib/cni/networks/pods 2>/dev/null; true').split('\n')
        return sorted(n for n in names if n[:1].isdigit())

    def results(self):
        return running.enter('sh', '-c', 'ls /var/lib/cni/results').split()

    def get(self, url):
        """Fetched in the node."""
        return running.enter('curl', '-sS', '--noproxy', '*', '--max-time', '3', url)

    def oracle(self, verb):
        with open(f'{cri.RUNTIME_DIR}/userpod/node/holder.json', encoding='utf-8') as f:
            pid = str(json.load(f)['pid'])
        got = subprocess.run(['/usr/bin/python3', f'{cri.ROOT}/tests/oracle', verb, '--node', pid, f'{self.dir}/oracle'],
                             capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(got.returncode, 0, got.stdout + got.stderr)

    def warm(self):
        """What the first pod of a network makes for all: bridge, chains, userpod-ports. The oracle is for what comes after."""
        self.ready()
        pod = self.pod('warm', port_mappings=[{'protocol': 'TCP', 'container_port': 80, 'host_port': free_port()}])
        self.container(pod, 'true')
        self.remove(pod)
        self.oracle('snapshot')

    def remove(self, pod):
        self.cri.StopPodSandbox(pod_sandbox_id=pod)
        self.cri.RemovePodSandbox(pod_sandbox_id=pod)
        del self.configs[pod]

    def nothing_left(self):
        self.assertEqual(list(self.cri.ListPodSandbox().items), [])
        cri.wait_until(lambda: not self.leases() and not self.results(), what='an end of leases and results')
        self.oracle('check')

    def refused(self, **fields):
        with self.assertRaises(grpc.RpcError) as refused:
            self.pod('refused', **fields)
        return refused.exception.details()

    def kill_at(self, stage):
        if stage:
            cri.systemctl('set-environment', f'USERPOD_KILL_AT={stage}')
        else:
            cri.systemctl('unset-environment', 'USERPOD_KILL_AT')
        running.restart_daemon()
        self.connect()


class Plugins(Cni):
    def test_bridge_and_ptp(self):
        for plugin in BRIDGE, PTP:
            for version in '0.3.1', '0.4.0', '1.0.0':
                with self.subTest(plugin['type'], version=version):
                    self.configure(plugin, version=version)
                    self.warm()
                    pod = self.pod()
                    self.container(pod, SERVE)
                    self.wait_for_line('up')
                    address = self.address(pod)
                    self.assertEqual(self.get(f'http://{address}/'), 'hello')
                    self.assertEqual(self.leases(), [address])
                    self.assertEqual(len(self.results()), 1)
                    self.remove(pod)
                    shutil.rmtree(f'{self.logs}/pod')
                    self.nothing_left()

    def test_a_single_plugin(self):
        self.write('net.d/10.conf', json.dumps({'name': 'pods', **PTP}))  # version 0.1.0: it says none
        self.warm()
        pod = self.pod()
        self.address(pod)
        self.remove(pod)
        self.nothing_left()

    def test_chain(self):
        self.configure(*CHAIN)
        self.warm()
        port = free_port()
        pod = self.pod(port_mappings=[{'protocol': 'TCP', 'container_port': 80, 'host_port': port}],
                       annotations={'kubernetes.io/ingress-bandwidth': '20M', 'kubernetes.io/egress-bandwidth': '10M'})
        container = self.container(pod, SERVE)
        self.wait_for_line('up')
        address = self.address(pod)
        for url in f'http://{address}/', f'http://127.0.0.1:{port}/', f'http://10.77.0.1:{port}/':
            self.assertEqual(self.get(url), 'hello', url)
        # And from the machine, by userpod's own process.
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f'http://127.0.0.1:{port}/', timeout=5) as answer:
            self.assertEqual(answer.read(), b'hello\n')
        inside = self.cri.ExecSync(container_id=container, cmd=['sh', '-c', 'cat /proc/sys/net/core/somaxconn; ip link show eth0'])
        self.assertRegex(inside.stdout.decode(), r'^517\n(.|\n)*mtu 1400')
        self.assertIn(address, running.enter('iptables', '-S', 'CNI-FORWARD'))
        rates = running.enter('tc', 'qdisc', 'show')
        self.assertIn('rate 20Mbit', rates)
        self.assertIn('rate 10Mbit', rates)
        # A pod of another daemon is one all the same.
        running.restart_daemon()
        self.connect()
        self.assertEqual(self.get(f'http://127.0.0.1:{port}/'), 'hello')
        self.remove(pod)
        self.nothing_left()

    def test_plugins_are_outside_of_the_pod(self):
        """They see the node's host name, also at ADD; sysctls are the pod's, those of eth0 too."""
        self.configure(BRIDGE, self.script(f"open('{self.dir}/name', 'w').write(os.uname().nodename)"))
        self.ready()
        pod = self.pod(hostname='inside', linux={'sysctls': {
            'net.ipv4.conf.eth0.forwarding': '1', 'kernel.shm_rmid_forced': '1', 'fs.mqueue.msg_max': '11'}})
        with open(f'{self.dir}/name', encoding='utf-8') as f:
            self.assertEqual(f.read(), running.enter('uname', '-n').strip())
        container = self.container(pod, SERVE)
        self.wait_for_line('up')
        inside = self.cri.ExecSync(container_id=container, cmd=['sh', '-c', 'cd /proc/sys; hostname; cat '
                                   'net/ipv4/conf/eth0/forwarding kernel/shm_rmid_forced fs/mqueue/msg_max'])
        self.assertEqual(inside.stdout.decode().split(), ['inside', '1', '1', '11'])

    def test_addresses_that_are_asked_for(self):
        self.configure({**BRIDGE, 'capabilities': {'ips': True, 'mac': True}})
        self.ready()
        pod = self.pod(annotations={'org.userpod.cni/ips': '10.77.0.99', 'org.userpod.cni/mac': '02:00:00:12:34:56'})
        container = self.container(pod, SERVE)
        self.assertEqual(self.address(pod), '10.77.0.99')
        link = self.cri.ExecSync(container_id=container, cmd=['cat', '/sys/class/net/eth0/address'])
        self.assertEqual(link.stdout, b'02:00:00:12:34:56\n')
        self.assertIn('org.userpod.cni/mac is "nonsense"', self.refused(annotations={'org.userpod.cni/mac': 'nonsense'}))
        self.configure(BRIDGE)
        self.ready()
        time.sleep(0.2)  # until it is read
        self.assertIn('no plugin of network pods takes it', self.refused(annotations={'org.userpod.cni/ips': '10.77.0.98'}))

    def test_twenty_at_once(self):
        self.configure(*CHAIN)
        self.warm()
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            begin = time.monotonic()
            pods = list(pool.map(lambda i: self.pod(f'pod{i}'), range(20)))
            print(f'20 pods at once: {time.monotonic() - begin:.2f} s', flush=True)
            addresses = {self.address(pod) for pod in pods}
            self.assertEqual(len(addresses), 20)
            self.assertEqual(set(self.leases()), addresses)
            list(pool.map(self.remove, pods))
        self.nothing_left()


class Wrong(Cni):
    def test_the_condition_follows_the_files(self):
        self.not_ready(f'no CNI configuration (*.conflist, *.conf, *.json) in {self.dir}/net.d')
        self.assertIn('no CNI configuration', self.refused())
        self.write('net.d/10-pods.conflist', '{\n"name": "pods",\n}')
        self.not_ready(f'{self.dir}/net.d/10-pods.conflist: is not JSON: parse error at line 3')
        self.configure({'type': 'nowhere'})
        self.not_ready(f'there is no CNI plugin "nowhere" in {self.dir}/bin, {DEBIAN}')
        self.configure(BRIDGE, version='1.1.0')
        self.not_ready('which not all its plugins speak')
        self.configure(BRIDGE)
        self.ready()
        self.address(self.pod())
        os.unlink(f'{self.dir}/net.d/10-pods.conflist')
        self.not_ready('no CNI configuration')

    def test_status_of_a_plugin(self):
        self.script('')
        self.write('bin/script', (SCRIPT % 'pass').replace("elif command == 'ADD'", f'''elif command == 'STATUS' and os.path.exists('{self.dir}/out'):
    print(json.dumps({{'code': 50, 'msg': 'its agent is not there'}})); sys.exit(1)
elif command == 'ADD\''''), 0o755)
        with open(f'{self.dir}/out', 'w', encoding='utf-8'):
            pass
        self.configure({'type': 'script'}, version='1.1.0')
        self.not_ready('CNI plugin "script" (STATUS): its agent is not there (code 50)')
        os.unlink(f'{self.dir}/out')
        cri.wait_until(lambda: self.network().status, timeout=4, what='a network again')

    def test_a_plugin_fails(self):
        self.configure(BRIDGE, PORTMAP, FIREWALL, self.script('pass'))
        self.warm()
        self.script("print('out of luck', file=sys.stderr); print(json.dumps({'code': 7, 'msg': 'no such thing', 'details': 'key x'})); sys.exit(1)")
        said = self.refused()
        self.assertIn('network pods: CNI plugin "script" (ADD): no such thing; key x (code 7); its standard error: out of luck', said)
        self.nothing_left()

    def test_a_plugin_hangs(self):
        self.configure(BRIDGE, PORTMAP, FIREWALL, self.script('pass'))
        self.warm()
        self.script("print('waiting', file=sys.stderr, flush=True); subprocess.Popen(['sleep', '4711'], start_new_session=True); time.sleep(4711)")
        begin = time.monotonic()
        said = self.refused()
        self.assertTrue(5 <= time.monotonic() - begin < 12 * (4 if cri.SLOW else 1), time.monotonic() - begin)
        self.assertIn('CNI plugin "script" (ADD)', said)
        self.assertIn('did not end in time and was killed', said)
        self.assertIn('waiting', said)
        self.assertNotIn('sleep 4711', running.enter('ps', 'ax'))
        self.nothing_left()


class Default(Cni):
    """Directories as they are without a setting."""

    def directories(self):
        return ''

    def test_the_users_own_directory(self):
        own = os.path.dirname(running.CONFIG_DIR) + '/cni'
        if os.path.exists(own):
            self.skipTest(f'{own} is somebody\'s')
        self.not_ready(f'in {own}/net.d and /etc/cni/net.d')
        self.addCleanup(shutil.rmtree, own)
        os.makedirs(f'{own}/net.d')
        self.configure(BRIDGE)
        os.rename(f'{self.dir}/net.d/10-pods.conflist', f'{own}/net.d/10-pods.conflist')
        self.ready()
        self.address(self.pod())


class Killed(Cni):
    """The daemon, by SIGKILL."""

    def setUp(self):
        super().setUp()
        self.addCleanup(cri.systemctl, 'unset-environment', 'USERPOD_KILL_AT')
        self.port = free_port()
        self.mapping = [{'protocol': 'TCP', 'container_port': 80, 'host_port': self.port}]
        self.limits = {'kubernetes.io/ingress-bandwidth': '20M', 'kubernetes.io/egress-bandwidth': '10M'}

    def test_during_add(self):
        self.configure(*CHAIN)
        self.warm()
        for stage in ADD_STAGES:
            with self.subTest(stage):
                self.kill_at(stage)
                with self.assertRaises(grpc.RpcError) as lost:
                    self.pod(stage, port_mappings=self.mapping, annotations=self.limits)
                self.assertEqual(lost.exception.code(), cri.Code.UNAVAILABLE)
                self.kill_at(None)
                self.nothing_left()
        self.address(self.pod('after', port_mappings=self.mapping))

    def test_during_del(self):
        self.configure(*CHAIN)
        self.warm()
        for stage in DEL_STAGES:
            with self.subTest(stage):
                self.kill_at(stage)
                pod = self.pod(stage, port_mappings=self.mapping, annotations=self.limits)
                self.assertEqual(cri.code_of(self.cri.StopPodSandbox, pod_sandbox_id=pod), cri.Code.UNAVAILABLE)
                self.kill_at(None)
                self.remove(pod)
                self.nothing_left()

    def test_while_a_plugin_runs(self):
        self.configure(BRIDGE, PORTMAP, FIREWALL, self.script('pass'))
        self.warm()
        self.script(f"open('{self.dir}/running', 'w'); subprocess.Popen(['sleep', '4711']); time.sleep(4711)")
        call = self.cri.future('RunPodSandbox', config={
            'metadata': {'name': 'a', 'namespace': 'test', 'uid': self.id(), 'attempt': 0}, 'linux': {},
            'log_directory': f'{self.logs}/a'})
        cri.wait_until(lambda: os.path.exists(f'{self.dir}/running'), what='the plugin')
        self.assertEqual(len(self.leases()), 1)
        os.kill(running.main_pid(), signal.SIGKILL)
        with self.assertRaises(grpc.RpcError):
            call.result()
        self.script('pass')
        running.restart_daemon()
        self.connect()
        self.assertNotIn('sleep 4711', running.enter('ps', 'ax'))
        self.nothing_left()


class Slow(Cni):
    """The default's time-out: the daemon's start and end wait for no plugin that long."""
    TIMEOUT = 60

    def test_a_del_that_hangs(self):
        self.configure(BRIDGE, self.script('pass'))
        self.warm()
        self.script(f"open('{self.dir}/running', 'w'); time.sleep(4711)\nelif command == 'DEL':\n    time.sleep(4711)\nelif command == 'CHECK':\n    pass")
        call = self.cri.future('RunPodSandbox', config={
            'metadata': {'name': 'a', 'namespace': 'test', 'uid': self.id(), 'attempt': 0}, 'linux': {},
            'log_directory': f'{self.logs}/a'})
        cri.wait_until(lambda: os.path.exists(f'{self.dir}/running'), what='the plugin')
        os.kill(running.main_pid(), signal.SIGKILL)
        with self.assertRaises(grpc.RpcError):
            call.result()
        for _ in range(2):  # the second ends a daemon in which DEL hangs
            begin = time.monotonic()
            running.restart_daemon()
            self.connect()
            self.assertEqual(list(self.cri.ListPodSandbox().items), [])
            self.assertLess(time.monotonic() - begin, 25 * (4 if cri.SLOW else 1))
        self.assertEqual(len(self.results()), 1)
        self.script('pass')
        running.restart_daemon()
        self.connect()
        cri.wait_until(lambda: not self.leases() and not self.results(), what='an end of leases and results')


class Node(Cni):
    def test_a_new_node_frees_the_leases(self):
        self.configure(*CHAIN)
        self.ready()
        pods = [self.pod(name) for name in ('a', 'b')]
        self.assertEqual(len(self.leases()), 2)
        self.assertEqual(len(self.results()), 2)
        cri.systemctl('kill', '--kill-whom=all', '-s', 'KILL', running.NODE)
        cri.wait_until(lambda: cri.systemctl('is-active', running.DAEMON, check=False) != 'active', what='the end of the daemon')
        self.connect()
        cri.wait_until(lambda: not self.leases() and not self.results(), timeout=20, what='an end of leases and results')
        for pod in pods:
            self.remove(pod)
        self.ready()
        self.address(self.pod('c'))

    def test_plugins_gone_do_not_keep_a_pod(self):
        self.configure(BRIDGE, self.script('pass'))
        self.ready()
        pod = self.pod()
        os.unlink(f'{self.dir}/bin/script')
        self.not_ready('there is no CNI plugin "script"')
        with contextlib.suppress(grpc.RpcError):
            self.cri.StopPodSandbox(pod_sandbox_id=pod)
        self.remove(pod)
        self.assertEqual(self.leases(), [])  # the other plugin's has done its part
        # Undone whole, as soon as it can be.
        self.script('pass')
        running.restart_daemon()
        self.connect()
        cri.wait_until(lambda: not self.results(), what='an end of results')


if __name__ == '__main__':
    running.main()
