#!/usr/bin/python3
"""What a container shares with the node, with the host and with nobody: namespaces by inode, capabilities, seccomp."""
import os

import cri
import running

KINDS = ('cgroup', 'ipc', 'mnt', 'net', 'pid', 'user', 'uts')
READ = 'for n in ' + ' '.join(KINDS) + '; do echo $n $(readlink /proc/self/ns/$n); done'
WAIT = READ + '; echo ready; trap "exit 0" TERM; while :; do usleep 5000; done'


def inodes(lines):
    return dict(line.split(' ', 1) for line in lines if line.split(' ', 1)[0] in KINDS)


class Isolation(running.Running):
    def setUp(self):
        super().setUp()
        self.node = inodes(running.enter('sh', '-c', READ).split('\n'))
        self.host = {kind: os.readlink(f'/proc/self/ns/{kind}') for kind in KINDS}
        for kind in KINDS:
            self.assertNotEqual(self.node[kind], self.host[kind], f'the node has the {kind} namespace of the host')

    def namespaces(self, name='main', pod='pod'):
        self.wait_for_line('ready', name=name, pod=pod)
        return inodes(self.texts(name=name, pod=pod))

    def test_host_network_is_the_nodes(self):
        node = cri.api().NODE
        options = {'network': node, 'ipc': node, 'pid': node}
        pod = self.pod(linux={'security_context': {'namespace_options': options}})
        self.container(pod, WAIT, linux={'security_context': {'namespace_options': options}})
        seen = self.namespaces()
        for kind in ('net', 'ipc', 'pid', 'uts', 'user'):
            self.assertEqual(seen[kind], self.node[kind], kind)
        for kind in KINDS:
            self.assertNotEqual(seen[kind], self.host[kind], kind)
        self.assertEqual(self.pod_status(pod).network.ip, '')

    def test_pods_have_their_own(self):
        first, second = self.pod('first'), self.pod('second')
        for pod, name in ((first, 'a'), (first, 'b'), (second, 'c')):
            self.container(pod, WAIT, name)
        a, b, c = (self.namespaces(name, pod) for name, pod in (('a', 'first'), ('b', 'first'), ('c', 'second')))
        for kind in ('net', 'ipc', 'uts', 'pid'):
            self.assertEqual(a[kind], b[kind], f'containers of one pod share {kind}')
            self.assertEqual(len({a[kind], c[kind], self.node[kind], self.host[kind]}), 4, kind)
        for kind in ('mnt', 'cgroup'):
            self.assertEqual(len({a[kind], b[kind], c[kind], self.node[kind], self.host[kind]}), 5, kind)
        self.assertEqual(len({a['user'], b['user'], c['user'], self.node['user']}), 1)

    def test_process_is_confined(self):
        pod = self.pod()
        self.container(pod, 'cat /proc/self/status; cat /proc/self/uid_map; ls /sys/fs/cgroup; '
                       'head -c 1 /proc/kcore | wc -c; ls /proc/acpi | wc -l; '
                       '(echo 1 > /proc/sys/kernel/panic) 2>/dev/null || echo refused; ls /run; echo ready; '
                       'trap "exit 0" TERM; while :; do usleep 5000; done',
                       linux={'security_context': {
                           'no_new_privs': True, 'seccomp': {'profile_type': 0},
                           'masked_paths': ['/proc/kcore', '/proc/acpi'], 'readonly_paths': ['/proc/sys'],
                           'capabilities': {'drop_capabilities': ['NET_BIND_SERVICE'], 'add_capabilities': ['NET_RAW']}}})
        self.wait_for_line('ready')
        lines = self.texts()
        status = dict(line.split(':\t', 1) for line in lines if ':\t' in line)
        self.assertEqual((status['Seccomp'], status['NoNewPrivs']), ('2', '1'))
        nine = sum(1 << bit for bit in (0, 1, 3, 4, 5, 6, 7, 8, 10))
        self.assertEqual(int(status['CapBnd'], 16), nine & ~(1 << 10) | 1 << 13)
        self.assertEqual(int(status['CapInh'], 16), 0)
        self.assertIn('refused', lines)
        self.assertEqual(lines.count('0'), 2, 'masked: an empty file and an empty directory')
        self.assertNotIn('userpod', lines)

    def test_userpods_own_directories_are_refused(self):
        pod = self.pod()
        for path in (os.path.dirname(cri.SOCKET), cri.SOCKET, '/run/userpod', os.path.dirname(os.path.dirname(cri.SOCKET))):
            with self.assertRaises(cri.grpc.RpcError, msg=path) as refused:
                self.container(pod, 'true', mounts=[{'container_path': '/x', 'host_path': path}])
            self.assertIn(path, refused.exception.details())
        self.assertEqual(len(self.cri.ListContainers().containers), 0)


if __name__ == '__main__':
    running.main()
